// AVX2 fused row: rotate, extremes, range rule, quantize and sums of one row, window one.
//
//   vpermilps, vperm2f128   1 / 3 cycles, port 5        partner of a butterfly inside a register
//   vfmadd (by +-1, exact)  4 cycles, ports 0 and 1     both sides of that butterfly at once
//   vdivps ymm              5 cycles, port 0            two per 8 groups
// A chunk is 8 groups: its rotated values stay in a stack buffer (1 to 4 KB of L1), so that the
// range rule and the divisions run once per 8 groups, one group per lane. Registers: rotation 4
// constants, 4 values, 4 partners; merge tree 12; quantization 8. Clamping after the conversion is
// exact here: clip >= 2^-16 bounds |x r| by 2^24 (supports()).
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/pipeline/fused_scalar.hpp"
#include "rrs/quantize/avx2.hpp"
#include "rrs/smooth/avx2.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

// Strides 1, 2, 4: partner + sign * x is a + b in the first lane of a pair, a - b in the second.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 hadamard_8(__m256 x_f32x8) noexcept {
  const __m256 stride1_f32x8 = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
  const __m256 stride2_f32x8 = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
  const __m256 stride4_f32x8 = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
  x_f32x8 = _mm256_fmadd_ps(x_f32x8, stride1_f32x8, _mm256_permute_ps(x_f32x8, 0xb1));
  x_f32x8 = _mm256_fmadd_ps(x_f32x8, stride2_f32x8, _mm256_permute_ps(x_f32x8, 0x4e));
  return _mm256_fmadd_ps(x_f32x8, stride4_f32x8, _mm256_permute2f128_ps(x_f32x8, x_f32x8, 0x01));
}

// x with the sign bit of signs[k] flipped into it: times +-1.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 load_signed(const float* x, const float* signs,
                                                    std::int64_t k) noexcept {
  const __m256 x_f32x8 = _mm256_loadu_ps(x + k);
  if (signs == nullptr) return x_f32x8;
  const __m256 sign_f32x8 = _mm256_and_ps(_mm256_loadu_ps(signs + k), _mm256_set1_ps(-0.0f));
  return _mm256_xor_ps(x_f32x8, sign_f32x8);
}

// Butterflies between four values at distance `step`, strides step and 2 * step, then the scale.
RRS_TARGET_AVX2 RRS_FORCE_INLINE void store_radix_4(__m256 a, __m256 b, __m256 c, __m256 d,
                                                    __m256 scale_f32x8, float* out,
                                                    std::int64_t step) noexcept {
  const __m256 ab_f32x8 = _mm256_add_ps(a, b);
  const __m256 a_b_f32x8 = _mm256_sub_ps(a, b);
  const __m256 cd_f32x8 = _mm256_add_ps(c, d);
  const __m256 c_d_f32x8 = _mm256_sub_ps(c, d);
  _mm256_store_ps(out, _mm256_mul_ps(_mm256_add_ps(ab_f32x8, cd_f32x8), scale_f32x8));
  _mm256_store_ps(out + step, _mm256_mul_ps(_mm256_add_ps(a_b_f32x8, c_d_f32x8), scale_f32x8));
  _mm256_store_ps(out + 2 * step, _mm256_mul_ps(_mm256_sub_ps(ab_f32x8, cd_f32x8), scale_f32x8));
  _mm256_store_ps(out + 3 * step, _mm256_mul_ps(_mm256_sub_ps(a_b_f32x8, c_d_f32x8), scale_f32x8));
}

// n values, a multiple of 32; x may be out; `scale` is 1 (exact) when a larger block goes on.
RRS_TARGET_AVX2 RRS_FORCE_INLINE void rotate_32(const float* x, const float* signs, std::int64_t n,
                                                float scale, const char* ahead,
                                                float* out) noexcept {
  const __m256 scale_f32x8 = _mm256_set1_ps(scale);
  for (std::int64_t k = 0; k < n; k += 32) {
    _mm_prefetch(ahead + 2 * k, _MM_HINT_T0);
    store_radix_4(hadamard_8(load_signed(x, signs, k)), hadamard_8(load_signed(x, signs, k + 8)),
                  hadamard_8(load_signed(x, signs, k + 16)),
                  hadamard_8(load_signed(x, signs, k + 24)), scale_f32x8, out + k, 8);
  }
}

