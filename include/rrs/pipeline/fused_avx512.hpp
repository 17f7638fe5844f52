// AVX-512 fused row: rotate, extremes, range rule, quantize and sums of one row, window one.
//
//   vpermilps, vshuff32x4   1 / 3 cycles, port 5        partner of a butterfly inside a register
//   vfmadd (by +-1, exact)  4 cycles, ports 0 and 5     both sides of that butterfly at once
//   vdivps zmm              16 cycles, port 0           two per 16 groups
//   vpackss*, vpsadbw       1 / 3 cycles, port 5
// A chunk is 16 groups: its rotated values stay in a stack buffer (2 to 8 KB of L1), so that the
// range rule and the divisions run once per 16 groups, one group per lane.
//
// Per 16 values at block 32, group 32: 4 shuffles, 4 fma, 1 add, 1 mul (rotation), 1 max and 2.8
// for the merge tree, 1 mul, 1 convert, 1.5 pack and clamp, 0.8 sums, 1.5 range rule: about 18
// instructions on two ports. Clamping after the conversion is exact: clip >= 2^-16 bounds |x r| by
// 2^24 (supports()).
//
// Registers: rotation 8 constants and 4 values; merge tree 16; quantization 8.
//
// Tried: transposing so that each lane owns a group (no merge tree, no fma trick): by count the
// transposes of values and codes cost what the tree saves, and 32 live registers spill. Quantizing
// one chunk while the divisions of the next are in flight: -2 % with GCC 12, +2 % with Clang 14, so
// ports are the limit, not latency. Partners of stride 1 by vmovsldup / vmovshdup from memory:
// within 2 %; those of stride 8 by a store and vbroadcastf32x8: 15 % slower. Prefetching X into L2
// instead of L1: no gain.
//
// Measured (3.6 GHz, K = 4096, ns per value): block 32, group 32: 0.25 with GCC 12, of which
// rotation 0.10, extremes 0.036, range rule 0.01, codes and sums 0.058; 0.22 with Clang 14.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/pipeline/fused_scalar.hpp"
#include "rrs/quantize/avx512.hpp"
#include "rrs/smooth/avx512.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx512 {

// Bytes that X is prefetched ahead, at least: the row after this one where rows are contiguous.
inline constexpr std::int64_t kAhead = 4096;

// Lane signs of the in-register butterflies: + where the lane is the first of its pair.
struct ButterflySigns {
  __m512 stride1_f32x16, stride2_f32x16, stride4_f32x16, stride8_f32x16;
};

RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 plus_minus(__mmask16 minus) noexcept {
  return _mm512_mask_blend_ps(minus, _mm512_set1_ps(1.0f), _mm512_set1_ps(-1.0f));
}

RRS_TARGET_AVX512 RRS_FORCE_INLINE ButterflySigns butterfly_signs() noexcept {
  return ButterflySigns{plus_minus(0xaaaa), plus_minus(0xcccc), plus_minus(0xf0f0),
                        plus_minus(0xff00)};
}

// Strides 1, 2, 4, 8: partner + sign * x is a + b in the first lane of a pair, a - b in the second.
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 hadamard_16(__m512 x_f32x16,
                                                      const ButterflySigns& s) noexcept {
  x_f32x16 = _mm512_fmadd_ps(x_f32x16, s.stride1_f32x16, _mm512_permute_ps(x_f32x16, 0xb1));
  x_f32x16 = _mm512_fmadd_ps(x_f32x16, s.stride2_f32x16, _mm512_permute_ps(x_f32x16, 0x4e));
  x_f32x16 =
      _mm512_fmadd_ps(x_f32x16, s.stride4_f32x16, _mm512_shuffle_f32x4(x_f32x16, x_f32x16, 0xb1));
  return _mm512_fmadd_ps(x_f32x16, s.stride8_f32x16,
                         _mm512_shuffle_f32x4(x_f32x16, x_f32x16, 0x4e));
}

// x with the sign bit of signs[k] flipped into it: times +-1.
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 load_signed(const float* x, const float* signs) noexcept {
  const __m512 x_f32x16 = _mm512_loadu_ps(x);
  if (signs == nullptr) return x_f32x16;
  const __m512 sign_f32x16 = _mm512_and_ps(_mm512_loadu_ps(signs), _mm512_set1_ps(-0.0f));
  return _mm512_xor_ps(x_f32x16, sign_f32x16);
}

