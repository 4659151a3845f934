// SHA-256 (FIPS 180-4), and the digest that a predictor.onnx carries of itself.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "esm_option.hpp"

namespace esm {
namespace detail {

inline std::uint32_t rotated(std::uint32_t word, int bits) { return (word >> bits) | (word << (32 - bits)); }

inline void sha256_block(const unsigned char* block, std::array<std::uint32_t, 8>& state) {
    static constexpr std::uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    std::uint32_t w[64];
    for (int t = 0; t < 16; ++t) {
        w[t] = std::uint32_t{block[4 * t]} << 24 | std::uint32_t{block[4 * t + 1]} << 16 |
               std::uint32_t{block[4 * t + 2]} << 8 | std::uint32_t{block[4 * t + 3]};
    }
    for (int t = 16; t < 64; ++t) {
        const std::uint32_t s0 = rotated(w[t - 15], 7) ^ rotated(w[t - 15], 18) ^ (w[t - 15] >> 3);
        const std::uint32_t s1 = rotated(w[t - 2], 17) ^ rotated(w[t - 2], 19) ^ (w[t - 2] >> 10);
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (int t = 0; t < 64; ++t) {
        const std::uint32_t s1 = rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25);
        const std::uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + k[t] + w[t];
        const std::uint32_t s0 = rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22);
        const std::uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const std::array<std::uint32_t, 8> changed = {a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < state.size(); ++i) state[i] += changed[i];
}

}  // namespace detail

// 64 lower-case hexadecimal digits.
inline std::string sha256(std::string content) {
    std::array<std::uint32_t, 8> state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                          0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const std::uint64_t bits = std::uint64_t{content.size()} * 8;
    content += '\x80';
    content.resize((content.size() + 8 + 63) / 64 * 64, '\0');
    for (std::size_t i = 0; i < 8; ++i) content[content.size() - 1 - i] = static_cast<char>(bits >> 8 * i);
    for (std::size_t at = 0; at < content.size(); at += 64) {
        detail::sha256_block(reinterpret_cast<const unsigned char*>(content.data()) + at, state);
    }
    std::string digits;
    for (const std::uint32_t word : state) {
        for (int shift = 28; shift >= 0; shift -= 4) digits += "0123456789abcdef"[word >> shift & 15];
    }
    return digits;
}

// Makes sure that no bit of a predictor.onnx changed: the digest in its metadata is that of the whole file with the
// digest's own 64 digits as zeros. It is found by the bytes that any writer of ONNX puts before it (the key, then tag
// and length of the value), before a parser sees the file.
inline void check_digest(std::string content) {
    static constexpr std::size_t digits = 64;
    const std::string field = "esm_onnx_sha256", before = field + "\x12\x40";
    std::size_t start = content.find(before);
    const bool once = start != std::string::npos && content.find(before, start + 1) == std::string::npos;
    start += before.size();
    if (!once || content.find_first_not_of("0123456789abcdef", start) < start + digits ||
        content.size() < start + digits) {
        throw Error("not one " + field +
                    " in it, expected a predictor.onnx of schema 2: get it again, or train it anew");
    }
    const std::string stated = content.substr(start, digits);
    const std::string actual = sha256(content.replace(start, digits, digits, '0'));
    if (stated != actual) {
        throw Error(field + " is " + stated + ", expected " + actual +
                    ": it changed after it was written, get it again");
    }
}

}  // namespace esm
