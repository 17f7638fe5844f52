// AVX2 leaves of the KV cache.
//
//   vpmaddubsw   5 cycles, ports 0 1      u4 codes x s8 query, pairs to int16
//   vpmaddwd     5 cycles, ports 0 1      int16 pairs to int32 (widening, and the 8-bit dot)
//   vpmovzxbd    memory form, port 5      8 codes of V to int32
//   vcvtph2ps    memory form, port 0 + 5  f16 scales, 16-bit K and V
// Bounds: |u4 x s8| pairs are at most 2 * 15 * 128 = 3840; both nibbles of four 8-dim steps make
// 8 * 3840 = 30720 < 2^15, so 32 dims are summed in int16 before widening. 8 x 8 bits saturate
// vpmaddubsw (2 * 255 * 128), so there bytes are split into even and odd words for vpmaddwd.
// Registers: scores4 2 int16 sums, 2 int32 sums, 2 float sums, 4 codes, 2 queries, 2 constants of
// 16; scores16 8 sums; accumulate 8 sums (64 dims), 4 temporaries, a, zero, mask.
// Tried: a 16-entry table of float(code - zero) for V: needs two vpermps and a blend per 8 values
// with 8-lane registers, no better than subtract and convert (avx512.hpp uses the table). Without
// the unroll pragmas GCC 12 at -O2 keeps the arrays of sums in memory: 1.5 to 2 times slower.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/types.hpp"
#include "rrs/kv_cache/kv_kernels.hpp"
#include "rrs/kv_cache/kv_page.hpp"
#include "rrs/kv_cache/scalar.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

// Four query codes to every lane.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256i kv_query_s8x32(const std::int8_t* query) noexcept {
  std::int32_t four;
  std::memcpy(&four, query, sizeof four);
  return _mm256_set1_epi32(four);
}

RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256i kv_load(const std::uint8_t* bytes) noexcept {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
}

// int16 sums of 8 dims, 8 tokens: two pairs of dims per token, low and high nibbles.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256i kv_dot4(const std::uint8_t* codes, __m256i low_s8x32,
                                                 __m256i high_s8x32) noexcept {
  const __m256i mask = _mm256_set1_epi8(15);
  const __m256i both = kv_load(codes);
  const __m256i low_u8x32 = _mm256_and_si256(both, mask);
  const __m256i high_u8x32 = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
  return _mm256_add_epi16(_mm256_maddubs_epi16(low_u8x32, low_s8x32),
                          _mm256_maddubs_epi16(high_u8x32, high_s8x32));
}

// Sums of one block over dims [first, last) at 4 bits: tokens 0-7 and 8-15.
RRS_TARGET_AVX2 RRS_FORCE_INLINE void kv_sums4(const std::uint8_t* block, const std::int8_t* query,
                                               std::int64_t first, std::int64_t last,
                                               __m256i* sum_i32x8) noexcept {
  const __m256i ones = _mm256_set1_epi16(1);
  sum_i32x8[0] = sum_i32x8[1] = _mm256_setzero_si256();
  while (first < last) {
    const std::int64_t stop = last - first < 32 ? last : first + 32;
    __m256i near_i16x16 = _mm256_setzero_si256(), far_i16x16 = near_i16x16;
    for (; first < stop; first += 8) {
      const __m256i low_s8x32 = kv_query_s8x32(query + first);
      const __m256i high_s8x32 = kv_query_s8x32(query + first + 4);
      const std::uint8_t* codes = block + first * 8;
      near_i16x16 = _mm256_add_epi16(near_i16x16, kv_dot4(codes, low_s8x32, high_s8x32));
      far_i16x16 = _mm256_add_epi16(far_i16x16, kv_dot4(codes + 32, low_s8x32, high_s8x32));
    }
    sum_i32x8[0] = _mm256_add_epi32(sum_i32x8[0], _mm256_madd_epi16(near_i16x16, ones));
    sum_i32x8[1] = _mm256_add_epi32(sum_i32x8[1], _mm256_madd_epi16(far_i16x16, ones));
  }
}

// int32 sums of 4 dims, 8 tokens.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256i kv_dot8(const std::uint8_t* codes, __m256i even_i16x16,
                                                 __m256i odd_i16x16) noexcept {
  const __m256i both = kv_load(codes);
  const __m256i even_u16x16 = _mm256_and_si256(both, _mm256_set1_epi16(255));
  const __m256i odd_u16x16 = _mm256_srli_epi16(both, 8);
  return _mm256_add_epi32(_mm256_madd_epi16(even_u16x16, even_i16x16),
                          _mm256_madd_epi16(odd_u16x16, odd_i16x16));
}

