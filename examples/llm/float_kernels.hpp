#pragma once
// The engine's own float arithmetic: everything that is not a quantized linear layer.
//
//   panel_product   Y[r, o] (+)= sum_k X[r,k] P[o,k]     head, attention scores, p * V
//   q8_product      the same, P[o,k] = scale * code      head stored in 8 bits
//   exp_row         x[i] = e^(x[i] - shift), sum          softmax
//   silu_product    a[i] = a[i] / (1 + e^-a[i]) * b[i]    SwiGLU
//   rms_norm        y = x / sqrt(mean(x^2) + eps) * gain
//   log_sum_exp     log sum_i e^x[i]                      perplexity
//
// Written order, the same at every level and for a row alone or among others: panel_product is one
// chain of fused multiply-adds per output, k ascending; sums run in 16 lanes (element i in lane
// i % 16), then over the lanes in ascending order. Multiplications and additions elsewhere are
// not fused (the engine is built with -ffp-contract=off). e^x: within 2 ulp, 0 below -87.
// Panels: 16 outputs x K floats, [k][16]; of Q8 [k][16] int8 codes and [k / 32][16] f32 scales. The
// level is the one the library uses (RRS_ISA included). Every buffer of a row is padded to a
// multiple of 16 where stated.

#include <cstddef>
#include <cstdint>

namespace rrs_llm {

inline constexpr std::int64_t kLanes = 16;
inline constexpr std::int64_t padded16(std::int64_t n) noexcept {
  return (n + kLanes - 1) / kLanes * kLanes;
}

inline constexpr std::int64_t kQ8Inputs = 32;  // inputs that share a scale

struct PanelCall {
  const float* x = nullptr;  // [rows][x_stride]
  std::int64_t x_stride = 0;
  std::int64_t rows = 0;
  const float* panels = nullptr;
  std::int64_t panel_stride = 0;  // floats from one panel to the next, at least 16 k
  std::int64_t panel_count = 0;
  std::int64_t k = 0;
  float* y = nullptr;  // [rows][y_stride], y_stride at least 16 panel_count
  std::int64_t y_stride = 0;
  bool accumulate = false;  // the chain starts at the old Y instead of 0
};

struct FloatKernels {
  const char* name;
  void (*panel_product)(const PanelCall& call) noexcept;
  // Row after row, without accumulate; call.panels is not read, panel_stride counts codes. scale *
  // code must be exact in f32 (scales of f16 are), so that these are panel_product's bits.
  void (*q8_product)(const PanelCall& call, const std::int8_t* codes, const float* scales) noexcept;
  // Codes of `columns` k's (a multiple of 32, panels in sequence) as floats.
  void (*q8_expand)(const std::int8_t* codes, const float* scales, std::int64_t columns,
                    float* out) noexcept;
  // n a multiple of 16.
  float (*exp_row)(float* x, std::int64_t n, float shift) noexcept;
  float (*max_row)(const float* x, std::int64_t n) noexcept;  // any n >= 1
  void (*silu_product)(float* a, const float* b, std::int64_t n) noexcept;
  void (*rms_norm)(const float* x, const float* gain, std::int64_t n, float epsilon,
                   float* y) noexcept;
  double (*log_sum_exp)(const float* x, std::int64_t n) noexcept;
  // sum_i p_i (log p_i - log q_i), p = e^(a - lse_a), q = e^(b - lse_b).
  double (*divergence)(const float* a, double lse_a, const float* b, double lse_b,
                       std::int64_t n) noexcept;
};

// For the level that the library would use; throws std::runtime_error when RRS_ISA is not valid.
const FloatKernels& float_kernels();

}  // namespace rrs_llm
