#pragma once
// Rotary position embedding: pair i of a head turns by position / (base^(2i / size) * divisors[i]).
//
// Angles in double, rounded once; the table grows with the positions used. Both pair orders
// (model_config.hpp). From: q and k after their norm; to: attention and the KV cache.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model_config.hpp"

namespace rrs_llm {

class Rope {
 public:
  explicit Rope(const ModelConfig& config);

  // Makes positions [0, positions) available. Not thread-safe; apply() is.
  void reserve(std::int64_t positions);
  // heads consecutive heads of one token, in place.
  void apply(float* x, std::int64_t heads, std::int64_t position) const noexcept;

 private:
  std::int64_t half_;
  RopeOrder order_;
  std::vector<double> frequencies_;  // [half]
  std::vector<float> table_;         // [position][half][cos, sin]
  std::int64_t positions_ = 0;
};

}  // namespace rrs_llm
