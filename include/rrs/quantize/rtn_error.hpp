// The error that the clip search minimises: sum over a group of |v rint(w / v) - w|^2.4, fast.
//
//   u = |v q - w| 2^-e,  q = clamp(rint(w (1/v)), -qmax-1, qmax),  e the exponent of max|w|
//   sum of max(u, 2^-30)^2.4, in units of 2^(2.4 e)
//
// from: quantize/rtn.hpp (a group of f32 weights and a candidate scale).  to: its comparison.
//
// The power. d^2.4 = d^3 * d^-0.6. A guess y of d^-0.6 comes from the bit pattern (the exponent
// field is a logarithm), z = y^5 d^3 is then within [0.815, 1.227] of 1, and d^-0.6 = y z^-0.2 with
// a polynomial of degree 6 for z^-0.2. No table, no division: 22 instructions for 4 lanes. Numeric
// contract: each term is within 6e-7 relative of max(u, 2^-30)^2.4, so two groups' sums compare as
// the exact ones do unless they are closer than about 1e-6. A block of 16 terms is summed in f32 as
// a tree, blocks in double. Products that feed sums are kept from contraction, so the bits do not
// depend on the compiler's flags (the SSE2 and the portable form are equal, see rtn_test).
// Cost: about 35 instructions per 4 weights. Polynomials for log2 and exp2 would need about 45.
#pragma once

#include <cmath>
#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/types.hpp"

#if RRS_X86_64
#include <immintrin.h>
#endif

RRS_FUNCTIONS_BEGIN

namespace detail {

inline constexpr int kErrorBlock = 16;          // weights per partial sum
inline constexpr float kErrorFloor = 0x1p-30f;  // keeps y^5 and d^3 within f32
// bits(y) = kPowerGuess - 0.6 bits(d), chosen so that z is balanced around 1.
inline constexpr std::int32_t kPowerGuess = 0x658f80dd;
// z^-0.2 on [0.8155, 1.2262] as a polynomial in z - 1, ascending; relative error 1.8e-8.
inline constexpr float kPower[7] = {0x1p+0f,         -0x1.9999bep-3f, 0x1.eb815cp-4f,
                                    -0x1.683860p-4f, 0x1.216e08p-4f,  -0x1.fcbc96p-5f,
                                    0x1.872a22p-5f};

// One candidate scale, in units of 2^e.
struct ErrorCandidate {
  float down;     // 2^-e
  float scale;    // v 2^-e
  float inverse;  // 1 / scale
  float low;      // -qmax - 1
  float high;     // qmax
};

// Nearest integer, ties to even, without a library call; |x| < 2^31.
RRS_FORCE_INLINE std::int32_t rint_i32(float x) noexcept {
#if RRS_X86_64
  return _mm_cvtss_si32(_mm_set_ss(x));
#else
  return static_cast<std::int32_t>(std::lrintf(x));
#endif
}

// The rounded product, opaque to the optimizer: it cannot be fused into a following addition.
RRS_FORCE_INLINE float rounded(float product) noexcept {
#if RRS_X86_64
  __asm__("" : "+x"(product));
  return product;
#else
  volatile float stored = product;
  return stored;
#endif
}

// max(d, 2^-30)^2.4 for 0 <= d < 2^20: the definition of the bits.
RRS_FORCE_INLINE float error_power(float d) noexcept {
  d = d > kErrorFloor ? d : kErrorFloor;
  const float logarithm = static_cast<float>(static_cast<std::int32_t>(float_bits(d)));
  const std::int32_t guess = kPowerGuess - rint_i32(0.6f * logarithm);
  const float y = float_from_bits(static_cast<std::uint32_t>(guess));
  const float y2 = y * y;
  const float y5 = y2 * y2 * y;
  const float d3 = d * d * d;
  const float t = rounded(y5 * d3) - 1.0f;
  float p = kPower[6];
  for (int i = 5; i >= 0; --i) p = rounded(p * t) + kPower[i];
  return rounded((d3 * y) * p);
}

// The term of one weight.
RRS_FORCE_INLINE float error_term(float w, const ErrorCandidate& c) noexcept {
  const float x = w * c.down;  // exact: a power of two
  float q = x * c.inverse;
  q = q > c.low ? q : c.low;
  q = q < c.high ? q : c.high;
  const float code = static_cast<float>(rint_i32(q));
  return error_power(std::fabs(rounded(code * c.scale) - x));  // code * scale is exact: 11 + 8 bits
}

}  // namespace detail

namespace scalar {

// Sum of the terms of 16 weights; the tree is lane i + lane i+8, then +4, +2, +1.
inline float error_block_portable(const float* w, const detail::ErrorCandidate& c) noexcept {
  float lane[detail::kErrorBlock];
  for (int i = 0; i < detail::kErrorBlock; ++i) lane[i] = detail::error_term(w[i], c);
  for (int width = detail::kErrorBlock / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] = lane[i] + lane[i + width];
  }
  return lane[0];
}

