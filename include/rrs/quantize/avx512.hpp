// AVX-512 leaves of the activation quantizer.
//
//   vmulps, vmaxps, vminps, vcvtps2dq   4 cycles, ports 0 and 5   one each per 16 values
//   vpmovdb                             2 uops, port 5            16 codes to memory
//   vpsadbw                             3 cycles, port 5          sums of 8 biased codes
// Registers: 2 constants, 1 inverse, 4 temporaries.
// Tried: packing four registers with vpackss* and one permutation (as the fused row does): it needs
// 64 values under one loop, and groups of 32 with a tail made it longer, not faster.
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

RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512i codes_of(__m512 x_f32x16, __m512 inverse_f32x16,
                                                    __m512 low_f32x16,
                                                    __m512 high_f32x16) noexcept {
  const __m512 scaled_f32x16 = _mm512_mul_ps(x_f32x16, inverse_f32x16);
  const __m512 raised_f32x16 = _mm512_max_ps(scaled_f32x16, low_f32x16);
  return _mm512_cvtps_epi32(_mm512_min_ps(raised_f32x16, high_f32x16));
}

RRS_TARGET_AVX512 inline void quantize(const float* x, std::int64_t k, int group,
                                       const float* inverse, int qmax,
                                       std::int8_t* codes) noexcept {
  const __m512 low_f32x16 = _mm512_set1_ps(static_cast<float>(-qmax - 1));
  const __m512 high_f32x16 = _mm512_set1_ps(static_cast<float>(qmax));
  const std::int64_t step = group == kRowGroup ? k : group;
  for (std::int64_t first = 0, g = 0; first < k; first += step, ++g) {
    const __m512 inverse_f32x16 = _mm512_set1_ps(inverse[g]);
    const std::int64_t last = k - first < step ? k : first + step;
    std::int64_t i = first;
    for (; i + 16 <= last; i += 16) {
      const __m512i q_i32x16 =
          codes_of(_mm512_loadu_ps(x + i), inverse_f32x16, low_f32x16, high_f32x16);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtepi32_epi8(q_i32x16));
    }
    if (i < last) {
      const __mmask16 mask = static_cast<__mmask16>((1u << (last - i)) - 1u);
      const __m512i q_i32x16 =
          codes_of(_mm512_maskz_loadu_ps(mask, x + i), inverse_f32x16, low_f32x16, high_f32x16);
      _mm512_mask_cvtepi32_storeu_epi8(codes + i, mask, q_i32x16);
    }
  }
}

// Biased by 128, eight codes add at most 8 * 255 = 2040 into a 64-bit lane: no overflow below 2^50
// codes. Masked bytes hold the bias, which is taken away as for real codes.
RRS_TARGET_AVX512 inline std::int32_t sum_of(const std::int8_t* codes, std::int64_t n) noexcept {
  const __m512i bias_u8x64 = _mm512_set1_epi8(-128);
  __m512i sum_i64x8 = _mm512_setzero_si512();
  std::int64_t biased = 0;
  for (std::int64_t i = 0; i < n; i += 64) {
    const __mmask64 mask = n - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (n - i)) - 1;
    const __m512i code_i8x64 = _mm512_maskz_loadu_epi8(mask, codes + i);
    const __m512i code_u8x64 = _mm512_xor_si512(code_i8x64, bias_u8x64);
    sum_i64x8 = _mm512_add_epi64(sum_i64x8, _mm512_sad_epu8(code_u8x64, _mm512_setzero_si512()));
    biased += 64;
  }
  return static_cast<std::int32_t>(_mm512_reduce_add_epi64(sum_i64x8) - 128 * biased);
}

// Byte 4 l + j of 16 dwords, l and j below 4, moves to 4 j + l (its own inverse).
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512i transposed_4x4(__m512i x_i32x16) noexcept {
  const __m512i index_i32x16 =
      _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(index_i32x16, x_i32x16);
}

