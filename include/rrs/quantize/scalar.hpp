// Scalar leaves of the activation quantizer: codes of one row, and code sums per group.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/types.hpp"

RRS_FUNCTIONS_BEGIN

namespace scalar {

// rint(clamp(x * inverse)). The clamp comes first, in float, so that a product that is huge or
// infinite has the right code; its comparisons are those of maxps / minps. Adding 1.5 * 2^23 rounds
// half to even into the low bits: no library call, and nothing for -ffast-math to cancel.
RRS_FORCE_INLINE std::int8_t code_of(float x, float inverse, float low, float high) noexcept {
  const float scaled = x * inverse;
  const float raised = scaled > low ? scaled : low;
  const float clamped = raised < high ? raised : high;
  const std::uint32_t rounded = float_bits(clamped + 12582912.0f) - 0x4b400000u;
  return static_cast<std::int8_t>(static_cast<std::int32_t>(rounded));
}

inline void quantize(const float* x, std::int64_t k, int group, const float* inverse, int qmax,
                     std::int8_t* codes) noexcept {
  const float low = static_cast<float>(-qmax - 1);
  const float high = static_cast<float>(qmax);
  const std::int64_t step = group == kRowGroup ? k : group;
  for (std::int64_t first = 0, g = 0; first < k; first += step, ++g) {
    const std::int64_t last = k - first < step ? k : first + step;
    for (std::int64_t i = first; i < last; ++i) codes[i] = code_of(x[i], inverse[g], low, high);
  }
}

// Sums fit int32 for groups up to 2^24 inputs (each code is at most 128 in magnitude).
inline void sum_codes(const std::int8_t* codes, std::int64_t k, int group,
                      std::int32_t* sums) noexcept {
  const std::int64_t step = group == kRowGroup ? k : group;
  for (std::int64_t first = 0, g = 0; first < k; first += step, ++g) {
    const std::int64_t last = k - first < step ? k : first + step;
    std::int32_t sum = 0;
    for (std::int64_t i = first; i < last; ++i) sum += codes[i];
    sums[g] = sum;
  }
}

constexpr QuantizeKernels quantize_kernels() {
  QuantizeKernels kernels{};
  kernels.quantize = &quantize;
  kernels.sum_codes = &sum_codes;
  return kernels;
}

}  // namespace scalar

RRS_FUNCTIONS_END