RRS_TARGET_AVX2 RRS_FORCE_INLINE void kv_sums8(const std::uint8_t* block, const std::int8_t* query,
                                               std::int64_t first, std::int64_t last,
                                               __m256i* sum_i32x8) noexcept {
  sum_i32x8[0] = sum_i32x8[1] = _mm256_setzero_si256();
  for (; first < last; first += 4) {
    const __m256i query_s8x32 = kv_query_s8x32(query + first);
    const __m256i even_i16x16 = _mm256_srai_epi16(_mm256_slli_epi16(query_s8x32, 8), 8);
    const __m256i odd_i16x16 = _mm256_srai_epi16(query_s8x32, 8);
    const std::uint8_t* codes = block + first * 16;
    sum_i32x8[0] = _mm256_add_epi32(sum_i32x8[0], kv_dot8(codes, even_i16x16, odd_i16x16));
    sum_i32x8[1] = _mm256_add_epi32(sum_i32x8[1], kv_dot8(codes + 32, even_i16x16, odd_i16x16));
  }
}

// fma(float(sum - zero * query_sum), scale, acc) for 8 tokens of group g, from token t.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 kv_close_group(const KvScoreArgs& a, std::int64_t g, int t,
                                                       __m256i sum_i32x8,
                                                       __m256 acc_f32x8) noexcept {
  const std::int64_t at = g * kKvPageTokens + t;
  __m256i zero_i32x8 = _mm256_set1_epi32(a.zero);
  if (a.zeros != nullptr) {
    const auto* zeros = reinterpret_cast<const __m128i*>(a.zeros + at);
    zero_i32x8 = _mm256_cvtepu8_epi32(_mm_loadl_epi64(zeros));
  }
  const __m256i shift_i32x8 = _mm256_mullo_epi32(zero_i32x8, _mm256_set1_epi32(a.query_sums[g]));
  const __m256 exact_f32x8 = _mm256_cvtepi32_ps(_mm256_sub_epi32(sum_i32x8, shift_i32x8));
  const auto* scales = reinterpret_cast<const __m128i*>(a.scales + at);
  return _mm256_fmadd_ps(exact_f32x8, _mm256_cvtph_ps(_mm_loadu_si128(scales)), acc_f32x8);
}

template <int kBits>
RRS_TARGET_AVX2 inline void kv_scores(const KvScoreArgs& a) noexcept {
  const __m256 query_scale_f32x8 = _mm256_set1_ps(a.query_scale);
  for (int b = a.first_block; b < a.last_block; ++b) {
    const std::uint8_t* block = a.codes + b * a.block_bytes;
    const int t = b * kKvBlockTokens;
    __m256 near_f32x8 = _mm256_setzero_ps(), far_f32x8 = near_f32x8;
    for (std::int64_t g = 0; g < a.groups; ++g) {
      const std::int64_t first = g * a.group;
      const std::int64_t last = a.dims - first < a.group ? a.dims : first + a.group;
      __m256i sum_i32x8[2];
      if (kBits == 4) {
        kv_sums4(block, a.query, first, last, sum_i32x8);
      } else {
        kv_sums8(block, a.query, first, last, sum_i32x8);
      }
      near_f32x8 = kv_close_group(a, g, t, sum_i32x8[0], near_f32x8);
      far_f32x8 = kv_close_group(a, g, t + 8, sum_i32x8[1], far_f32x8);
    }
    _mm256_storeu_ps(a.out + t, _mm256_mul_ps(near_f32x8, query_scale_f32x8));
    _mm256_storeu_ps(a.out + t + 8, _mm256_mul_ps(far_f32x8, query_scale_f32x8));
  }
}