// Stride 32 and the scale; in place.
RRS_TARGET_AVX2 inline void finish_64(float* x, std::int64_t n, float scale) noexcept {
  const __m256 scale_f32x8 = _mm256_set1_ps(scale);
  for (std::int64_t k = 0; k < n; k += 64) {
    for (std::int64_t i = k; i < k + 32; i += 8) {
      const __m256 a_f32x8 = _mm256_load_ps(x + i);
      const __m256 b_f32x8 = _mm256_load_ps(x + i + 32);
      _mm256_store_ps(x + i, _mm256_mul_ps(_mm256_add_ps(a_f32x8, b_f32x8), scale_f32x8));
      _mm256_store_ps(x + i + 32, _mm256_mul_ps(_mm256_sub_ps(a_f32x8, b_f32x8), scale_f32x8));
    }
  }
}

// Strides 32, 64 and the scale; in place.
RRS_TARGET_AVX2 inline void finish_128(float* x, std::int64_t n, float scale) noexcept {
  const __m256 scale_f32x8 = _mm256_set1_ps(scale);
  for (std::int64_t k = 0; k < n; k += 128) {
    for (std::int64_t i = k; i < k + 32; i += 8) {
      store_radix_4(_mm256_load_ps(x + i), _mm256_load_ps(x + i + 32), _mm256_load_ps(x + i + 64),
                    _mm256_load_ps(x + i + 96), scale_f32x8, x + i, 32);
    }
  }
}

// Bytes that X is prefetched ahead: the row after this one where rows are contiguous.
inline constexpr std::int64_t kAhead = 4096;

// n values of the chunk at `first` into the buffer, rotated.
RRS_TARGET_AVX2 inline void rotate_chunk(const FusedArgs& args, std::int64_t first, std::int64_t n,
                                         float* out) noexcept {
  const float* x = detail::chunk_values(args, first, n, out);
  const float* signs = args.signs == nullptr ? nullptr : args.signs + first;
  const char* ahead = detail::prefetch_ahead(args, first, kAhead);
  if (args.block == 1) {
    for (std::int64_t k = 0; k < n; k += 8) _mm256_store_ps(out + k, load_signed(x, signs, k));
    return;
  }
  const float scale = args.block == 32 ? args.rotation_scale : 1.0f;
  if (signs == nullptr) {  // the default, without branches in the loop
    rotate_32(x, nullptr, n, scale, ahead, out);
  } else {
    rotate_32(x, signs, n, scale, ahead, out);
  }
  if (args.block == 64) finish_64(out, n, args.rotation_scale);
  if (args.block == 128) finish_128(out, n, args.rotation_scale);
}

RRS_TARGET_AVX2 RRS_FORCE_INLINE RawExtremes chunk_extremes(const float* x, int group) noexcept {
  if (group == 32) return extremes_8_groups<4>(x);
  if (group == 64) return extremes_8_groups<8>(x);
  return extremes_8_groups<16>(x);
}

// group_scale of 8 groups in the written order of quantize.hpp. e / (qmax + 1) divides by a power
// of two: multiplying by its inverse gives the same bits for every e that is not zeroed.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 range_rule(const FusedArgs& args,
                                                   RawExtremes found) noexcept {
  const __m256i p_i32x8 = found.signed_i32x8;
  const __m256i n_i32x8 = found.unsigned_u32x8;
  const __m256 e_f32x8 = _mm256_castsi256_ps(_mm256_max_epi32(p_i32x8, n_i32x8));
  const __m256 o_f32x8 = _mm256_castsi256_ps(_mm256_min_epi32(p_i32x8, n_i32x8));
  const __m256 clip_f32x8 = _mm256_set1_ps(args.clip);
  const __m256 qmax_f32x8 = _mm256_set1_ps(static_cast<float>(args.qmax));
  const __m256 step_f32x8 = _mm256_set1_ps(1.0f / static_cast<float>(args.qmax + 1));
  __m256 scale_f32x8;
  __m256 minus_f32x8 = _mm256_setzero_ps();
  if (args.range == Range::kFull) {
    const __m256 larger_f32x8 =
        _mm256_max_ps(_mm256_mul_ps(e_f32x8, step_f32x8), _mm256_div_ps(o_f32x8, qmax_f32x8));
    scale_f32x8 = _mm256_mul_ps(clip_f32x8, larger_f32x8);
    const __m256 positive_f32x8 = _mm256_castsi256_ps(_mm256_cmpgt_epi32(n_i32x8, p_i32x8));
    minus_f32x8 = _mm256_andnot_ps(positive_f32x8, _mm256_set1_ps(-0.0f));
  } else {
    scale_f32x8 = _mm256_div_ps(_mm256_mul_ps(clip_f32x8, e_f32x8), qmax_f32x8);
  }
  const __m256 kept_f32x8 =
      _mm256_and_ps(_mm256_cmp_ps(e_f32x8, _mm256_set1_ps(0x1p-100f), _CMP_GE_OQ),
                    _mm256_cmp_ps(scale_f32x8, _mm256_set1_ps(0x1p-126f), _CMP_GE_OQ));
  return _mm256_and_ps(kept_f32x8, _mm256_xor_ps(scale_f32x8, minus_f32x8));
}