// n values, a multiple of 32; x may be out. Scaled when the block ends at 32.
RRS_TARGET_AVX512 RRS_FORCE_INLINE void rotate_32(const float* x, const float* signs,
                                                  std::int64_t n, float scale, bool scaled,
                                                  const char* ahead, float* out) noexcept {
  const ButterflySigns s = butterfly_signs();
  const __m512 scale_f32x16 = _mm512_set1_ps(scale);
  for (std::int64_t k = 0; k < n; k += 32) {
    const float* sign = signs == nullptr ? nullptr : signs + k;
    _mm_prefetch(ahead + 2 * k, _MM_HINT_T0);
    const __m512 a_f32x16 = hadamard_16(load_signed(x + k, sign), s);
    const __m512 b_f32x16 =
        hadamard_16(load_signed(x + k + 16, sign == nullptr ? nullptr : sign + 16), s);
    __m512 sum_f32x16 = _mm512_add_ps(a_f32x16, b_f32x16);
    __m512 difference_f32x16 = _mm512_sub_ps(a_f32x16, b_f32x16);
    if (scaled) {
      sum_f32x16 = _mm512_mul_ps(sum_f32x16, scale_f32x16);
      difference_f32x16 = _mm512_mul_ps(difference_f32x16, scale_f32x16);
    }
    _mm512_store_ps(out + k, sum_f32x16);
    _mm512_store_ps(out + k + 16, difference_f32x16);
  }
}

// Strides 32 and, for blocks of 128, 64; then the scale. In place.
RRS_TARGET_AVX512 inline void finish_64(float* x, std::int64_t n, float scale) noexcept {
  const __m512 scale_f32x16 = _mm512_set1_ps(scale);
  for (std::int64_t k = 0; k < n; k += 64) {
    for (std::int64_t i = k; i < k + 32; i += 16) {
      const __m512 a_f32x16 = _mm512_load_ps(x + i);
      const __m512 b_f32x16 = _mm512_load_ps(x + i + 32);
      _mm512_store_ps(x + i, _mm512_mul_ps(_mm512_add_ps(a_f32x16, b_f32x16), scale_f32x16));
      _mm512_store_ps(x + i + 32, _mm512_mul_ps(_mm512_sub_ps(a_f32x16, b_f32x16), scale_f32x16));
    }
  }
}

RRS_TARGET_AVX512 inline void finish_128(float* x, std::int64_t n, float scale) noexcept {
  const __m512 scale_f32x16 = _mm512_set1_ps(scale);
  for (std::int64_t k = 0; k < n; k += 128) {
    for (std::int64_t i = k; i < k + 32; i += 16) {
      const __m512 a_f32x16 = _mm512_load_ps(x + i);
      const __m512 b_f32x16 = _mm512_load_ps(x + i + 32);
      const __m512 c_f32x16 = _mm512_load_ps(x + i + 64);
      const __m512 d_f32x16 = _mm512_load_ps(x + i + 96);
      const __m512 ab_f32x16 = _mm512_add_ps(a_f32x16, b_f32x16);
      const __m512 a_b_f32x16 = _mm512_sub_ps(a_f32x16, b_f32x16);
      const __m512 cd_f32x16 = _mm512_add_ps(c_f32x16, d_f32x16);
      const __m512 c_d_f32x16 = _mm512_sub_ps(c_f32x16, d_f32x16);
      _mm512_store_ps(x + i, _mm512_mul_ps(_mm512_add_ps(ab_f32x16, cd_f32x16), scale_f32x16));
      _mm512_store_ps(x + i + 32,
                      _mm512_mul_ps(_mm512_add_ps(a_b_f32x16, c_d_f32x16), scale_f32x16));
      _mm512_store_ps(x + i + 64, _mm512_mul_ps(_mm512_sub_ps(ab_f32x16, cd_f32x16), scale_f32x16));
      _mm512_store_ps(x + i + 96,
                      _mm512_mul_ps(_mm512_sub_ps(a_b_f32x16, c_d_f32x16), scale_f32x16));
    }
  }
}

RRS_TARGET_AVX512 inline void copy_signed(const float* x, const float* signs, std::int64_t n,
                                          float* out) noexcept {
  for (std::int64_t k = 0; k < n; k += 16) {
    _mm512_store_ps(out + k, load_signed(x + k, signs == nullptr ? nullptr : signs + k));
  }
}

// kAhead bytes or a whole chunk ahead.
RRS_TARGET_AVX512 RRS_FORCE_INLINE const char* ahead_of(const FusedArgs& args,
                                                        std::int64_t first) noexcept {
  const std::int64_t chunk = 64 * std::int64_t{args.group};
  return detail::prefetch_ahead(args, first, chunk > kAhead ? chunk : kAhead);
}