// kBlocks blocks at once: one chain of fma per register, so several are needed to fill the pipes.
template <int kBlocks>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void kv_scores16_blocks(const KvScoreArgs& a, int b) noexcept {
  __m256 acc_f32x8[std::size_t{2 * kBlocks}];
#pragma GCC unroll 16
  for (int i = 0; i < 2 * kBlocks; ++i) acc_f32x8[i] = _mm256_setzero_ps();
  const std::uint8_t* block = a.codes + b * a.block_bytes;
  for (std::int64_t d = 0; d < a.dims; ++d) {
    const __m256 query_f32x8 = _mm256_set1_ps(a.query_f32[d]);
#pragma GCC unroll 16
    for (int i = 0; i < 2 * kBlocks; ++i) {
      const std::uint8_t* codes = block + i / 2 * a.block_bytes + d * 32 + i % 2 * 16;
      const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
      acc_f32x8[i] = _mm256_fmadd_ps(query_f32x8, _mm256_cvtph_ps(half), acc_f32x8[i]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < 2 * kBlocks; ++i) {
    _mm256_storeu_ps(a.out + b * kKvBlockTokens + i * 8, acc_f32x8[i]);
  }
}

RRS_TARGET_AVX2 inline void kv_scores16(const KvScoreArgs& a) noexcept {
  int b = a.first_block;
  for (; b + 4 <= a.last_block; b += 4) kv_scores16_blocks<4>(a, b);
  for (; b < a.last_block; ++b) kv_scores16_blocks<1>(a, b);
}

// What the inner loop of accumulate reads per token and group.
struct KvFolded {
  alignas(64) float p[kKvPageTokens];
  alignas(64) float scaled[kKvSlab / 16 * kKvPageTokens];        // [group][64] p * scale
  alignas(64) std::int32_t zeros[kKvSlab / 16 * kKvPageTokens];  // [group][64]
};

// Whole vectors of 8 tokens that cover [first, last); those outside get p = 0 and are not used.
RRS_TARGET_AVX2 RRS_FORCE_INLINE void kv_fold(const KvAccumulateArgs& a, KvFolded* f) noexcept {
  _mm256_storeu_ps(f->p + a.first / 8 * 8, _mm256_setzero_ps());
  _mm256_storeu_ps(f->p + (a.last - 1) / 8 * 8, _mm256_setzero_ps());
  std::memcpy(f->p + a.first, a.p, static_cast<std::size_t>(a.last - a.first) * sizeof(float));
  for (int first = 0, g = 0; first < a.dims; first += a.group, ++g) {
    for (int t = a.first / 8 * 8; t < a.last; t += 8) {
      const int at = g * kKvPageTokens + t;
      const auto* scales = reinterpret_cast<const __m128i*>(a.scales + at);
      const __m256 scale_f32x8 = _mm256_cvtph_ps(_mm_loadu_si128(scales));
      _mm256_store_ps(f->scaled + at, _mm256_mul_ps(_mm256_load_ps(f->p + t), scale_f32x8));
      __m256i zero_i32x8 = _mm256_set1_epi32(a.zero);
      if (a.zeros != nullptr) {
        const auto* zeros = reinterpret_cast<const __m128i*>(a.zeros + at);
        zero_i32x8 = _mm256_cvtepu8_epi32(_mm_loadl_epi64(zeros));
      }
      _mm256_store_si256(reinterpret_cast<__m256i*>(f->zeros + at), zero_i32x8);
    }
  }
}

// float(code - zero) of 8 dims.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 kv_centered(__m256i code_i32x8,
                                                    __m256i zero_i32x8) noexcept {
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(code_i32x8, zero_i32x8));
}

RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256i kv_8_codes(const std::uint8_t* codes) noexcept {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
}

// One token, 16 dims at vector 2i of the sums, at 8 bits, or 32 dims at 4 bits.
template <int kBits>
RRS_TARGET_AVX2 RRS_FORCE_INLINE void kv_add_codes(const std::uint8_t* codes, const KvFolded& f,
                                                   const int* at, int t,
                                                   __m256* out_f32x8) noexcept {
  const __m256 scaled_f32x8 = _mm256_set1_ps(f.scaled[at[0] + t]);
  const __m256i zero_i32x8 = _mm256_set1_epi32(f.zeros[at[0] + t]);
  const __m256i near_i32x8 = kv_8_codes(codes), far_i32x8 = kv_8_codes(codes + 8);
  const __m256i mask = _mm256_set1_epi32(kBits == 4 ? 15 : 255);
  out_f32x8[0] = _mm256_fmadd_ps(
      scaled_f32x8, kv_centered(_mm256_and_si256(near_i32x8, mask), zero_i32x8), out_f32x8[0]);
  out_f32x8[1] = _mm256_fmadd_ps(
      scaled_f32x8, kv_centered(_mm256_and_si256(far_i32x8, mask), zero_i32x8), out_f32x8[1]);
  if (kBits == 8) return;
  const __m256 high_scaled_f32x8 = _mm256_set1_ps(f.scaled[at[1] + t]);
  const __m256i high_zero_i32x8 = _mm256_set1_epi32(f.zeros[at[1] + t]);
  out_f32x8[2] =
      _mm256_fmadd_ps(high_scaled_f32x8,
                      kv_centered(_mm256_srli_epi32(near_i32x8, 4), high_zero_i32x8), out_f32x8[2]);
  out_f32x8[3] =
      _mm256_fmadd_ps(high_scaled_f32x8,
                      kv_centered(_mm256_srli_epi32(far_i32x8, 4), high_zero_i32x8), out_f32x8[3]);
}

