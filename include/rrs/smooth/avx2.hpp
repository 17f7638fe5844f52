// AVX2 leaf of the smooth stage: extremes of one row, per group.
//
//   vpmaxsd, vpmaxud       1 cycle, ports 0 and 1   largest positive, largest negative, on raw bits
//   vpunpck*, vperm2i128   1 / 3 cycles, port 5     the merge tree
// Signed order puts the largest positive first, unsigned order the largest negative, so the loop
// over a group needs two instructions per register and no mask. Registers: the merge of 8 groups
// keeps 2 results per four groups plus 8 in flight: 12 of 16.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/smooth/scalar.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

// Per lane: largest raw bits in signed order (positive) and in unsigned order (negative).
struct RawExtremes {
  __m256i signed_i32x8;
  __m256i unsigned_u32x8;
};

RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256i load_bits(const float* x) noexcept {
  return _mm256_castps_si256(_mm256_loadu_ps(x));
}

RRS_TARGET_AVX2 RRS_FORCE_INLINE RawExtremes join(RawExtremes a, RawExtremes b) noexcept {
  return RawExtremes{_mm256_max_epi32(a.signed_i32x8, b.signed_i32x8),
                     _mm256_max_epu32(a.unsigned_u32x8, b.unsigned_u32x8)};
}

// Raw results to magnitudes: no positive value gives 0, no negative value gives 0.
RRS_TARGET_AVX2 RRS_FORCE_INLINE RawExtremes finish(RawExtremes raw) noexcept {
  const __m256i sign = _mm256_set1_epi32(INT32_MIN);
  const __m256i negative = _mm256_max_epu32(raw.unsigned_u32x8, sign);
  return RawExtremes{_mm256_max_epi32(raw.signed_i32x8, _mm256_setzero_si256()),
                     _mm256_xor_si256(negative, sign)};
}

template <int kVectors>
RRS_TARGET_AVX2 RRS_FORCE_INLINE RawExtremes group_extremes(const float* x) noexcept {
  const __m256i first = load_bits(x);
  RawExtremes raw{first, first};
  for (int v = 1; v < kVectors; ++v) {
    const __m256i bits = load_bits(x + 8 * v);
    raw = join(raw, RawExtremes{bits, bits});
  }
  return raw;
}

// [a a a a] x 2 and [b b b b] x 2 to [a b a b] x 2.
RRS_TARGET_AVX2 RRS_FORCE_INLINE RawExtremes merge_1(RawExtremes a, RawExtremes b) noexcept {
  return join(RawExtremes{_mm256_unpacklo_epi32(a.signed_i32x8, b.signed_i32x8),
                          _mm256_unpacklo_epi32(a.unsigned_u32x8, b.unsigned_u32x8)},
              RawExtremes{_mm256_unpackhi_epi32(a.signed_i32x8, b.signed_i32x8),
                          _mm256_unpackhi_epi32(a.unsigned_u32x8, b.unsigned_u32x8)});
}

// [a b a b] x 2 and [c d c d] x 2 to [a b c d] x 2.
RRS_TARGET_AVX2 RRS_FORCE_INLINE RawExtremes merge_2(RawExtremes a, RawExtremes b) noexcept {
  return join(RawExtremes{_mm256_unpacklo_epi64(a.signed_i32x8, b.signed_i32x8),
                          _mm256_unpacklo_epi64(a.unsigned_u32x8, b.unsigned_u32x8)},
              RawExtremes{_mm256_unpackhi_epi64(a.signed_i32x8, b.signed_i32x8),
                          _mm256_unpackhi_epi64(a.unsigned_u32x8, b.unsigned_u32x8)});
}

// Low halves of (a, b) against high halves: two quads in order.
RRS_TARGET_AVX2 RRS_FORCE_INLINE RawExtremes merge_4(RawExtremes a, RawExtremes b) noexcept {
  return join(RawExtremes{_mm256_permute2x128_si256(a.signed_i32x8, b.signed_i32x8, 0x20),
                          _mm256_permute2x128_si256(a.unsigned_u32x8, b.unsigned_u32x8, 0x20)},
              RawExtremes{_mm256_permute2x128_si256(a.signed_i32x8, b.signed_i32x8, 0x31),
                          _mm256_permute2x128_si256(a.unsigned_u32x8, b.unsigned_u32x8, 0x31)});
}

