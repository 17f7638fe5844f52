// Rotate leaves, scalar level: plain loops that define the written order.
//
// from: rotate.hpp (the row driver).  to: core/dispatch.hpp, which copies these into every table.
// Every other level gives the same bits as the loops below.
#pragma once

#include <cmath>
#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/types.hpp"

RRS_FUNCTIONS_BEGIN
namespace scalar {

inline void f16_to_f32(const f16* in, float* out, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) out[i] = to_f32(in[i]);
}

inline void bf16_to_f32(const bf16* in, float* out, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) out[i] = to_f32(in[i]);
}

// One stride of butterflies over a block of n values.
inline void butterflies(float* x, std::int64_t n, std::int64_t stride) noexcept {
  for (std::int64_t i = 0; i < n; i += 2 * stride) {
    for (std::int64_t j = i; j < i + stride; ++j) {
      const float a = x[j];
      const float b = x[j + stride];
      x[j] = a + b;
      x[j + stride] = a - b;
    }
  }
}

inline void hadamard(float* x, std::int64_t n_blocks, int log2_block, float scale) noexcept {
  const std::int64_t n = std::int64_t{1} << log2_block;
  for (std::int64_t b = 0; b < n_blocks; ++b, x += n) {
    for (std::int64_t stride = 1; stride < n; stride *= 2) butterflies(x, n, stride);
    for (std::int64_t i = 0; i < n; ++i) x[i] *= scale;
  }
}

// sum[c] = fma(coefficient, in[c], sum[c]). With +-1 the fma is exactly an addition, which, without
// hardware FMA in the baseline, is some ten times faster than the library's fmaf.
inline void mix_accumulate(const float* RRS_RESTRICT in, std::int64_t columns, float coefficient,
                           float* RRS_RESTRICT sum) noexcept {
  if (coefficient == 1.0f) {
    for (std::int64_t c = 0; c < columns; ++c) sum[c] += in[c];
  } else if (coefficient == -1.0f) {
    for (std::int64_t c = 0; c < columns; ++c) sum[c] -= in[c];
  } else {
    for (std::int64_t c = 0; c < columns; ++c) sum[c] = std::fma(coefficient, in[c], sum[c]);
  }
}

// Sums are kept in the output rows.
inline void mix(const float* in, float* out, std::int64_t columns, const float* coefficients,
                int outputs, int order, float scale) noexcept {
  for (int i = 0; i < outputs; ++i, out += columns, coefficients += order) {
    for (std::int64_t c = 0; c < columns; ++c) out[c] = coefficients[0] * in[c];
    for (int j = 1; j < order; ++j) mix_accumulate(in + j * columns, columns, coefficients[j], out);
    for (std::int64_t c = 0; c < columns; ++c) out[c] *= scale;
  }
}

constexpr RotateKernels rotate_kernels() noexcept {
  return RotateKernels{&f16_to_f32, &bf16_to_f32, &hadamard, &mix};
}

}  // namespace scalar
RRS_FUNCTIONS_END
