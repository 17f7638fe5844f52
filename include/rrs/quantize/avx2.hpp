// AVX2 leaves of the activation quantizer.
//
//   vmulps, vmaxps, vminps, vcvtps2dq   4 cycles, ports 0 and 1   one each per 8 values
//   vpackssdw, vpacksswb, vpermd        1 / 1 / 3 cycles, port 5  32 codes from four registers
//   vpsadbw                             3 cycles, port 5          sums of 8 biased codes
// Registers: 2 constants, 1 inverse, 4 values in flight.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/quantize/scalar.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256i codes_of(__m256 x_f32x8, __m256 inverse_f32x8,
                                                  __m256 low_f32x8, __m256 high_f32x8) noexcept {
  const __m256 scaled_f32x8 = _mm256_mul_ps(x_f32x8, inverse_f32x8);
  const __m256 raised_f32x8 = _mm256_max_ps(scaled_f32x8, low_f32x8);
  return _mm256_cvtps_epi32(_mm256_min_ps(raised_f32x8, high_f32x8));
}

// Four registers of 32-bit codes to 32 bytes in order. The packs saturate, and work per 128-bit
// lane, so dword 4 l + j (lane l, register j) must move to 2 j + l.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256i packed_codes(__m256i a_i32x8, __m256i b_i32x8,
                                                      __m256i c_i32x8, __m256i d_i32x8) noexcept {
  const __m256i ab_i16x16 = _mm256_packs_epi32(a_i32x8, b_i32x8);
  const __m256i cd_i16x16 = _mm256_packs_epi32(c_i32x8, d_i32x8);
  return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(ab_i16x16, cd_i16x16),
                                     _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// Values [first, last) under one inverse; the last few go through the scalar code.
RRS_TARGET_AVX2 RRS_FORCE_INLINE void quantize_run(const float* x, std::int64_t n, float inverse,
                                                   __m256 low_f32x8, __m256 high_f32x8,
                                                   std::int8_t* codes) noexcept {
  const __m256 inverse_f32x8 = _mm256_set1_ps(inverse);
  std::int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i packed_i8x32 =
        packed_codes(codes_of(_mm256_loadu_ps(x + i), inverse_f32x8, low_f32x8, high_f32x8),
                     codes_of(_mm256_loadu_ps(x + i + 8), inverse_f32x8, low_f32x8, high_f32x8),
                     codes_of(_mm256_loadu_ps(x + i + 16), inverse_f32x8, low_f32x8, high_f32x8),
                     codes_of(_mm256_loadu_ps(x + i + 24), inverse_f32x8, low_f32x8, high_f32x8));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), packed_i8x32);
  }
  for (; i + 8 <= n; i += 8) {
    const __m256i q_i32x8 = codes_of(_mm256_loadu_ps(x + i), inverse_f32x8, low_f32x8, high_f32x8);
    const __m256i packed_i8x32 = packed_codes(q_i32x8, q_i32x8, q_i32x8, q_i32x8);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + i), _mm256_castsi256_si128(packed_i8x32));
  }
  for (; i < n; ++i) {
    codes[i] =
        scalar::code_of(x[i], inverse, _mm256_cvtss_f32(low_f32x8), _mm256_cvtss_f32(high_f32x8));
  }
}

RRS_TARGET_AVX2 inline void quantize(const float* x, std::int64_t k, int group,
                                     const float* inverse, int qmax, std::int8_t* codes) noexcept {
  const __m256 low_f32x8 = _mm256_set1_ps(static_cast<float>(-qmax - 1));
  const __m256 high_f32x8 = _mm256_set1_ps(static_cast<float>(qmax));
  const std::int64_t step = group == kRowGroup ? k : group;
  for (std::int64_t first = 0, g = 0; first < k; first += step, ++g) {
    const std::int64_t n = k - first < step ? k - first : step;
    quantize_run(x + first, n, inverse[g], low_f32x8, high_f32x8, codes + first);
  }
}

// Sums of 8 codes, biased by 8 * 128.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256i sad_of(const std::int8_t* codes) noexcept {
  const __m256i code_i8x32 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  const __m256i code_u8x32 = _mm256_xor_si256(code_i8x32, _mm256_set1_epi8(-128));
  return _mm256_sad_epu8(code_u8x32, _mm256_setzero_si256());
}

RRS_TARGET_AVX2 RRS_FORCE_INLINE std::int64_t total(__m256i sum_i64x4) noexcept {
  const __m128i half_i64x2 =
      _mm_add_epi64(_mm256_castsi256_si128(sum_i64x4), _mm256_extracti128_si256(sum_i64x4, 1));
  return _mm_cvtsi128_si64(_mm_add_epi64(half_i64x2, _mm_unpackhi_epi64(half_i64x2, half_i64x2)));
}

// Biased by 128, eight codes add at most 8 * 255 = 2040 into a 64-bit lane: no overflow below 2^50
// codes.
RRS_TARGET_AVX2 inline std::int32_t sum_of(const std::int8_t* codes, std::int64_t n) noexcept {
  __m256i sum_i64x4 = _mm256_setzero_si256();
  std::int64_t i = 0;
  for (; i + 32 <= n; i += 32) sum_i64x4 = _mm256_add_epi64(sum_i64x4, sad_of(codes + i));
  std::int64_t sum = total(sum_i64x4) - 128 * i;
  for (; i < n; ++i) sum += codes[i];
  return static_cast<std::int32_t>(sum);
}

// Four sums of 32 codes.
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m128i sums_of_32(const std::int8_t* codes) noexcept {
  const __m256i ab_i32x8 =
      _mm256_or_si256(sad_of(codes), _mm256_slli_epi64(sad_of(codes + 32), 32));
  const __m256i cd_i32x8 =
      _mm256_or_si256(sad_of(codes + 64), _mm256_slli_epi64(sad_of(codes + 96), 32));
  const __m256i sum_i32x8 = _mm256_add_epi32(_mm256_unpacklo_epi64(ab_i32x8, cd_i32x8),
                                             _mm256_unpackhi_epi64(ab_i32x8, cd_i32x8));
  const __m128i sum_i32x4 =
      _mm_add_epi32(_mm256_castsi256_si128(sum_i32x8), _mm256_extracti128_si256(sum_i32x8, 1));
  return _mm_sub_epi32(sum_i32x4, _mm_set1_epi32(32 * 128));
}

RRS_TARGET_AVX2 inline void sum_codes(const std::int8_t* codes, std::int64_t k, int group,
                                      std::int32_t* sums) noexcept {
  const std::int64_t step = group == kRowGroup ? k : group;
  std::int64_t first = 0;
  if (group == 32) {
    for (; first + 128 <= k; first += 128) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + first / 32), sums_of_32(codes + first));
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

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
