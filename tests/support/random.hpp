// Seeded test data: small, fast, the same on every machine (no std:: distributions).
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace rrs_test {

// SplitMix64.
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
  // Uniform in [low, high].
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(high - low + 1));
  }
  // Uniform in [-1, 1), 24 bits.
  float uniform() { return static_cast<float>(bits() >> 40) * 0x1p-23f - 1.0f; }
  // Roughly normal: sum of four uniforms, variance 1.
  float normal() { return (uniform() + uniform() + uniform() + uniform()) * 0.8660254f; }

 private:
  std::uint64_t state_;
};

inline std::vector<float> normal_vector(std::int64_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> v(static_cast<std::size_t>(count));
  for (float& x : v) x = random.normal();
  return v;
}

// Activations as LLMs have them: a few channels 20 times larger, and row `spike` 500 times larger
// in three channels (none when spike < 0).
inline std::vector<float> llm_activations(std::int64_t m, std::int64_t k, std::int64_t spike,
                                          std::uint64_t seed) {
  std::vector<float> x = normal_vector(m * k, seed);
  for (std::int64_t t = 0; t < m; ++t) {
    for (std::int64_t c = 0; c < k; ++c) {
      float& value = x[static_cast<std::size_t>(t * k + c)];
      if (c % 37 == 5) value *= 20.0f;
      if (t == spike && c % 101 == 3) value *= 500.0f;
    }
  }
  return x;
}

}  // namespace rrs_test
