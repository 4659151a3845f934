// Options and features of a space, and the JSON that they come from. C++17 and nlohmann/json only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace esm {

// Ordered, because the order of the features in a space is their order in the genome.
using Json = nlohmann::ordered_json;

// The message names the field, its value and what was expected.
class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

namespace detail {

constexpr int most_nested = 64;
constexpr std::int64_t greatest_number = std::int64_t{1} << 53;  // beyond it a double confuses neighbouring integers

inline std::string shown(const Json& value) {
    const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
    return text.size() <= 80 ? text : text.substr(0, 77) + "...";
}

inline std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
    return text;
}

inline std::string block_place(std::size_t unit, std::size_t block) {
    return "unit " + std::to_string(unit + 1) + ", block " + std::to_string(block + 1);
}

inline bool is_digits(const std::string& text) {
    return !text.empty() && text.size() <= 9 && text.find_first_not_of("0123456789") == std::string::npos;
}

// "-2/3" as numerator and denominator in lowest terms; nothing for any other text.
inline std::optional<std::pair<std::int64_t, std::int64_t>> fraction(const std::string& text) {
    const std::size_t bar = text.find('/');
    if (bar == std::string::npos) return std::nullopt;
    const bool negative = text[0] == '-';
    const std::string above = text.substr(negative, bar - negative);
    std::string below = text.substr(bar + 1);
    below.erase(0, below.find_first_not_of('0'));
    if (!is_digits(above) || !is_digits(below)) return std::nullopt;
    const std::int64_t n = std::stoll(above), d = std::stoll(below), shared = std::gcd(n, d);
    return std::make_pair((negative ? -n : n) / shared, d / shared);
}

}  // namespace detail

// JSON from outside. A key that stands twice in an object would hide one of its values, so it is refused.
inline Json parse_json(const std::string& text) {
    std::vector<std::set<std::string>> open;
    const auto watch = [&open](int depth, Json::parse_event_t event, Json& value) {
        if (depth > detail::most_nested) throw Error("JSON nested too deeply");
        if (event == Json::parse_event_t::object_start) open.emplace_back();
        if (event == Json::parse_event_t::object_end) open.pop_back();
        if (event == Json::parse_event_t::key && !open.back().insert(value.get<std::string>()).second) {
            throw Error("the key " + detail::shown(value) + " stands twice in one object, expected it once");
        }
        return true;
    };
    try {
        return Json::parse(text, watch);
    } catch (const Json::parse_error& error) {
        throw Error(std::string("not JSON: ") + error.what());
    }
}

// One allowed value of a feature.
struct Option {
    Json plain;       // as JSON holds it: a number, a fraction like "2/3", or a name
    double number;    // its value; NaN for a name
    std::string key;  // the same for equal options: 3 and 3.0, "1/2" and 0.5

    // Nothing where the value is neither number, fraction nor text.
    static std::optional<Option> read(const Json& value) {
        if (value.is_string()) {
            const std::string text = value.get<std::string>();
            const auto ratio = detail::fraction(text);
            if (!ratio) return Option{value, std::numeric_limits<double>::quiet_NaN(), "'" + text};
            const auto [above, below] = *ratio;
            const double quotient = static_cast<double>(above) / static_cast<double>(below);
            if ((below & (below - 1)) == 0) return Option{value, quotient, key_of(quotient)};  // a double is exact
            return Option{value, quotient, std::to_string(above) + "/" + std::to_string(below)};
        }
        if (!value.is_number()) return std::nullopt;
        const double number = value.get<double>();
        if (!(std::abs(number) <= static_cast<double>(detail::greatest_number))) return std::nullopt;
        const auto whole = static_cast<std::int64_t>(number);
        if (value.is_number_integer() && value.get<std::int64_t>() != whole) return std::nullopt;  // it was rounded
        return Option{value, number, key_of(number)};
    }

    static Option read(const std::string& name, const Json& value) {
        if (auto option = read(value)) return *std::move(option);
        throw Error(name + " has " + detail::shown(value) + ", expected a number or a text");
    }

    std::string text() const { return plain.is_string() ? plain.get<std::string>() : plain.dump(); }

  private:
    static std::string key_of(double number) {
        char digits[32];
        std::snprintf(digits, sizeof digits, "%.17g", number + 0.0);  // + 0.0: -0 is 0
        return digits;
    }
};

// What a block, a unit or the network may vary.
struct Feature {
    std::string name;
    std::vector<Option> options;

    std::int64_t count() const { return static_cast<std::int64_t>(options.size()); }

    // The place of an option among the allowed ones; `place` is where the value stood, for the message.
    std::int64_t index(const Json& value, const std::string& place) const {
        if (const auto option = Option::read(value)) {
            for (std::size_t i = 0; i < options.size(); ++i) {
                if (options[i].key == option->key) return static_cast<std::int64_t>(i);
            }
        }
        throw Error(place + ": " + name + " is " + detail::shown(value) + ", expected one of " + listed());
    }

    std::string listed() const {
        std::vector<std::string> texts;
        for (const Option& option : options) texts.push_back(option.text());
        return detail::joined(texts);
    }

    // Those in one part of a space's table.
    static std::vector<Feature> read(const Json& table, const char* part) {
        std::vector<Feature> features;
        if (!table.contains(part)) return features;
        for (const auto& [name, values] : table[part].items()) {
            Feature feature{name, {}};
            for (const Json& value : values) feature.options.push_back(Option::read(name, value));
            if (feature.options.empty()) throw Error(name + " has no option, expected at least one");
            features.push_back(std::move(feature));
        }
        return features;
    }
};

// A feature that all blocks of a unit share, and that the unit's depth decides.
struct Coupled : Feature {
    std::map<int, std::int64_t> places;  // for each depth the place in `options` of what it has

    std::int64_t index_at(int depth) const { return places.at(depth); }

    // Those of a space's table, which has units of these depths: an option for each depth.
    static std::vector<Coupled> read(const Json& table, const std::vector<std::vector<int>>& depths) {
        std::vector<Coupled> features;
        if (!table.contains("coupled")) return features;
        std::set<int> allowed;
        for (const std::vector<int>& of_unit : depths) allowed.insert(of_unit.begin(), of_unit.end());
        for (const auto& [name, by_depth] : table["coupled"].items()) {
            Coupled feature{{name, {}}, {}};
            for (const int depth : allowed) {
                const std::string key = std::to_string(depth);
                if (!by_depth.contains(key)) throw Error(name + " has no option for depth " + key + ", expected one");
                feature.add(depth, Option::read(name, by_depth[key]));
            }
            features.push_back(std::move(feature));
        }
        return features;
    }

  private:
    // Options stand in the order of the depths, each once.
    void add(int depth, Option option) {
        const auto same = [&option](const Option& other) { return other.key == option.key; };
        const auto found = std::find_if(options.begin(), options.end(), same);
        places[depth] = found - options.begin();
        if (found == options.end()) options.push_back(std::move(option));
    }
};

}  // namespace esm