#if RRS_X86_64

RRS_FORCE_INLINE __m128 rounded_x4(__m128 product_f32x4) noexcept {
#if defined(__GNUC__) || defined(__clang__)
  __asm__("" : "+x"(product_f32x4));
#endif
  return product_f32x4;
}

RRS_FORCE_INLINE __m128 error_power_x4(__m128 d_f32x4) noexcept {
  d_f32x4 = _mm_max_ps(d_f32x4, _mm_set1_ps(detail::kErrorFloor));
  const __m128 log_f32x4 = _mm_cvtepi32_ps(_mm_castps_si128(d_f32x4));
  const __m128i step_i32x4 = _mm_cvtps_epi32(_mm_mul_ps(_mm_set1_ps(0.6f), log_f32x4));
  const __m128 y_f32x4 =
      _mm_castsi128_ps(_mm_sub_epi32(_mm_set1_epi32(detail::kPowerGuess), step_i32x4));
  const __m128 y2_f32x4 = _mm_mul_ps(y_f32x4, y_f32x4);
  const __m128 y5_f32x4 = _mm_mul_ps(_mm_mul_ps(y2_f32x4, y2_f32x4), y_f32x4);
  const __m128 d3_f32x4 = _mm_mul_ps(_mm_mul_ps(d_f32x4, d_f32x4), d_f32x4);
  const __m128 t_f32x4 = _mm_sub_ps(rounded_x4(_mm_mul_ps(y5_f32x4, d3_f32x4)), _mm_set1_ps(1.0f));
  __m128 p_f32x4 = _mm_set1_ps(detail::kPower[6]);
  for (int i = 5; i >= 0; --i) {
    p_f32x4 = _mm_add_ps(rounded_x4(_mm_mul_ps(p_f32x4, t_f32x4)), _mm_set1_ps(detail::kPower[i]));
  }
  return rounded_x4(_mm_mul_ps(_mm_mul_ps(d3_f32x4, y_f32x4), p_f32x4));
}

RRS_FORCE_INLINE __m128 error_term_x4(const float* w, const detail::ErrorCandidate& c) noexcept {
  const __m128 x_f32x4 = _mm_mul_ps(_mm_loadu_ps(w), _mm_set1_ps(c.down));
  __m128 q_f32x4 = _mm_mul_ps(x_f32x4, _mm_set1_ps(c.inverse));
  q_f32x4 = _mm_min_ps(_mm_max_ps(q_f32x4, _mm_set1_ps(c.low)), _mm_set1_ps(c.high));
  const __m128 code_f32x4 = _mm_cvtepi32_ps(_mm_cvtps_epi32(q_f32x4));
  const __m128 difference_f32x4 =
      _mm_sub_ps(rounded_x4(_mm_mul_ps(code_f32x4, _mm_set1_ps(c.scale))), x_f32x4);
  return error_power_x4(_mm_andnot_ps(_mm_set1_ps(-0.0f), difference_f32x4));
}

// The same bits as error_block_portable.
RRS_FORCE_INLINE float error_block(const float* w, const detail::ErrorCandidate& c) noexcept {
  const __m128 a_f32x4 = _mm_add_ps(error_term_x4(w, c), error_term_x4(w + 8, c));
  const __m128 b_f32x4 = _mm_add_ps(error_term_x4(w + 4, c), error_term_x4(w + 12, c));
  const __m128 s_f32x4 = _mm_add_ps(a_f32x4, b_f32x4);
  const __m128 t_f32x4 = _mm_add_ps(s_f32x4, _mm_movehl_ps(s_f32x4, s_f32x4));
  return _mm_cvtss_f32(_mm_add_ss(t_f32x4, _mm_shuffle_ps(t_f32x4, t_f32x4, 1)));
}

#else

RRS_FORCE_INLINE float error_block(const float* w, const detail::ErrorCandidate& c) noexcept {
  return error_block_portable(w, c);
}

#endif

// Sum over n weights, or any value >= stop as soon as the sum is known to reach it. Terms are not
// negative and rounding is monotone, so stopping early never changes which candidate wins.
inline double error_sum(const float* w, std::int64_t n, const detail::ErrorCandidate& c,
                        double stop) noexcept {
  double sum = 0.0;
  std::int64_t i = 0;
  for (; i + detail::kErrorBlock <= n; i += detail::kErrorBlock) {
    sum += static_cast<double>(error_block(w + i, c));
    if (sum >= stop) return sum;
  }
  if (i == n) return sum;
  float tail[detail::kErrorBlock] = {};  // a zero adds 2^-72 to every candidate alike
  for (std::int64_t j = i; j < n; ++j) tail[j - i] = w[j];
  return sum + static_cast<double>(error_block(tail, c));
}

}  // namespace scalar

RRS_FUNCTIONS_END
