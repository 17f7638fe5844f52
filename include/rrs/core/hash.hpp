// hash_bytes: a 64-bit checksum of memory, 32 bytes per step in four independent lanes.
//
// Every step is a bijection of the running state, so a change confined to one 8-byte word always
// changes the result; other damage goes unnoticed with probability about 2^-64. Not cryptographic.
// Depends on byte order (as the data do) and on nothing else: no ISA, no alignment.
// from: pipeline/weight_file.hpp (checksum), weight_view.hpp (fingerprint of LayerChannels).
// Cost: 16 to 17 GB/s from L2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"

RRS_FUNCTIONS_BEGIN

namespace detail {

RRS_FORCE_INLINE std::uint64_t hash_step(std::uint64_t state, std::uint64_t word) noexcept {
  state = (state ^ word) * 0x9e3779b97f4a7c15ull;
  return state ^ (state >> 32);
}

}  // namespace detail

// Hash of `size` bytes; `seed` chains several ranges: hash_bytes(b, nb, hash_bytes(a, na)).
inline std::uint64_t hash_bytes(const void* data, std::size_t size,
                                std::uint64_t seed = 0) noexcept {
  const auto* bytes = static_cast<const unsigned char*>(data);
  // Four variables: g++ keeps an array of them in memory, a third of the speed.
  std::uint64_t a = seed ^ 0xcbf29ce484222325ull;
  std::uint64_t b = 0x100000001b3ull;
  std::uint64_t c = 0xc2b2ae3d27d4eb4full;
  std::uint64_t d = 0x165667b19e3779f9ull;
  std::size_t at = 0;
  for (; at + 32 <= size; at += 32) {
    std::uint64_t word[4];
    std::memcpy(word, bytes + at, sizeof word);
    a = detail::hash_step(a, word[0]);
    b = detail::hash_step(b, word[1]);
    c = detail::hash_step(c, word[2]);
    d = detail::hash_step(d, word[3]);
  }
  for (; at < size; at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes + at, size - at < 8 ? size - at : 8);
    a = detail::hash_step(a, word);
  }
  const std::uint64_t h = detail::hash_step(a, static_cast<std::uint64_t>(size));
  return detail::hash_step(detail::hash_step(detail::hash_step(h, b), c), d);
}

RRS_FUNCTIONS_END
