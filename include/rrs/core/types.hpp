// Storage types: f16, bf16, Int4x2, and their exact conversions.
//
// f16 and bf16 hold bits only. Conversion to f32 is exact; conversion from f32 rounds to nearest
// even, keeps infinities, and quiets NaN. The scalar code below gives the same bits as F16C.
#pragma once

#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"

RRS_TYPES_BEGIN

// IEEE binary16, 2 bytes, bits only.
struct f16 {
  std::uint16_t bits;
};

// bfloat16, 2 bytes, bits only.
struct bf16 {
  std::uint16_t bits;
};

// Two biased 4-bit weight codes: code + 8 in each nibble, low nibble first.
struct Int4x2 {
  std::uint8_t bits;
  RRS_MEMBER int low() const noexcept { return (bits & 15) - 8; }
  RRS_MEMBER int high() const noexcept { return (bits >> 4) - 8; }
};

static_assert(sizeof(f16) == 2 && sizeof(bf16) == 2 && sizeof(Int4x2) == 1, "storage types");

// Element type of a view, where the type has been erased.
enum class ElementType : std::uint8_t { kF32, kF16, kBf16 };

template <class T>
struct ElementTypeOf;
template <>
struct ElementTypeOf<float> {
  static constexpr ElementType value = ElementType::kF32;
};
template <>
struct ElementTypeOf<f16> {
  static constexpr ElementType value = ElementType::kF16;
};
template <>
struct ElementTypeOf<bf16> {
  static constexpr ElementType value = ElementType::kBf16;
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

// The IEEE 754 bits of x, NaN payloads included.
RRS_FORCE_INLINE std::uint32_t float_bits(float x) noexcept {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// The inverse of float_bits.
RRS_FORCE_INLINE float float_from_bits(std::uint32_t bits) noexcept {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// True for every value but NaN and infinities; an integer test, so -ffast-math cannot remove it.
RRS_FORCE_INLINE bool is_finite_bits(std::uint32_t bits) noexcept {
  return (bits & 0x7f800000u) != 0x7f800000u;
}

// Exact.
inline float to_f32(f16 h) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(h.bits & 0x8000u) << 16;
  const std::uint32_t exponent = (h.bits >> 10) & 31u;
  const std::uint32_t mantissa = h.bits & 1023u;
  if (exponent == 31u) {  // infinity, or NaN made quiet
    const std::uint32_t quiet = mantissa != 0 ? 0x400000u : 0u;
    return float_from_bits(sign | 0x7f800000u | quiet | (mantissa << 13));
  }
  if (exponent != 0) return float_from_bits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // subnormal or zero, exact
  return float_from_bits(sign | float_bits(magnitude));
}

// Exact; a signalling NaN stays as it is.
inline float to_f32(bf16 h) noexcept {
  return float_from_bits(static_cast<std::uint32_t>(h.bits) << 16);
}

// For code that takes all three element types.
inline float to_f32(float x) noexcept { return x; }

// Round to nearest even; overflow gives infinity; NaN becomes quiet.
inline f16 to_f16(float x) noexcept {
  const std::uint32_t bits = float_bits(x);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // rounds to 2^16 or more
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // normal: drop 13 bits, ties to even
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  } else if (magnitude >= 0x33000000u) {  // subnormal result
    const std::uint32_t shift = 126u - (magnitude >> 23);
    const std::uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const std::uint32_t kept = mantissa >> shift;
    const std::uint32_t rest = mantissa & ((1u << shift) - 1u);
    const std::uint32_t middle = 1u << (shift - 1u);
    half = kept + ((rest > middle || (rest == middle && (kept & 1u))) ? 1u : 0u);
  } else {
    half = 0;
  }
  return f16{static_cast<std::uint16_t>(sign | half)};
}

// Round to nearest even; overflow gives infinity; NaN becomes quiet.
inline bf16 to_bf16(float x) noexcept {
  const std::uint32_t bits = float_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return bf16{static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  }
  return bf16{static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

RRS_FUNCTIONS_END
