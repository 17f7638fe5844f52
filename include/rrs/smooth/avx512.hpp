// AVX-512 leaf of the smooth stage: extremes of one row, per group.
//
//   vpmaxsd, vpmaxud   1 cycle, ports 0 and 5   largest positive, largest negative, on raw bits
//   vpunpck*, vshufi32x4  1 / 3 cycles, port 5  the merge tree
// Signed order puts the largest positive first, unsigned order the largest negative, so the loop
// over a group needs two instructions per register and no mask. Registers: the merge of 16 groups
// keeps 2 results per four groups plus 8 in flight: 16 of 32. Tried: one vpreduce-like chain per
// group (_mm512_reduce_max_epi32): 2 x 10 dependent instructions per group against 5.6 in the tree.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/scheme.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx512 {

// Per lane: largest raw bits in signed order (positive) and in unsigned order (negative).
struct RawExtremes {
  __m512i signed_i32x16;
  __m512i unsigned_u32x16;
};

RRS_TARGET_AVX512 RRS_FORCE_INLINE RawExtremes join(RawExtremes a, RawExtremes b) noexcept {
  return RawExtremes{_mm512_max_epi32(a.signed_i32x16, b.signed_i32x16),
                     _mm512_max_epu32(a.unsigned_u32x16, b.unsigned_u32x16)};
}

// Raw results to magnitudes: no positive value gives 0, no negative value gives 0.
RRS_TARGET_AVX512 RRS_FORCE_INLINE RawExtremes finish(RawExtremes raw) noexcept {
  const __m512i sign = _mm512_set1_epi32(INT32_MIN);
  const __m512i negative = _mm512_max_epu32(raw.unsigned_u32x16, sign);
  return RawExtremes{_mm512_max_epi32(raw.signed_i32x16, _mm512_setzero_si512()),
                     _mm512_xor_si512(negative, sign)};
}

template <int kVectors>
RRS_TARGET_AVX512 RRS_FORCE_INLINE RawExtremes group_extremes(const float* x) noexcept {
  const __m512i first = _mm512_loadu_si512(x);
  RawExtremes raw{first, first};
  for (int v = 1; v < kVectors; ++v) {
    const __m512i bits = _mm512_loadu_si512(x + 16 * v);
    raw = join(raw, RawExtremes{bits, bits});
  }
  return raw;
}

// [a a a a] x 4 and [b b b b] x 4 to [a b a b] x 4.
RRS_TARGET_AVX512 RRS_FORCE_INLINE RawExtremes merge_1(RawExtremes a, RawExtremes b) noexcept {
  return join(RawExtremes{_mm512_unpacklo_epi32(a.signed_i32x16, b.signed_i32x16),
                          _mm512_unpacklo_epi32(a.unsigned_u32x16, b.unsigned_u32x16)},
              RawExtremes{_mm512_unpackhi_epi32(a.signed_i32x16, b.signed_i32x16),
                          _mm512_unpackhi_epi32(a.unsigned_u32x16, b.unsigned_u32x16)});
}

// [a b a b] x 4 and [c d c d] x 4 to [a b c d] x 4.
RRS_TARGET_AVX512 RRS_FORCE_INLINE RawExtremes merge_2(RawExtremes a, RawExtremes b) noexcept {
  return join(RawExtremes{_mm512_unpacklo_epi64(a.signed_i32x16, b.signed_i32x16),
                          _mm512_unpacklo_epi64(a.unsigned_u32x16, b.unsigned_u32x16)},
              RawExtremes{_mm512_unpackhi_epi64(a.signed_i32x16, b.signed_i32x16),
                          _mm512_unpackhi_epi64(a.unsigned_u32x16, b.unsigned_u32x16)});
}

