// The space of a predictor.onnx: units, depths, features and options, and genomes of it. C++17 and nlohmann/json only.
//
// A genome is one flat row of integers: network features, then unit by unit, slot by slot up to the greatest depth,
// feature by feature; each number is the index of the option, from 0, and -1 where the block is absent.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "esm_ofa.hpp"
#include "esm_option.hpp"

namespace esm {

constexpr std::int64_t absent = -1;

// A row, and the fingerprint of the space that it was built for.
struct Genome {
    std::string fingerprint;
    std::vector<std::int64_t> row;
};

class Space {
  public:
    std::string name;
    std::string fingerprint;               // differs where a genome would mean something else
    std::vector<std::vector<int>> depths;  // for each unit the allowed numbers of blocks, ascending
    std::vector<Feature> block;            // what each block chooses for itself
    std::vector<Feature> unit;             // what all blocks of a unit share; stands in each block and must agree
    std::vector<Coupled> coupled;          // what they share besides, as the unit's depth decides it
    std::vector<Feature> network;          // what the whole network chooses
    std::vector<Feature> features;         // all in a block, in the genome's order: `block`, then `unit`, `coupled`
    std::vector<std::string> columns;      // a name for each place of the genome: resolution, u1b1.kernel, ...

    // Of the metadata of a predictor.onnx: its `space` table, `fingerprint` and `genome` columns.
    explicit Space(const Json& metadata) {
        const Json& table = metadata.at("space");
        name = table.at("name").get<std::string>();
        fingerprint = metadata.at("fingerprint").get<std::string>();
        depths = table.at("depth").get<std::vector<std::vector<int>>>();
        block = Feature::read(table, "block");
        unit = Feature::read(table, "unit");
        network = Feature::read(table, "network");
        features = block;
        features.insert(features.end(), unit.begin(), unit.end());
        coupled = Coupled::read(table, depths);
        features.insert(features.end(), coupled.begin(), coupled.end());
        check_table(table.at("units").get<std::size_t>());
        fixed_kernels_ = read_fixed_kernels(table);
        for (const Feature& feature : network) columns.push_back(feature.name);
        for (std::size_t u = 0; u < depths.size(); ++u) {
            starts_.push_back(columns.size());
            for (int j = 1; j <= slots(u); ++j) {
                const std::string place = "u" + std::to_string(u + 1) + "b" + std::to_string(j) + ".";
                for (const Feature& feature : features) columns.push_back(place + feature.name);
            }
        }
        if (Json(columns) != metadata.at("genome")) throw Error("genome has columns of another space than `space`");
    }

    std::size_t length() const { return columns.size(); }
    std::size_t units() const { return depths.size(); }

    // Greatest depth of a unit, counted from 0 as everywhere but in messages and columns.
    int slots(std::size_t unit_index) const { return depths[unit_index].back(); }

    // Where the first feature of a block stands in the genome.
    std::size_t place(std::size_t unit_index, std::size_t block_index) const {
        return starts_[unit_index] + block_index * features.size();
    }

    // Number of blocks of a unit in a valid row.
    int depth(const std::int64_t* row, std::size_t unit_index) const {
        int blocks = 0;
        while (blocks < slots(unit_index) && row[place(unit_index, blocks)] != absent) ++blocks;
        return blocks;
    }

    // Writes the coupled options of a unit of that depth to their places in one of its blocks.
    void couple(std::int64_t* slot, int depth) const {
        slot += block.size() + unit.size();
        for (const Coupled& feature : coupled) *slot++ = feature.index_at(depth);
    }

    // The genome of an architecture by named options:
    // {"space": "resnet", "units": [[{"kernel": 3, "expansion": "1/2"}, ...], ...]}, network options beside `units`;
    // what the depth of a unit decides may be left out;
    // or, for a space that it fits, of Once-for-All's {"ks": [...], "e": [...], "d": [...], "r": 176}.
    Genome genome(const Json& architecture) const {
        if (!architecture.is_object()) {
            throw Error("an architecture is " + detail::shown(architecture) + ", expected a JSON object");
        }
        const bool lists = architecture.contains("ks") || architecture.contains("e") || architecture.contains("d");
        if (lists && !architecture.contains("units") && has_ofa_layout()) {
            Json fields = architecture;
            if (!fields.contains("space")) fields["space"] = name;
            return genome(detail::OfaArrays{depths, fixed_kernels_}.in_full(fields));
        }
        for (const char* field : {"space", "units"}) {
            if (!architecture.contains(field)) {
                throw Error(std::string("an architecture without the field '") + field + "', expected {\"space\": \"" +
                            name + "\", \"units\": [[{...}, ...], ...]}");
            }
        }
        if (architecture["space"] != name) {
            throw Error("space is " + detail::shown(architecture["space"]) + ", expected \"" + name + "\"");
        }
        Genome genome{fingerprint, std::vector<std::int64_t>(length(), absent)};
        Json rest = architecture;
        rest.erase("space");
        rest.erase("units");
        read_options(network, rest, "network", genome.row.data());
        read_units(architecture["units"], genome.row.data());
        check(genome);
        return genome;
    }

