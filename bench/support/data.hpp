// Data of one layer: activations as LLMs have them (a few outlier channels), weights roughly
// normal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "rrs/core/view.hpp"

namespace rrs_bench {

// SplitMix64, for speed one 64-bit draw per value.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    state_ += 0x9e3779b97f4a7c15ull;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  // Roughly normal, variance 1: four 16-bit uniforms of one draw.
  float normal() {
    const std::uint64_t b = bits();
    const auto sum = static_cast<float>((b & 0xffffu) + ((b >> 16) & 0xffffu) +
                                        ((b >> 32) & 0xffffu) + (b >> 48));
    return (sum - 131070.0f) * (1.7320508f / 65536.0f);
  }

 private:
  std::uint64_t state_;
};

inline std::vector<float> normal_vector(std::int64_t count, float deviation, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> v(static_cast<std::size_t>(count));
  for (float& x : v) x = random.normal() * deviation;
  return v;
}

// X [m,k]: every 37th channel is 20 times larger.
inline std::vector<float> outlier_activations(std::int64_t m, std::int64_t k, std::uint64_t seed) {
  std::vector<float> x = normal_vector(m * k, 1.0f, seed);
  for (std::int64_t t = 0; t < m; ++t) {
    for (std::int64_t c = 5; c < k; c += 37) x[static_cast<std::size_t>(t * k + c)] *= 20.0f;
  }
  return x;
}

struct Shape {
  std::int64_t k = 0;
  std::int64_t n = 0;
};

// Float weight of a shape; every method prepares its own from it.
struct FloatWeight {
  Shape shape;
  std::vector<float> values;

  explicit FloatWeight(Shape s) : shape(s), values(normal_vector(s.n * s.k, 0.02f, 1)) {}
  rrs::MatrixView<const float> view() const { return {values.data(), shape.n, shape.k}; }
};

}  // namespace rrs_bench
