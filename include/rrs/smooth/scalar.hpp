// Scalar leaf of the smooth stage: extremes of one row, per group.
//
// All comparisons are on the bits as integers, so that NaN and Inf are seen even under -ffast-math,
// and flushing of subnormals changes nothing: for x >= +0 the bits order like the values, and
// bits ^ 0x80000000 does the same for the magnitude of a negative x (and is negative otherwise).
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/types.hpp"

RRS_FUNCTIONS_BEGIN

namespace scalar {

// The two extremes of n values; 0 where there is no value of that sign.
inline void extremes_of(const float* x, std::int64_t n, float* positive, float* negative) noexcept {
  std::int32_t largest = 0;
  std::int32_t largest_negative = 0;
  for (std::int64_t k = 0; k < n; ++k) {
    const std::uint32_t bits = float_bits(x[k]);
    const std::int32_t up = static_cast<std::int32_t>(bits);
    const std::int32_t down = static_cast<std::int32_t>(bits ^ 0x80000000u);
    largest = up > largest ? up : largest;
    largest_negative = down > largest_negative ? down : largest_negative;
  }
  *positive = float_from_bits(static_cast<std::uint32_t>(largest));
  *negative = float_from_bits(static_cast<std::uint32_t>(largest_negative));
}

inline void extremes(const float* x, std::int64_t k, int group, float* positive,
                     float* negative) noexcept {
  const std::int64_t step = group == kRowGroup ? k : group;
  for (std::int64_t first = 0, g = 0; first < k; first += step, ++g) {
    const std::int64_t n = k - first < step ? k - first : step;
    extremes_of(x + first, n, positive + g, negative + g);
  }
}

constexpr SmoothKernels smooth_kernels() {
  SmoothKernels kernels{};
  kernels.extremes = &extremes;
  return kernels;
}

}  // namespace scalar

RRS_FUNCTIONS_END