    // The genome of Once-for-All's arrays: `ks` and `e` have a place for each slot of each unit, of which those beyond
    // the unit's depth in `d` are left out of account; `r` is the resolution, where the space has one. `ks` may be
    // empty where the space fixes the kernels.
    Genome ofa(const std::vector<double>& ks, const std::vector<double>& e, const std::vector<int>& d,
               std::optional<int> r = std::nullopt) const {
        if (!has_ofa_layout()) {
            throw Error("space " + name + ": Once-for-All's arrays say not all that an architecture of it is");
        }
        Json fields = {{"e", e}, {"d", d}};
        if (!ks.empty() || fixed_kernels_.empty()) fields["ks"] = ks;
        if (r) fields["r"] = *r;
        return genome(fields);
    }

    // The architecture by named options, as `esm-onnx` reads and writes it.
    Json to_json(const Genome& genome) const {
        check(genome);
        Json architecture = {{"space", name}};
        const std::int64_t* row = genome.row.data();
        for (std::size_t f = 0; f < network.size(); ++f) architecture[network[f].name] = plain(network[f], row[f]);
        architecture["units"] = Json::array();
        for (std::size_t u = 0; u < units(); ++u) {
            Json blocks = Json::array();
            for (int j = 0; j < depth(row, u); ++j) {
                Json options = Json::object();
                for (std::size_t f = 0; f < features.size(); ++f) {
                    options[features[f].name] = plain(features[f], row[place(u, j) + f]);
                }
                blocks.push_back(std::move(options));
            }
            architecture["units"].push_back(std::move(blocks));
        }
        return architecture;
    }

    // Throws where the genome is of another space or is none: the message names the field.
    void check(const Genome& genome) const {
        if (genome.fingerprint != fingerprint) {
            throw Error("fingerprint is " + genome.fingerprint + ", expected " + fingerprint + " of space " + name);
        }
        check(genome.row.data(), genome.row.size());
    }

    void check(const std::int64_t* row, std::size_t size) const {
        if (size != length()) {
            throw Error("a genome of " + std::to_string(size) + " integers, expected " + std::to_string(length()) +
                        " for space " + name);
        }
        check_range(network, row, "network");
        for (std::size_t u = 0; u < units(); ++u) check_unit(row, u);
    }

  private:
    std::vector<std::size_t> starts_;   // of each unit in the genome
    std::vector<Option> fixed_kernels_;  // of each unit, where no block chooses one

    // Of the settings for export, which say it where blocks do not.
    std::vector<Option> read_fixed_kernels(const Json& table) const {
        std::vector<Option> fixed;
        const Json kernels = table.value("export", Json::object()).value("kernels", Json::array());
        if (has("kernel") || !kernels.is_array() || kernels.size() != units()) return fixed;
        for (const Json& kernel : kernels) fixed.push_back(Option::read("kernels", kernel));
        return fixed;
    }

    bool has(const std::string& feature_name) const {
        return std::any_of(features.begin(), features.end(),
                           [&](const Feature& feature) { return feature.name == feature_name; });
    }

    void check_table(std::size_t stated_units) const {
        constexpr int greatest_depth = 1000;
        int slots_in_all = 0;
        for (const std::vector<int>& allowed : depths) {
            if (allowed.empty() || allowed.front() < 1 || !std::is_sorted(allowed.begin(), allowed.end()) ||
                allowed.back() > greatest_depth - slots_in_all) {
                throw Error("depth is " + detail::shown(depths) + ", expected ascending numbers of blocks a unit");
            }
            slots_in_all += allowed.back();
        }
        if (depths.empty() || depths.size() != stated_units) {
            throw Error("depth has " + std::to_string(depths.size()) + " lists, expected one for each of the " +
                        std::to_string(stated_units) + " units");
        }
        if (features.empty()) throw Error("none of block, unit and coupled has a feature, expected at least one");
    }

    static const Json& plain(const Feature& feature, std::int64_t index) {
        return feature.options[static_cast<std::size_t>(index)].plain;
    }

