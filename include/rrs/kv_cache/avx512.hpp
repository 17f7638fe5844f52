// AVX-512 leaves of the KV cache (without VNNI: avx512vnni.hpp), 16 tokens or 16 dims a register.
//
//   vpmaddubsw  5 cycles, port 0         u4 codes x s8 query, pairs to int16 (bounds: avx2.hpp)
//   vpermps     3 cycles, port 5         float(code - zero) of 16 values by table; uses 4 index
//   bits vpmovzxbd   3 cycles, port 5         16 bytes of V to lanes vcvtph2ps   7 cycles, ports 0
//   + 5    f16 scales, 16-bit K and V
// V at 4 bits, per 32 dims: one vpmovzxbd, one shift, two vpermps, two fma, and one subtraction per
// table (16 values 0..15 minus zero): 7 or 8 uops. Masking is free, since vpermps reads four bits.
// Registers: scores 1 sum and 1 float sum per block; accumulate 8 sums (128 dims), the table, two
// indices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/types.hpp"
#include "rrs/kv_cache/kv_kernels.hpp"
#include "rrs/kv_cache/kv_page.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx512 {

RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512i kv_query_s8x64(const std::int8_t* query) noexcept {
  std::int32_t four;
  std::memcpy(&four, query, sizeof four);
  return _mm512_set1_epi32(four);
}

// Sums of one block (16 tokens) over dims [first, last), both multiples of 8.
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512i kv_sums4(const std::uint8_t* block,
                                                    const std::int8_t* query, std::int64_t first,
                                                    std::int64_t last) noexcept {
  const __m512i mask = _mm512_set1_epi8(15);
  __m512i sum_i32x16 = _mm512_setzero_si512();
  while (first < last) {
    const std::int64_t stop = last - first < 32 ? last : first + 32;
    __m512i part_i16x32 = _mm512_setzero_si512();
    for (; first < stop; first += 8) {
      const __m512i both = _mm512_loadu_si512(block + first * 8);
      const __m512i low_u8x64 = _mm512_and_si512(both, mask);
      const __m512i high_u8x64 = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
      part_i16x32 = _mm512_add_epi16(
          part_i16x32, _mm512_maddubs_epi16(low_u8x64, kv_query_s8x64(query + first)));
      part_i16x32 = _mm512_add_epi16(
          part_i16x32, _mm512_maddubs_epi16(high_u8x64, kv_query_s8x64(query + first + 4)));
    }
    sum_i32x16 = _mm512_add_epi32(sum_i32x16, _mm512_madd_epi16(part_i16x32, _mm512_set1_epi16(1)));
  }
  return sum_i32x16;
}

RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512i kv_sums8(const std::uint8_t* block,
                                                    const std::int8_t* query, std::int64_t first,
                                                    std::int64_t last) noexcept {
  __m512i sum_i32x16 = _mm512_setzero_si512();
  for (; first < last; first += 4) {
    const __m512i query_s8x64 = kv_query_s8x64(query + first);
    const __m512i both = _mm512_loadu_si512(block + first * 16);
    const __m512i even_u16x32 = _mm512_and_si512(both, _mm512_set1_epi16(255));
    const __m512i odd_u16x32 = _mm512_srli_epi16(both, 8);
    const __m512i even_i16x32 = _mm512_srai_epi16(_mm512_slli_epi16(query_s8x64, 8), 8);
    const __m512i odd_i16x32 = _mm512_srai_epi16(query_s8x64, 8);
    sum_i32x16 = _mm512_add_epi32(sum_i32x16, _mm512_madd_epi16(even_u16x32, even_i16x32));
    sum_i32x16 = _mm512_add_epi32(sum_i32x16, _mm512_madd_epi16(odd_u16x32, odd_i16x32));
  }
  return sum_i32x16;
}

RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 kv_scales(const f16* scales) noexcept {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
}

RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512i kv_16_bytes(const std::uint8_t* bytes) noexcept {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}

// fma(float(sum - zero * query_sum), scale, acc) for 16 tokens of group g, from token t.
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 kv_close_group(const KvScoreArgs& a, std::int64_t g,
                                                         int t, __m512i sum_i32x16,
                                                         __m512 acc_f32x16) noexcept {
  const std::int64_t at = g * kKvPageTokens + t;
  __m512i zero_i32x16 = _mm512_set1_epi32(a.zero);
  if (a.zeros != nullptr) zero_i32x16 = kv_16_bytes(a.zeros + at);
  const __m512i shift_i32x16 = _mm512_mullo_epi32(zero_i32x16, _mm512_set1_epi32(a.query_sums[g]));
  const __m512 exact_f32x16 = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum_i32x16, shift_i32x16));
  return _mm512_fmadd_ps(exact_f32x16, kv_scales(a.scales + at), acc_f32x16);
}

