// The two instructions every VNNI tile is made of: 64 products, and 4 codes of a row in all lanes.
//
// Instructions: vpdpbusd zmm p0/p5, latency 5; vpbroadcastd zmm, m32 load port only. GCC 12 copies
// accumulators around _mm512_dpbusd_epi32 (290-368 against 400 GMAC/s); the one-instruction asm
// does not.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"

#if RRS_X86_64

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx512vnni {

RRS_TARGET_AVX512VNNI RRS_FORCE_INLINE __m512i dot(__m512i acc_i32x16, __m512i w_u8x64,
                                                   __m512i a_i8x64) noexcept {
#if defined(__clang__)
  return _mm512_dpbusd_epi32(acc_i32x16, w_u8x64, a_i8x64);
#else
  __asm__("{vpdpbusd %2, %1, %0|vpdpbusd %0, %1, %2}"
          : "+v"(acc_i32x16)
          : "v"(w_u8x64), "v"(a_i8x64));
  return acc_i32x16;
#endif
}

// The same with 4 activation codes of one row, broadcast by the instruction itself.
RRS_TARGET_AVX512VNNI RRS_FORCE_INLINE __m512i dot4(__m512i acc_i32x16, __m512i w_u8x64,
                                                    const std::int8_t* codes) noexcept {
#if defined(__clang__)
  std::int32_t x;
  std::memcpy(&x, codes, sizeof x);
  return _mm512_dpbusd_epi32(acc_i32x16, w_u8x64, _mm512_set1_epi32(x));
#else
  __asm__("{vpdpbusd %2%{1to16%}, %1, %0|vpdpbusd %0, %1, %2%{1to16%}}"
          : "+v"(acc_i32x16)
          : "v"(w_u8x64), "m"(*reinterpret_cast<const char(*)[4]>(codes)));
  return acc_i32x16;
#endif
}

// 4 activation codes of one row, in all lanes.
RRS_TARGET_AVX512VNNI RRS_FORCE_INLINE __m512i broadcast4(const std::int8_t* codes) noexcept {
  std::int32_t x;
  std::memcpy(&x, codes, sizeof x);
  return _mm512_set1_epi32(x);
}

}  // namespace avx512vnni

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP

#endif