// Lanes of 128 bits: even ones of (a, b) against odd ones. Twice gives four quads in order.
RRS_TARGET_AVX512 RRS_FORCE_INLINE RawExtremes merge_4(RawExtremes a, RawExtremes b) noexcept {
  return join(RawExtremes{_mm512_shuffle_i32x4(a.signed_i32x16, b.signed_i32x16, 0x88),
                          _mm512_shuffle_i32x4(a.unsigned_u32x16, b.unsigned_u32x16, 0x88)},
              RawExtremes{_mm512_shuffle_i32x4(a.signed_i32x16, b.signed_i32x16, 0xdd),
                          _mm512_shuffle_i32x4(a.unsigned_u32x16, b.unsigned_u32x16, 0xdd)});
}

template <int kVectors>
RRS_TARGET_AVX512 RRS_FORCE_INLINE RawExtremes quad_extremes(const float* x) noexcept {
  constexpr int kGroup = 16 * kVectors;
  return merge_2(
      merge_1(group_extremes<kVectors>(x), group_extremes<kVectors>(x + kGroup)),
      merge_1(group_extremes<kVectors>(x + 2 * kGroup), group_extremes<kVectors>(x + 3 * kGroup)));
}

// Magnitudes of 16 consecutive groups of 16 * kVectors values, lane i = group i.
template <int kVectors>
RRS_TARGET_AVX512 RRS_FORCE_INLINE RawExtremes extremes_16_groups(const float* x) noexcept {
  constexpr int kQuad = 64 * kVectors;
  const RawExtremes low = merge_4(quad_extremes<kVectors>(x), quad_extremes<kVectors>(x + kQuad));
  const RawExtremes high =
      merge_4(quad_extremes<kVectors>(x + 2 * kQuad), quad_extremes<kVectors>(x + 3 * kQuad));
  return finish(merge_4(low, high));
}

// One group of any length n >= 1.
RRS_TARGET_AVX512 inline void extremes_one(const float* x, std::int64_t n, float* positive,
                                           float* negative) noexcept {
  RawExtremes raw{_mm512_setzero_si512(), _mm512_setzero_si512()};
  std::int64_t k = 0;
  for (; k + 16 <= n; k += 16) {
    const __m512i bits = _mm512_loadu_si512(x + k);
    raw = join(raw, RawExtremes{bits, bits});
  }
  if (k < n) {
    const __mmask16 mask = static_cast<__mmask16>((1u << (n - k)) - 1u);
    const __m512i bits = _mm512_maskz_loadu_epi32(mask, x + k);
    raw = join(raw, RawExtremes{bits, bits});
  }
  raw = finish(raw);
  *positive = _mm_cvtss_f32(
      _mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(raw.signed_i32x16))));
  *negative = _mm_cvtss_f32(
      _mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(raw.unsigned_u32x16))));
}

// As many times 16 groups as there are; returns the number of groups done.
template <int kVectors>
RRS_TARGET_AVX512 inline std::int64_t extremes_sixteens(const float* x, std::int64_t groups,
                                                        float* positive, float* negative) noexcept {
  std::int64_t g = 0;
  for (; g + 16 <= groups; g += 16) {
    const RawExtremes found = extremes_16_groups<kVectors>(x + g * 16 * kVectors);
    _mm512_storeu_si512(positive + g, found.signed_i32x16);
    _mm512_storeu_si512(negative + g, found.unsigned_u32x16);
  }
  return g;
}

RRS_TARGET_AVX512 inline void extremes(const float* x, std::int64_t k, int group, float* positive,
                                       float* negative) noexcept {
  const std::int64_t step = group == kRowGroup ? k : group;
  if (k <= 0) return;
  const std::int64_t whole = k / step;
  std::int64_t g = 0;
  if (group == 16) g = extremes_sixteens<1>(x, whole, positive, negative);
  if (group == 32) g = extremes_sixteens<2>(x, whole, positive, negative);
  if (group == 64) g = extremes_sixteens<4>(x, whole, positive, negative);
  if (group == 128) g = extremes_sixteens<8>(x, whole, positive, negative);
  for (std::int64_t first = g * step; first < k; first += step, ++g) {
    const std::int64_t n = k - first < step ? k - first : step;
    extremes_one(x + first, n, positive + g, negative + g);
  }
}

constexpr SmoothKernels smooth_kernels(SmoothKernels lower) {
  lower.extremes = &extremes;
  return lower;
}

}  // namespace avx512

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