template <int kBits>
RRS_TARGET_AVX512 inline void kv_scores(const KvScoreArgs& a) noexcept {
  for (int b = a.first_block; b < a.last_block; ++b) {
    const std::uint8_t* block = a.codes + b * a.block_bytes;
    const int t = b * kKvBlockTokens;
    __m512 acc_f32x16 = _mm512_setzero_ps();
    for (std::int64_t g = 0; g < a.groups; ++g) {
      const std::int64_t first = g * a.group;
      const std::int64_t last = a.dims - first < a.group ? a.dims : first + a.group;
      const __m512i sum_i32x16 = kBits == 4 ? kv_sums4(block, a.query, first, last)
                                            : kv_sums8(block, a.query, first, last);
      acc_f32x16 = kv_close_group(a, g, t, sum_i32x16, acc_f32x16);
    }
    _mm512_storeu_ps(a.out + t, _mm512_mul_ps(acc_f32x16, _mm512_set1_ps(a.query_scale)));
  }
}

template <int kBlocks>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void kv_scores16_blocks(const KvScoreArgs& a, int b) noexcept {
  __m512 acc_f32x16[std::size_t{kBlocks}];
#pragma GCC unroll 16
  for (int i = 0; i < kBlocks; ++i) acc_f32x16[i] = _mm512_setzero_ps();
  const std::uint8_t* block = a.codes + b * a.block_bytes;
  for (std::int64_t d = 0; d < a.dims; ++d) {
    const __m512 query_f32x16 = _mm512_set1_ps(a.query_f32[d]);
#pragma GCC unroll 16
    for (int i = 0; i < kBlocks; ++i) {
      const auto* k = reinterpret_cast<const f16*>(block + i * a.block_bytes + d * 32);
      acc_f32x16[i] = _mm512_fmadd_ps(query_f32x16, kv_scales(k), acc_f32x16[i]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kBlocks; ++i) {
    _mm512_storeu_ps(a.out + (b + i) * kKvBlockTokens, acc_f32x16[i]);
  }
}

RRS_TARGET_AVX512 inline void kv_scores16(const KvScoreArgs& a) noexcept {
  int b = a.first_block;
  for (; b + 4 <= a.last_block; b += 4) kv_scores16_blocks<4>(a, b);
  for (; b < a.last_block; ++b) kv_scores16_blocks<1>(a, b);
}

// What the inner loop of accumulate reads per token and group.
struct KvFolded {
  alignas(64) float p[kKvPageTokens];
  alignas(64) float scaled[kKvSlab / 16 * kKvPageTokens];  // [group][64] p * scale
  alignas(64) float zeros[kKvSlab / 16 * kKvPageTokens];   // [group][64]
};

// Whole vectors of 16 tokens that cover [first, last); those outside get p = 0 and are not used.
RRS_TARGET_AVX512 RRS_FORCE_INLINE void kv_fold(const KvAccumulateArgs& a, KvFolded* f) noexcept {
  _mm512_store_ps(f->p + a.first / 16 * 16, _mm512_setzero_ps());
  _mm512_store_ps(f->p + (a.last - 1) / 16 * 16, _mm512_setzero_ps());
  std::memcpy(f->p + a.first, a.p, static_cast<std::size_t>(a.last - a.first) * sizeof(float));
  for (int first = 0, g = 0; first < a.dims; first += a.group, ++g) {
    for (int t = a.first / 16 * 16; t < a.last; t += 16) {
      const int at = g * kKvPageTokens + t;
      const __m512 p_f32x16 = _mm512_load_ps(f->p + t);
      _mm512_store_ps(f->scaled + at, _mm512_mul_ps(p_f32x16, kv_scales(a.scales + at)));
      __m512i zero_i32x16 = _mm512_set1_epi32(a.zero);
      if (a.zeros != nullptr) zero_i32x16 = kv_16_bytes(a.zeros + at);
      _mm512_store_ps(f->zeros + at, _mm512_cvtepi32_ps(zero_i32x16));
    }
  }
}

// 0..15 minus zero: exact.
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 kv_table(float zero) noexcept {
  const __m512 code_f32x16 = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_sub_ps(code_f32x16, _mm512_set1_ps(zero));
}

// One token: 32 dims at 4 bits, at[0] and at[1] the group offsets of its halves.
template <bool kOneGroup>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void kv_add4(const std::uint8_t* codes, const KvFolded& f,
                                                const int* at, int t, __m512* out_f32x16) noexcept {
  const __m512i both_i32x16 = kv_16_bytes(codes);
  const __m512i high_i32x16 = _mm512_srli_epi32(both_i32x16, 4);
  const __m512 low_table = kv_table(f.zeros[at[0] + t]);
  const __m512 low_scaled_f32x16 = _mm512_set1_ps(f.scaled[at[0] + t]);
  const __m512 high_table = kOneGroup ? low_table : kv_table(f.zeros[at[1] + t]);
  const __m512 high_scaled_f32x16 =
      kOneGroup ? low_scaled_f32x16 : _mm512_set1_ps(f.scaled[at[1] + t]);
  out_f32x16[0] = _mm512_fmadd_ps(low_scaled_f32x16, _mm512_permutexvar_ps(both_i32x16, low_table),
                                  out_f32x16[0]);
  out_f32x16[1] = _mm512_fmadd_ps(high_scaled_f32x16,
                                  _mm512_permutexvar_ps(high_i32x16, high_table), out_f32x16[1]);
}

// One token: 16 dims at 8 bits.
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512 kv_add8(const std::uint8_t* codes, const KvFolded& f,
                                                  int at, __m512 out_f32x16) noexcept {
  const __m512 code_f32x16 = _mm512_cvtepi32_ps(kv_16_bytes(codes));
  const __m512 centered_f32x16 = _mm512_sub_ps(code_f32x16, _mm512_set1_ps(f.zeros[at]));
  return _mm512_fmadd_ps(_mm512_set1_ps(f.scaled[at]), centered_f32x16, out_f32x16);
}

// kDims dims from dim `first`, all tokens, sums in registers.
template <int kBits, int kDims, bool kOneGroup>
RRS_TARGET_AVX512 inline void kv_add_part(const KvAccumulateArgs& a, const KvFolded& f,
                                          int first) noexcept {
  constexpr int kVectors = kDims / 16;
  __m512 out_f32x16[std::size_t{kVectors}];
  int at[std::size_t{kVectors}];
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) {
    out_f32x16[i] = _mm512_loadu_ps(a.out + first + i * 16);
    at[i] = (first + i * 16) / a.group * kKvPageTokens;
  }
  for (int t = a.first; t < a.last; ++t) {
    const std::uint8_t* codes = a.codes + t * a.row_bytes + first * kBits / 8;
#pragma GCC unroll 16
    for (int i = 0; i < kVectors; i += kBits == 4 ? 2 : 1) {
      if (kBits == 4) {
        kv_add4<kOneGroup>(codes + i * 8, f, at + i, t, out_f32x16 + i);
      } else if (kBits == 8) {
        out_f32x16[i] = kv_add8(codes + i * 16, f, at[i] + t, out_f32x16[i]);
      } else {
        const __m512 v_f32x16 = kv_scales(reinterpret_cast<const f16*>(codes + i * 32));
        out_f32x16[i] = _mm512_fmadd_ps(_mm512_set1_ps(a.p[t - a.first]), v_f32x16, out_f32x16[i]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) _mm512_storeu_ps(a.out + first + i * 16, out_f32x16[i]);
}

template <int kBits, bool kOneGroup>
RRS_TARGET_AVX512 RRS_FORCE_INLINE void kv_add_slab(const KvAccumulateArgs& a,
                                                    const KvFolded& f) noexcept {
  int first = 0;
  for (; first + 128 <= a.dims; first += 128) kv_add_part<kBits, 128, kOneGroup>(a, f, first);
  for (; first + 64 <= a.dims; first += 64) kv_add_part<kBits, 64, kOneGroup>(a, f, first);
  for (; first + 32 <= a.dims; first += 32) kv_add_part<kBits, 32, kOneGroup>(a, f, first);
  if (kBits == 4) return;
  for (; first < a.dims; first += 16) kv_add_part<kBits, kBits == 4 ? 32 : 16, true>(a, f, first);
}

template <int kBits>
RRS_TARGET_AVX512 inline void kv_accumulate(const KvAccumulateArgs& a) noexcept {
  KvFolded folded;
  if (kBits != 16) kv_fold(a, &folded);
  if (kBits == 4 && a.group < 32) return kv_add_slab<kBits, kBits != 4>(a, folded);
  kv_add_slab<kBits, true>(a, folded);
}

constexpr KvKernels kv_kernels(KvKernels lower) {
  lower.scores4 = &kv_scores<4>;
  lower.scores8 = &kv_scores<8>;
  lower.scores16 = &kv_scores16;
  lower.accumulate4 = &kv_accumulate<4>;
  lower.accumulate8 = &kv_accumulate<8>;
  lower.accumulate16 = &kv_accumulate<16>;
  return lower;
}

}  // namespace avx512

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