// n values of the chunk at `first` into the buffer, rotated.
RRS_TARGET_AVX512 inline void rotate_chunk(const FusedArgs& args, std::int64_t first,
                                           std::int64_t n, float* out) noexcept {
  const float* x = detail::chunk_values(args, first, n, out);
  const float* signs = args.signs == nullptr ? nullptr : args.signs + first;
  const char* ahead = ahead_of(args, first);
  if (args.block == 1) {
    copy_signed(x, signs, n, out);
    return;
  }
  if (args.block == 32 && signs == nullptr) {  // the default, without branches in the loop
    rotate_32(x, nullptr, n, args.rotation_scale, true, ahead, out);
  } else {
    rotate_32(x, signs, n, args.rotation_scale, args.block == 32, ahead, out);
  }
  if (args.block == 64) finish_64(out, n, args.rotation_scale);
  if (args.block == 128) finish_128(out, n, args.rotation_scale);
}

RRS_TARGET_AVX512 RRS_FORCE_INLINE RawExtremes chunk_extremes(const float* x, int group) noexcept {
  if (group == 32) return extremes_16_groups<2>(x);
  if (group == 64) return extremes_16_groups<4>(x);
  return extremes_16_groups<8>(x);
}

// group_scale of 16 groups in the written order of quantize.hpp. e / (qmax + 1) divides by a power
// of two: multiplying by its inverse gives the same bits for every e that is not zeroed.
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 range_rule(const FusedArgs& args,
                                                     RawExtremes found) noexcept {
  const __m512i positive_i32x16 = found.signed_i32x16;
  const __m512i negative_i32x16 = found.unsigned_u32x16;
  const __m512 e_f32x16 = _mm512_castsi512_ps(_mm512_max_epi32(positive_i32x16, negative_i32x16));
  const __m512 o_f32x16 = _mm512_castsi512_ps(_mm512_min_epi32(positive_i32x16, negative_i32x16));
  const __m512 clip_f32x16 = _mm512_set1_ps(args.clip);
  const __m512 qmax_f32x16 = _mm512_set1_ps(static_cast<float>(args.qmax));
  const __m512 step_f32x16 = _mm512_set1_ps(1.0f / static_cast<float>(args.qmax + 1));
  __m512 scale_f32x16;
  __mmask16 minus = 0;
  if (args.range == Range::kFull) {
    scale_f32x16 =
        _mm512_max_ps(_mm512_mul_ps(e_f32x16, step_f32x16), _mm512_div_ps(o_f32x16, qmax_f32x16));
    scale_f32x16 = _mm512_mul_ps(clip_f32x16, scale_f32x16);
    minus = _mm512_cmpge_epi32_mask(positive_i32x16, negative_i32x16);
  } else {
    scale_f32x16 = _mm512_div_ps(_mm512_mul_ps(clip_f32x16, e_f32x16), qmax_f32x16);
  }
  const __mmask16 kept = _mm512_cmp_ps_mask(e_f32x16, _mm512_set1_ps(0x1p-100f), _CMP_GE_OQ) &
                         _mm512_cmp_ps_mask(scale_f32x16, _mm512_set1_ps(0x1p-126f), _CMP_GE_OQ);
  const __m512i bits_i32x16 = _mm512_castps_si512(scale_f32x16);
  const __m512i signed_i32x16 =
      _mm512_mask_xor_epi32(bits_i32x16, minus, bits_i32x16, _mm512_set1_epi32(INT32_MIN));
  return _mm512_castsi512_ps(_mm512_maskz_mov_epi32(kept, signed_i32x16));
}

// 64 codes in order from 64 values and the inverses of their halves (the packs work per 128-bit
// lane).
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512i codes_of_64(const float* x, float inverse_low,
                                                       float inverse_high, __m512i low_i8x64,
                                                       __m512i high_i8x64) noexcept {
  const __m512 first_f32x16 = _mm512_set1_ps(inverse_low);
  const __m512 second_f32x16 = _mm512_set1_ps(inverse_high);
  const __m512i a_i32x16 = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(x), first_f32x16));
  const __m512i b_i32x16 = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(x + 16), first_f32x16));
  const __m512i c_i32x16 = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(x + 32), second_f32x16));
  const __m512i d_i32x16 = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(x + 48), second_f32x16));
  const __m512i packed_i8x64 = _mm512_packs_epi16(_mm512_packs_epi32(a_i32x16, b_i32x16),
                                                  _mm512_packs_epi32(c_i32x16, d_i32x16));
  const __m512i clamped_i8x64 =
      _mm512_min_epi8(_mm512_max_epi8(packed_i8x64, low_i8x64), high_i8x64);
  return transposed_4x4(clamped_i8x64);
}