// Codes of n values, a multiple of 32.
RRS_TARGET_AVX2 inline void quantize_chunk(const FusedArgs& args, const float* x,
                                           const float* inverse, std::int64_t n, const char* ahead,
                                           std::int8_t* codes) noexcept {
  const int log2_group = args.group == 32 ? 5 : (args.group == 64 ? 6 : 7);
  const __m256i low_i8x32 = _mm256_set1_epi8(static_cast<char>(-args.qmax - 1));
  const __m256i high_i8x32 = _mm256_set1_epi8(static_cast<char>(args.qmax));
  for (std::int64_t k = 0; k < n; k += 32) {
    _mm_prefetch(ahead + 2 * k, _MM_HINT_T0);
    const __m256 r_f32x8 = _mm256_set1_ps(inverse[k >> log2_group]);
    const __m256i packed_i8x32 =
        packed_codes(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(x + k), r_f32x8)),
                     _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(x + k + 8), r_f32x8)),
                     _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(x + k + 16), r_f32x8)),
                     _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(x + k + 24), r_f32x8)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + k),
                        _mm256_min_epi8(_mm256_max_epi8(packed_i8x32, low_i8x32), high_i8x32));
  }
}

// Scales of a chunk to the row, their inverses to the buffer. False after a NaN or Inf.
RRS_TARGET_AVX2 RRS_FORCE_INLINE bool scale_chunk(const FusedArgs& args, const float* x,
                                                  std::int64_t groups, float* scales,
                                                  float* inverse) noexcept {
  const RawExtremes found = chunk_extremes(x, args.group);
  const __m256i largest_i32x8 = _mm256_max_epi32(found.signed_i32x8, found.unsigned_u32x8);
  const __m256i bad_i32x8 = _mm256_cmpgt_epi32(largest_i32x8, _mm256_set1_epi32(0x7f7fffff));
  const __m256 scale_f32x8 = range_rule(args, found);
  const __m256i zero_i32x8 =
      _mm256_cmpeq_epi32(_mm256_castps_si256(scale_f32x8), _mm256_setzero_si256());
  const __m256 quotient_f32x8 = _mm256_div_ps(_mm256_set1_ps(1.0f), scale_f32x8);
  _mm256_store_ps(inverse, _mm256_andnot_ps(_mm256_castsi256_ps(zero_i32x8), quotient_f32x8));
  const __m256i lane_i32x8 = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i count_i32x8 = _mm256_set1_epi32(static_cast<int>(groups));
  _mm256_maskstore_ps(scales, _mm256_cmpgt_epi32(count_i32x8, lane_i32x8), scale_f32x8);
  return _mm256_testz_si256(bad_i32x8, bad_i32x8) != 0;
}

RRS_TARGET_AVX2 inline bool fused_prepare_row(const FusedArgs& args) noexcept {
  alignas(32) float x[8 * 128];
  alignas(32) float inverse[8];
  const std::int64_t chunk = 8 * static_cast<std::int64_t>(args.group);
  for (std::int64_t first = 0; first < args.k; first += chunk) {
    const std::int64_t n = args.k - first < chunk ? args.k - first : chunk;
    rotate_chunk(args, first, n, x);
    for (std::int64_t k = n; k < chunk; k += 8) _mm256_store_ps(x + k, _mm256_setzero_ps());
    float* scales = args.scales + first / args.group;
    if (!scale_chunk(args, x, n / args.group, scales, inverse)) return false;
    quantize_chunk(args, x, inverse, n, detail::prefetch_ahead(args, first, kAhead) + 2 * n,
                   args.codes + first);
    sum_codes(args.codes + first, n, args.inner_group, args.sums + first / args.inner_group);
  }
  return true;
}

inline bool fused_supports(const FusedArgs& args) noexcept {
  const bool block = args.block == 1 || args.block == 32 || args.block == 64 || args.block == 128;
  const bool group = args.group == 32 || args.group == 64 || args.group == 128;
  const bool inner = args.inner_group == 16 || args.inner_group == 32 || args.inner_group == 64 ||
                     args.inner_group == 128;
  return block && group && inner && args.inner_group <= args.group && args.clip >= 0x1p-16f &&
         args.k % args.block == 0 && args.k % args.group == 0;
}

constexpr FusedKernels fused_kernels(FusedKernels lower) {
  lower.supports = &fused_supports;
  lower.prepare_row = &fused_prepare_row;
  return lower;
}

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