// Sums of 16 codes each from the eight-code sums of four registers of 64 biased codes.
RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512i sums_of_16(__m512i a_i64x8, __m512i b_i64x8,
                                                      __m512i c_i64x8, __m512i d_i64x8) noexcept {
  const __m512i ab_i32x16 = _mm512_or_si512(a_i64x8, _mm512_slli_epi64(b_i64x8, 32));
  const __m512i cd_i32x16 = _mm512_or_si512(c_i64x8, _mm512_slli_epi64(d_i64x8, 32));
  const __m512i sum_i32x16 = _mm512_add_epi32(_mm512_unpacklo_epi64(ab_i32x16, cd_i32x16),
                                              _mm512_unpackhi_epi64(ab_i32x16, cd_i32x16));
  return _mm512_sub_epi32(transposed_4x4(sum_i32x16), _mm512_set1_epi32(16 * 128));
}

RRS_TARGET_AVX512 RRS_FORCE_INLINE __m512i sad_of(__m512i code_i8x64) noexcept {
  const __m512i code_u8x64 = _mm512_xor_si512(code_i8x64, _mm512_set1_epi8(-128));
  return _mm512_sad_epu8(code_u8x64, _mm512_setzero_si512());
}

// The 256 / group sums, group 16, 32, 64, 128 or 256, of 16 sums of 16 codes; `count` of them
// stored.
RRS_TARGET_AVX512 RRS_FORCE_INLINE void store_sums(__m512i sum_i32x16, int group,
                                                   std::int64_t count,
                                                   std::int32_t* sums) noexcept {
  int shift = 0;
  if (group >= 32) {
    sum_i32x16 = _mm512_add_epi32(sum_i32x16, _mm512_shuffle_epi32(sum_i32x16, _MM_PERM_CDAB));
    shift = 1;
  }
  if (group >= 64) {
    sum_i32x16 = _mm512_add_epi32(sum_i32x16, _mm512_shuffle_epi32(sum_i32x16, _MM_PERM_BADC));
    shift = 2;
  }
  if (group >= 128) {
    sum_i32x16 = _mm512_add_epi32(sum_i32x16, _mm512_shuffle_i32x4(sum_i32x16, sum_i32x16, 0xb1));
    shift = 3;
  }
  if (group >= 256) {
    sum_i32x16 = _mm512_add_epi32(sum_i32x16, _mm512_shuffle_i32x4(sum_i32x16, sum_i32x16, 0x4e));
    shift = 4;
  }
  const __m512i lane_i32x16 =
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i index_i32x16 = _mm512_sll_epi32(lane_i32x16, _mm_cvtsi32_si128(shift));
  const std::int64_t wanted = 16 >> shift;
  const unsigned lanes = static_cast<unsigned>(count < wanted ? count : wanted);
  _mm512_mask_storeu_epi32(sums, static_cast<__mmask16>((1u << lanes) - 1u),
                           _mm512_permutexvar_epi32(index_i32x16, sum_i32x16));
}

RRS_TARGET_AVX512 inline void sum_codes(const std::int8_t* codes, std::int64_t k, int group,
                                        std::int32_t* sums) noexcept {
  const std::int64_t step = group == kRowGroup ? k : group;
  std::int64_t first = 0;
  if (group == 16 || group == 32 || group == 64 || group == 128 || group == 256) {
    for (; first + 256 <= k; first += 256) {
      const std::int8_t* at = codes + first;
      const __m512i sum_i32x16 =
          sums_of_16(sad_of(_mm512_loadu_si512(at)), sad_of(_mm512_loadu_si512(at + 64)),
                     sad_of(_mm512_loadu_si512(at + 128)), sad_of(_mm512_loadu_si512(at + 192)));
      store_sums(sum_i32x16, group, 16, sums + first / group);
    }
  }
  for (std::int64_t g = step > 0 ? first / step : 0; first < k; first += step, ++g) {
    sums[g] = sum_of(codes + first, k - first < step ? k - first : step);
  }
}

constexpr QuantizeKernels quantize_kernels(QuantizeKernels lower) {
  lower.quantize = &quantize;
  lower.sum_codes = &sum_codes;
  return lower;
}

}  // namespace avx512

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