// 64 codes at position k of the chunk; those beyond n are computed (from zeros) but not stored.
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512i quantize_64(const float* x, const float* inverse,
                                                       int log2_group, int qmax, std::int64_t k,
                                                       std::int64_t n,
                                                       std::int8_t* codes) noexcept {
  const __m512i code_i8x64 = codes_of_64(
      x + k, inverse[k >> log2_group], inverse[(k + 32) >> log2_group],
      _mm512_set1_epi8(static_cast<char>(-qmax - 1)), _mm512_set1_epi8(static_cast<char>(qmax)));
  if (n - k >= 64) {
    _mm512_storeu_si512(codes + k, code_i8x64);
  } else if (n > k) {
    _mm512_mask_storeu_epi8(codes + k, (__mmask64{1} << (n - k)) - 1, code_i8x64);
  }
  return sad_of(code_i8x64);
}

RRS_TARGET_AVX512 inline void quantize_chunk(const FusedArgs& args, const float* x,
                                             const float* inverse, std::int64_t first,
                                             std::int64_t n) noexcept {
  const int log2_group = args.group == 32 ? 5 : (args.group == 64 ? 6 : 7);
  std::int8_t* codes = args.codes + first;
  const char* ahead = ahead_of(args, first) + 2 * n;
  for (std::int64_t k = 0; k < n; k += 256) {
    for (std::int64_t i = 0; i < 512; i += 64) _mm_prefetch(ahead + 2 * k + i, _MM_HINT_T0);
    const __m512i a_i64x8 = quantize_64(x, inverse, log2_group, args.qmax, k, n, codes);
    const __m512i b_i64x8 = quantize_64(x, inverse, log2_group, args.qmax, k + 64, n, codes);
    const __m512i c_i64x8 = quantize_64(x, inverse, log2_group, args.qmax, k + 128, n, codes);
    const __m512i d_i64x8 = quantize_64(x, inverse, log2_group, args.qmax, k + 192, n, codes);
    store_sums(sums_of_16(a_i64x8, b_i64x8, c_i64x8, d_i64x8), args.inner_group,
               (n - k) / args.inner_group, args.sums + (first + k) / args.inner_group);
  }
}

// The chunk at `first`: rotated values and inverses into the slot, scales to the row. False when a
// group held a NaN or Inf.
struct ChunkSlot {
  alignas(64) float x[16 * 128];
  alignas(64) float inverse[16];
};

RRS_TARGET_AVX512 inline bool prepare_chunk(const FusedArgs& args, std::int64_t first,
                                            std::int64_t n, ChunkSlot* slot) noexcept {
  rotate_chunk(args, first, n, slot->x);
  for (std::int64_t k = n; k < 16 * std::int64_t{args.group}; k += 16) {
    _mm512_store_ps(slot->x + k, _mm512_setzero_ps());
  }
  const RawExtremes found = chunk_extremes(slot->x, args.group);
  const __m512i largest_i32x16 = _mm512_max_epi32(found.signed_i32x16, found.unsigned_u32x16);
  const __mmask16 bad = _mm512_cmpge_epi32_mask(largest_i32x16, _mm512_set1_epi32(0x7f800000));
  const __m512 scale_f32x16 = range_rule(args, found);
  const __m512i bits_i32x16 = _mm512_castps_si512(scale_f32x16);
  const __mmask16 kept = _mm512_test_epi32_mask(bits_i32x16, bits_i32x16);
  const __mmask16 groups = static_cast<__mmask16>((1u << (n / args.group)) - 1u);
  _mm512_mask_storeu_ps(args.scales + first / args.group, groups, scale_f32x16);
  _mm512_store_ps(slot->inverse, _mm512_maskz_div_ps(kept, _mm512_set1_ps(1.0f), scale_f32x16));
  return bad == 0;
}

RRS_TARGET_AVX512 inline bool fused_prepare_row(const FusedArgs& args) noexcept {
  ChunkSlot slot;
  const std::int64_t chunk = 16 * static_cast<std::int64_t>(args.group);
  for (std::int64_t first = 0; first < args.k; first += chunk) {
    const std::int64_t n = args.k - first < chunk ? args.k - first : chunk;
    if (!prepare_chunk(args, first, n, &slot)) return false;
    quantize_chunk(args, slot.x, slot.inverse, first, n);
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

}  // namespace avx512

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