template <int kVectors>
RRS_TARGET_AVX2 RRS_FORCE_INLINE RawExtremes quad_extremes(const float* x) noexcept {
  constexpr int kGroup = 8 * kVectors;
  return merge_2(
      merge_1(group_extremes<kVectors>(x), group_extremes<kVectors>(x + kGroup)),
      merge_1(group_extremes<kVectors>(x + 2 * kGroup), group_extremes<kVectors>(x + 3 * kGroup)));
}

// Magnitudes of 8 consecutive groups of 8 * kVectors values, lane i = group i.
template <int kVectors>
RRS_TARGET_AVX2 RRS_FORCE_INLINE RawExtremes extremes_8_groups(const float* x) noexcept {
  return finish(merge_4(quad_extremes<kVectors>(x), quad_extremes<kVectors>(x + 32 * kVectors)));
}

// One group of any length: every lane of a merged quad holds the maximum of one lane class.
RRS_TARGET_AVX2 inline void extremes_one(const float* x, std::int64_t n, float* positive,
                                         float* negative) noexcept {
  RawExtremes raw{_mm256_setzero_si256(), _mm256_setzero_si256()};
  std::int64_t k = 0;
  for (; k + 8 <= n; k += 8) {
    const __m256i bits = load_bits(x + k);
    raw = join(raw, RawExtremes{bits, bits});
  }
  raw = finish(merge_4(merge_2(merge_1(raw, raw), merge_1(raw, raw)), raw));
  const std::int32_t up = _mm256_cvtsi256_si32(raw.signed_i32x8);
  const std::int32_t down = _mm256_cvtsi256_si32(raw.unsigned_u32x8);
  float rest[2] = {0.0f, 0.0f};
  scalar::extremes_of(x + k, n - k, &rest[0], &rest[1]);
  const std::uint32_t found[2] = {static_cast<std::uint32_t>(up), static_cast<std::uint32_t>(down)};
  *positive = float_bits(rest[0]) > found[0] ? rest[0] : float_from_bits(found[0]);
  *negative = float_bits(rest[1]) > found[1] ? rest[1] : float_from_bits(found[1]);
}

// As many times 8 groups as there are; returns the number of groups done.
template <int kVectors>
RRS_TARGET_AVX2 inline std::int64_t extremes_eights(const float* x, std::int64_t groups,
                                                    float* positive, float* negative) noexcept {
  std::int64_t g = 0;
  for (; g + 8 <= groups; g += 8) {
    const RawExtremes found = extremes_8_groups<kVectors>(x + g * 8 * kVectors);
    _mm256_storeu_ps(positive + g, _mm256_castsi256_ps(found.signed_i32x8));
    _mm256_storeu_ps(negative + g, _mm256_castsi256_ps(found.unsigned_u32x8));
  }
  return g;
}

RRS_TARGET_AVX2 inline void extremes(const float* x, std::int64_t k, int group, float* positive,
                                     float* negative) noexcept {
  const std::int64_t step = group == kRowGroup ? k : group;
  if (k <= 0) return;
  const std::int64_t whole = k / step;
  std::int64_t g = 0;
  if (group == 16) g = extremes_eights<2>(x, whole, positive, negative);
  if (group == 32) g = extremes_eights<4>(x, whole, positive, negative);
  if (group == 64) g = extremes_eights<8>(x, whole, positive, negative);
  if (group == 128) g = extremes_eights<16>(x, whole, positive, negative);
  for (std::int64_t first = g * step; first < k; first += step, ++g) {
    const std::int64_t n = k - first < step ? k - first : step;
    extremes_one(x + first, n, positive + g, negative + g);
  }
}

constexpr SmoothKernels smooth_kernels(SmoothKernels lower) {
  lower.extremes = &extremes;
  return lower;
}

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
