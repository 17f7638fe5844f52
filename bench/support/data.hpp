// Data of one layer: activations as LLMs have them (a few outlier channels), weights roughly
// normal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "rrs/core/view.hpp"
#include "support/random.hpp"  // of the tests

namespace rrs_bench {

inline std::vector<float> normal_vector(std::int64_t count, float deviation, std::uint64_t seed) {
  rrs_test::Random random(seed);
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