    static void read_options(const std::vector<Feature>& features, const Json& fields, const std::string& place,
                             std::int64_t* indices) {
        if (!fields.is_object()) throw Error(place + " is " + detail::shown(fields) + ", expected a JSON object");
        std::vector<std::string> names;
        for (const Feature& feature : features) names.push_back(feature.name);
        for (const auto& [name, value] : fields.items()) {
            if (std::find(names.begin(), names.end(), name) == names.end()) {
                throw Error(place + ": unknown feature " + detail::shown(name) + ", expected " +
                            (names.empty() ? "none" : detail::joined(names)));
            }
        }
        for (const Feature& feature : features) {
            if (!fields.contains(feature.name)) {
                throw Error(place + ": no '" + feature.name + "', expected one of " + feature.listed());
            }
            *indices++ = feature.index(fields[feature.name], place);
        }
    }

    void read_units(const Json& given, std::int64_t* row) const {
        if (!given.is_array() || given.size() != units()) {
            throw Error("units is " + detail::shown(given) + ", expected a list of " + std::to_string(units()) +
                        " lists of blocks");
        }
        for (std::size_t u = 0; u < units(); ++u) {
            if (!given[u].is_array()) {
                throw Error("unit " + std::to_string(u + 1) + " is " + detail::shown(given[u]) +
                            ", expected a list of blocks");
            }
            check_depth(u, given[u].size());
            for (std::size_t j = 0; j < given[u].size(); ++j) {
                const Json options = with_coupled(given[u][j], static_cast<int>(given[u].size()));
                read_options(features, options, detail::block_place(u, j), row + place(u, j));
            }
        }
    }

    // The options of a block in a unit of that depth, with those that it may leave out.
    Json with_coupled(const Json& given, int depth) const {
        Json options = given;
        if (!given.is_object()) return options;
        for (const Coupled& feature : coupled) {
            if (!given.contains(feature.name)) options[feature.name] = plain(feature, feature.index_at(depth));
        }
        return options;
    }

    void check_depth(std::size_t u, std::size_t blocks) const {
        if (std::find(depths[u].begin(), depths[u].end(), static_cast<int>(blocks)) != depths[u].end()) return;
        std::vector<std::string> allowed;
        for (const int depth : depths[u]) allowed.push_back(std::to_string(depth));
        throw Error("unit " + std::to_string(u + 1) + " has " + std::to_string(blocks) + " blocks, expected one of " +
                    detail::joined(allowed));
    }

    static void check_range(const std::vector<Feature>& features, const std::int64_t* indices,
                            const std::string& place) {
        for (const Feature& feature : features) {
            const std::int64_t index = *indices++;
            if (index < 0 || index >= feature.count()) {
                throw Error(place + ": " + feature.name + " has index " + std::to_string(index) + ", expected 0 to " +
                            std::to_string(feature.count() - 1));
            }
        }
    }

    void check_unit(const std::int64_t* row, std::size_t u) const {
        std::size_t blocks = 0;
        for (std::size_t j = 0; j < static_cast<std::size_t>(slots(u)); ++j) {
            const std::int64_t* slot = row + place(u, j);
            if (std::all_of(slot, slot + features.size(), [](std::int64_t value) { return value == absent; })) continue;
            if (blocks < j) throw Error(detail::block_place(u, j) + ": a block after an absent one");
            check_range(features, slot, detail::block_place(u, j));
            const std::int64_t* first = row + place(u, 0);
            for (std::size_t f = block.size(); f < block.size() + unit.size(); ++f) {
                if (slot[f] != first[f]) {
                    throw Error(detail::block_place(u, j) + ": " + features[f].name + " is " +
                                detail::shown(plain(features[f], slot[f])) + ", expected " +
                                detail::shown(plain(features[f], first[f])) +
                                " as in block 1: all blocks of a unit share it");
                }
            }
            ++blocks;
        }
        check_depth(u, blocks);
        for (std::size_t j = 0; j < blocks; ++j) check_coupled(row, u, j, static_cast<int>(blocks));
    }

    void check_coupled(const std::int64_t* row, std::size_t u, std::size_t j, int depth) const {
        const std::int64_t* index = row + place(u, j) + block.size() + unit.size();
        for (const Coupled& feature : coupled) {
            if (*index != feature.index_at(depth)) {
                throw Error(detail::block_place(u, j) + ": " + feature.name + " is " +
                            detail::shown(plain(feature, *index)) + ", expected " +
                            detail::shown(plain(feature, feature.index_at(depth))) + " in a unit of " +
                            std::to_string(depth) + " blocks: its depth decides it");
            }
            ++index;
        }
    }

    bool has_ofa_layout() const {
        std::set<std::string> names;
        for (const Feature& feature : features) names.insert(feature.name);
        if (!fixed_kernels_.empty()) names.insert("kernel");
        return names == std::set<std::string>{"kernel", "expansion"} &&
               (network.empty() || (network.size() == 1 && network[0].name == "resolution"));
    }
};

}  // namespace esm
