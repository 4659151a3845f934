// What a search does to genomes: drawing, mutating and crossing rows, each of which stays a genome of the space.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "esm_space.hpp"

namespace esm {

class Variation {
  public:
    // The space must outlive it. The same seed gives the same rows on every machine.
    Variation(const Space& space, std::uint64_t seed)
        : space_(space),
          free_(space.block.size() + space.unit.size()),
          shared_(space.features.size()),
          random_(seed) {}

    // From 0 to below `count`. The standard's distributions differ from one library to the next, engines do not.
    std::size_t below(std::size_t count) {
        return static_cast<std::size_t>(unit_interval() * static_cast<double>(count));
    }
    double unit_interval() { return static_cast<double>(random_() >> 11) * 0x1p-53; }

    // Any architecture: first the depth of each unit, then the options.
    void draw(std::int64_t* row) {
        draw_options(space_.network, row);
        for (std::size_t u = 0; u < space_.units(); ++u) {
            draw_shared();
            resize(row, u, 0, drawn_depth(u));
        }
    }

    // Draws anew, each with the probability `rate`: the options of the network and of each block, and for each unit its
    // depth (blocks are added or left out at its end) and the options that its blocks share. What the depth decides
    // follows it.
    void mutate(std::int64_t* row, double rate) {
        for (std::size_t f = 0; f < space_.network.size(); ++f) redraw(space_.network[f], row[f], rate);
        for (std::size_t u = 0; u < space_.units(); ++u) {
            const int depth = space_.depth(row, u);
            for (int j = 0; j < depth; ++j) {
                for (std::size_t f = 0; f < space_.block.size(); ++f) {
                    redraw(space_.block[f], row[space_.place(u, j) + f], rate);
                }
            }
            std::copy_n(row + space_.place(u, 0), shared_.size(), shared_.begin());
            for (std::size_t f = space_.block.size(); f < free_; ++f) {
                redraw(space_.features[f], shared_[f], rate);
                for (int j = 0; j < depth; ++j) row[space_.place(u, j) + f] = shared_[f];
            }
            if (unit_interval() < rate) resize(row, u, depth, drawn_depth(u));
        }
    }

    // A row that has each option of the network, and each whole unit, from either parent.
    void cross(const std::int64_t* mother, const std::int64_t* father, std::int64_t* row) {
        for (std::size_t f = 0; f < space_.network.size(); ++f) row[f] = (below(2) == 0 ? mother : father)[f];
        for (std::size_t u = 0; u < space_.units(); ++u) {
            const std::int64_t* parent = below(2) == 0 ? mother : father;
            const std::size_t start = space_.place(u, 0), size = space_.place(u, space_.slots(u)) - start;
            std::copy_n(parent + start, size, row + start);
        }
    }

  private:
    const Space& space_;
    std::size_t free_;                  // features of a block that no depth decides; they come first
    std::vector<std::int64_t> shared_;  // the options of a whole unit, at their places in a block
    std::mt19937_64 random_;

    std::int64_t drawn(const Feature& feature) { return static_cast<std::int64_t>(below(feature.options.size())); }

    int drawn_depth(std::size_t u) { return space_.depths[u][below(space_.depths[u].size())]; }

    void redraw(const Feature& feature, std::int64_t& index, double rate) {
        if (unit_interval() < rate) index = drawn(feature);
    }

    void draw_options(const std::vector<Feature>& features, std::int64_t* indices) {
        for (const Feature& feature : features) *indices++ = drawn(feature);
    }

    void draw_shared() {
        for (std::size_t f = 0; f < free_; ++f) shared_[f] = drawn(space_.features[f]);
    }

    // Gives a unit `depth` blocks: those from the `kept`th on are new, with the options of `shared_`.
    void resize(std::int64_t* row, std::size_t u, int kept, int depth) {
        for (int j = kept; j < depth; ++j) {
            std::int64_t* slot = row + space_.place(u, j);
            std::copy(shared_.begin(), shared_.end(), slot);
            draw_options(space_.block, slot);
        }
        for (int j = 0; j < depth; ++j) space_.couple(row + space_.place(u, j), depth);
        std::fill(row + space_.place(u, depth), row + space_.place(u, space_.slots(u)), absent);
    }
};

}  // namespace esm
