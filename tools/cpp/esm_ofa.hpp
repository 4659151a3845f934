// Once-for-All's arrays {"ks": [...], "e": [...], "d": [...], "r": 176}. C++17 and nlohmann/json only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "esm_option.hpp"

namespace esm::detail {

// How a space of inverted residuals is written by them. `ks` and `e` have a place for each slot of each unit, of which
// those beyond the unit's depth are left out of account.
struct OfaArrays {
    const std::vector<std::vector<int>>& depths;
    const std::vector<Option>& fixed_kernels;  // of each unit, where no block chooses one

    // The architecture by named options, whose depths and fixed kernels are right.
    Json in_full(const Json& fields) const {
        check_fields(fields);
        const bool kernels_given = fixed_kernels.empty() || fields.contains("ks");
        const Json kernels = kernels_given ? list(fields, "ks") : Json();
        const Json& expansions = list(fields, "e");
        const std::vector<int> blocks = given_depths(fields);
        Json architecture = {{"space", fields["space"]}, {"units", Json::array()}};
        for (const char* name : {"r", "image_size"}) {
            if (!fields.contains(name)) continue;
            const Json& given = fields[name];
            architecture["resolution"] = given.is_array() && given.size() == 1 ? given[0] : given;
        }
        std::size_t place = 0;
        for (std::size_t u = 0; u < depths.size(); ++u) {
            Json unit = Json::array();
            for (std::size_t j = 0; j < static_cast<std::size_t>(blocks[u]); ++j) {
                unit.push_back({{"expansion", expansions[place + j]}});
                if (fixed_kernels.empty()) unit.back()["kernel"] = kernels[place + j];
                else if (kernels_given) check_kernel(kernels[place + j], u, j);
            }
            architecture["units"].push_back(std::move(unit));
            place += static_cast<std::size_t>(depths[u].back());
        }
        return architecture;
    }

  private:
    void check_fields(const Json& fields) const {
        std::vector<std::string> known = {"ks", "e", "d", "r", "wid", "space"};
        if (!fields.contains("r")) known.push_back("image_size");
        for (const auto& [field, value] : fields.items()) {
            if (std::find(known.begin(), known.end(), field) == known.end()) {
                throw Error("unknown field " + shown(field) + " beside ks, e and d, expected some of " + joined(known));
            }
        }
        if (fields.contains("wid") && !fields["wid"].is_null()) {
            throw Error("wid is " + shown(fields["wid"]) + ", expected null: the space sets the widths");
        }
    }

    const Json& list(const Json& fields, const char* name) const {
        std::size_t places = 0;
        for (const std::vector<int>& allowed : depths) places += static_cast<std::size_t>(allowed.back());
        return list(fields, name, places);
    }

    static const Json& list(const Json& fields, const char* name, std::size_t size) {
        if (fields.contains(name) && fields[name].is_array() && fields[name].size() == size) return fields[name];
        const std::string got = fields.contains(name) ? "is " + shown(fields[name]) : "is missing";
        throw Error(std::string(name) + " " + got + ", expected a list of " + std::to_string(size));
    }

    // Of each unit; those without a choice may be left out at the end, and may be too great.
    std::vector<int> given_depths(const Json& fields) const {
        std::size_t last = depths.size();
        while (last > 0 && depths[last - 1].size() == 1) --last;
        const bool shortened = last > 0 && fields.contains("d") && fields["d"].is_array() && fields["d"].size() == last;
        const Json& given = list(fields, "d", shortened ? last : depths.size());
        std::vector<int> found;
        for (std::size_t u = 0; u < depths.size(); ++u) {
            const std::vector<int>& allowed = depths[u];
            found.push_back(u < given.size() ? depth(given[u], u) : allowed.back());
        }
        return found;
    }

    int depth(const Json& given, std::size_t u) const {
        const std::vector<int>& allowed = depths[u];
        const double value = given.is_number() ? given.get<double>() : 0;
        if (allowed.size() == 1 && value >= allowed[0] && value == std::floor(value)) return allowed[0];
        const auto found = std::find_if(allowed.begin(), allowed.end(), [value](int depth) { return value == depth; });
        if (found != allowed.end()) return *found;
        throw Error("d has " + shown(given) + " for unit " + std::to_string(u + 1) + ", expected one of " +
                    shown(allowed));
    }

    void check_kernel(const Json& given, std::size_t u, std::size_t j) const {
        const auto option = Option::read(given);
        if (option && option->key == fixed_kernels[u].key) return;
        throw Error("ks has " + shown(given) + " for " + block_place(u, j) + ", expected " + fixed_kernels[u].text() +
                    ": the space fixes the kernel");
    }
};

}  // namespace esm::detail
