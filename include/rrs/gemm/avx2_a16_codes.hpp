// Stored codes to exact floats, 8 lanes at a time, for the AVX2 tiles of float activations.
//
// from: pack/layout.hpp.  to: avx2_a16.hpp.  A code is shifted into the mantissa of a power of two,
// which is subtracted, zero point and all: shift, and, or, subtract.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"

#if RRS_X86_64
#include <immintrin.h>

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace avx2 {

// The power of two whose mantissa a code enters `bit` bits up, as bits; what is subtracted again.
constexpr int code_magic(int bit) { return (127 + 23 - bit) << 23; }
constexpr int code_minus(int bit, int zero) { return (1 << (23 - bit)) + zero; }

// 8 codes that begin kBit bits up in their lanes, minus kZero, as exact floats.
template <int kWeightBits, int kBit, int kZero>
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 codes_at(__m256i w) noexcept {
  constexpr int kMask = ((1 << kWeightBits) - 1) << kBit;
  const __m256i bits_i32x8 = _mm256_or_si256(_mm256_and_si256(w, _mm256_set1_epi32(kMask)),
                                             _mm256_set1_epi32(code_magic(kBit)));
  return _mm256_sub_ps(_mm256_castsi256_ps(bits_i32x8), _mm256_set1_ps(code_minus(kBit, kZero)));
}

// 8 codes of input kInput: nibble 2j of its dword for j below 4, nibble 2(j-4)+1 above; W8: byte j.
// Inputs 2 apart (W8: 1 apart) share a shift.
template <int kWeightBits>
constexpr int code_shift(int input) {
  return kWeightBits == 8 ? input / 2 * 16 : input % 2 * 8 + input / 4 * 4;
}
template <int kWeightBits>
constexpr int code_bit(int input) {
  return kWeightBits == 8 ? input % 2 * 8 : input % 4 / 2 * 16;
}
template <int kWeightBits, int kInput, int kZero>
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 input_codes(__m256i w) noexcept {
  return codes_at<kWeightBits, code_bit<kWeightBits>(kInput), kZero>(
      _mm256_srli_epi32(w, code_shift<kWeightBits>(kInput)));
}

// Constants of codes_at, in memory.
template <int kBit, int kZero>
struct alignas(32) CodeConstants {
  std::int32_t magic[8] = {};
  float minus[8] = {};
  RRS_MEMBER constexpr CodeConstants() noexcept {
    for (int i = 0; i < 8; ++i) {
      magic[i] = code_magic(kBit);
      minus[i] = static_cast<float>(code_minus(kBit, kZero));
    }
  }
};
template <int kBit, int kZero>
inline constexpr CodeConstants<kBit, kZero> kCodeConstants{};

// input_codes with two of its constants from memory, for 5 rows, which leave three registers for
// all: else both compilers keep them on the stack, and Clang 14 sums, too, whose stores cross cache
// lines or not with the stack's position (1.0 or 1.7 times as long, by the process). Up to 4 rows
// are bound by loads: 1.13 to 1.35 times as long this way.
template <int kWeightBits, int kInput, int kZero>
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 tight_codes(__m256i w) noexcept {
  constexpr int kShift = code_shift<kWeightBits>(kInput), kBit = code_bit<kWeightBits>(kInput);
  const auto& c = kCodeConstants<kBit, kZero>;
  if (kShift != 0) w = _mm256_srli_epi32(w, kShift);
  __m256 codes_f32x8 =
      _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32(((1 << kWeightBits) - 1) << kBit)));
  __asm__(
      "{vpor %1, %0, %0|vpor %0, %0, %1}\n"
      "{vsubps %2, %0, %0|vsubps %0, %0, %2}"
      : "+x"(codes_f32x8)
      : "m"(c.magic), "m"(c.minus));
  return codes_f32x8;
}
template <int kWeightBits, unsigned R, int kInput, int kZero>
RRS_TARGET_AVX2 RRS_FORCE_INLINE __m256 stream_codes(__m256i w) noexcept {
  return R < 5 ? input_codes<kWeightBits, kInput, kZero>(w)
               : tight_codes<kWeightBits, kInput, kZero>(w);
}

}  // namespace avx2

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP
#endif