// kDims dims from dim `first`, all tokens, sums in registers.
template <int kBits, int kDims>
RRS_TARGET_AVX2 inline void kv_add_part(const KvAccumulateArgs& a, const KvFolded& f,
                                        int first) noexcept {
  constexpr int kStep = kBits == 4 ? 32 : 16;
  __m256 out_f32x8[std::size_t{kDims / 8}];
  int at[std::size_t{kDims / 16}];
#pragma GCC unroll 16
  for (int i = 0; i < kDims / 8; ++i) out_f32x8[i] = _mm256_loadu_ps(a.out + first + i * 8);
#pragma GCC unroll 16
  for (int i = 0; i < kDims / 16; ++i) at[i] = (first + i * 16) / a.group * kKvPageTokens;
  for (int t = a.first; t < a.last; ++t) {
    const std::uint8_t* codes = a.codes + t * a.row_bytes + first * kBits / 8;
#pragma GCC unroll 16
    for (int i = 0; i < kDims; i += kStep) {
      if (kBits != 16) {
        kv_add_codes<kBits>(codes + i * kBits / 8, f, at + i / 16, t, out_f32x8 + i / 8);
        continue;
      }
      const __m256 p_f32x8 = _mm256_set1_ps(a.p[t - a.first]);
      const auto* v = reinterpret_cast<const __m128i*>(codes + i * 2);
#pragma GCC unroll 16
      for (int j = 0; j < 2; ++j) {
        const __m256 v_f32x8 = _mm256_cvtph_ps(_mm_loadu_si128(v + j));
        out_f32x8[i / 8 + j] = _mm256_fmadd_ps(p_f32x8, v_f32x8, out_f32x8[i / 8 + j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kDims / 8; ++i) _mm256_storeu_ps(a.out + first + i * 8, out_f32x8[i]);
}

template <int kBits>
RRS_TARGET_AVX2 inline void kv_accumulate(const KvAccumulateArgs& a) noexcept {
  KvFolded folded;
  if (kBits != 16) kv_fold(a, &folded);
  int first = 0;
  for (; first + 64 <= a.dims; first += 64) kv_add_part<kBits, 64>(a, folded, first);
  for (; first + 32 <= a.dims; first += 32) kv_add_part<kBits, 32>(a, folded, first);
  if (kBits != 4 && first < a.dims) kv_add_part<kBits == 4 ? 32 : kBits, 16>(a, folded, first);
}

// Codes stay in int32 until they are in 0..255, so the saturating packs change nothing.
RRS_TARGET_AVX2 inline void kv_encode(const float* x, std::int64_t n, float inverse, int zero,
                                      int top, std::uint8_t* codes) noexcept {
  const __m256 inverse_f32x8 = _mm256_set1_ps(inverse);
  const __m256i zero_i32x8 = _mm256_set1_epi32(zero), top_i32x8 = _mm256_set1_epi32(top);
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256 scaled_f32x8 = _mm256_mul_ps(_mm256_loadu_ps(x + i), inverse_f32x8);
    scaled_f32x8 = _mm256_max_ps(scaled_f32x8, _mm256_set1_ps(-0x1p20f));
    scaled_f32x8 = _mm256_min_ps(scaled_f32x8, _mm256_set1_ps(0x1p20f));
    __m256i code_i32x8 = _mm256_add_epi32(_mm256_cvtps_epi32(scaled_f32x8), zero_i32x8);
    code_i32x8 = _mm256_min_epi32(_mm256_max_epi32(code_i32x8, _mm256_setzero_si256()), top_i32x8);
    const __m128i code_i16x8 = _mm_packus_epi32(_mm256_castsi256_si128(code_i32x8),
                                                _mm256_extracti128_si256(code_i32x8, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + i),
                     _mm_packus_epi16(code_i16x8, code_i16x8));
  }
  scalar::kv_encode(x + i, n - i, inverse, zero, top, codes + i);
}

constexpr KvKernels kv_kernels(KvKernels lower) {
  lower.scores4 = &kv_scores<4>;
  lower.scores8 = &kv_scores<8>;
  lower.scores16 = &kv_scores16;
  lower.accumulate4 = &kv_accumulate<4>;
  lower.accumulate8 = &kv_accumulate<8>;
  lower.accumulate16 = &kv_accumulate<16>;
  lower.encode = &kv_encode;
  return lower;
}

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
