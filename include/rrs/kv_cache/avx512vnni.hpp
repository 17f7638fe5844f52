// AVX-512 VNNI leaves of the KV cache: scores on 4- and 8-bit codes.
//
//   vpdpbusd    5 cycles, port 0   u8 codes x s8 query, four products added to int32; the query is
//                                  its broadcast memory operand
// The high nibbles are used where they are, as 16 * code, with a sum of their own that is shifted
// right at the end: it is a multiple of 16, so that is exact, and one shift per 64 bytes is saved.
// Bound: 240 * 128 * 1024 dims < 2^25.
// Chains: one or two sums per block, two blocks at a time, against a latency of five.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/kv_cache/avx512.hpp"
#include "rrs/kv_cache/kv_kernels.hpp"
#include "rrs/kv_cache/kv_page.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx512vnni {

// Sums of kBlocks blocks over dims [first, last).
template <int kBits, int kBlocks>
RRS_TARGET_AVX512VNNI RRS_FORCE_INLINE void kv_sums(const KvScoreArgs& a, const std::uint8_t* block,
                                                    std::int64_t first, std::int64_t last,
                                                    __m512i* sum_i32x16) noexcept {
  constexpr int kStep = kBits == 4 ? 8 : 4;
  __m512i high_sum_i32x16[std::size_t{kBlocks}];
#pragma GCC unroll 16
  for (int i = 0; i < kBlocks; ++i) {
    sum_i32x16[i] = high_sum_i32x16[i] = _mm512_setzero_si512();
  }
  for (; first < last; first += kStep) {
    const __m512i query_s8x64 = avx512::kv_query_s8x64(a.query + first);
#pragma GCC unroll 16
    for (int i = 0; i < kBlocks; ++i) {
      const __m512i codes = _mm512_loadu_si512(block + i * a.block_bytes + first * (64 / kStep));
      if (kBits == 8) {
        sum_i32x16[i] = _mm512_dpbusd_epi32(sum_i32x16[i], codes, query_s8x64);
        continue;
      }
      const __m512i low_u8x64 = _mm512_and_si512(codes, _mm512_set1_epi8(15));
      const __m512i high_u8x64 = _mm512_andnot_si512(_mm512_set1_epi8(15), codes);
      sum_i32x16[i] = _mm512_dpbusd_epi32(sum_i32x16[i], low_u8x64, query_s8x64);
      high_sum_i32x16[i] = _mm512_dpbusd_epi32(high_sum_i32x16[i], high_u8x64,
                                               avx512::kv_query_s8x64(a.query + first + 4));
    }
  }
#pragma GCC unroll 16
  for (int i = 0; kBits == 4 && i < kBlocks; ++i) {
    sum_i32x16[i] = _mm512_add_epi32(sum_i32x16[i], _mm512_srai_epi32(high_sum_i32x16[i], 4));
  }
}

template <int kBits, int kBlocks>
RRS_TARGET_AVX512VNNI RRS_FORCE_INLINE void kv_score_blocks(const KvScoreArgs& a, int b) noexcept {
  const std::uint8_t* block = a.codes + b * a.block_bytes;
  const int t = b * kKvBlockTokens;
  __m512 acc_f32x16[std::size_t{kBlocks}];
#pragma GCC unroll 16
  for (int i = 0; i < kBlocks; ++i) acc_f32x16[i] = _mm512_setzero_ps();
  for (std::int64_t g = 0; g < a.groups; ++g) {
    const std::int64_t first = g * a.group;
    const std::int64_t last = a.dims - first < a.group ? a.dims : first + a.group;
    __m512i sum_i32x16[std::size_t{kBlocks}];
    kv_sums<kBits, kBlocks>(a, block, first, last, sum_i32x16);
#pragma GCC unroll 16
    for (int i = 0; i < kBlocks; ++i) {
      acc_f32x16[i] =
          avx512::kv_close_group(a, g, t + i * kKvBlockTokens, sum_i32x16[i], acc_f32x16[i]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kBlocks; ++i) {
    _mm512_storeu_ps(a.out + t + i * kKvBlockTokens,
                     _mm512_mul_ps(acc_f32x16[i], _mm512_set1_ps(a.query_scale)));
  }
}

template <int kBits>
RRS_TARGET_AVX512VNNI inline void kv_scores(const KvScoreArgs& a) noexcept {
  int b = a.first_block;
  for (; b + 2 <= a.last_block; b += 2) kv_score_blocks<kBits, 2>(a, b);
  for (; b < a.last_block; ++b) kv_score_blocks<kBits, 1>(a, b);
}

constexpr KvKernels kv_kernels(KvKernels lower) {
  lower.scores4 = &kv_scores<4>;
  lower.scores8 = &kv_scores<8>;
  return lower;
}

}  // namespace avx512vnni

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
