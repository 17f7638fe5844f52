#pragma once
// IEEE binary16 and bfloat16 to and from float, in plain integer code.
//
// From / to: the file readers (safetensors, GGUF) and the tests that write tiny files.
// Why by hand: the readers must work on any x86-64 without F16C, and a file's reading is never the
// bottleneck. Exactness: widening is exact; narrowing rounds to nearest, ties to even.

#include <cstdint>
#include <cstring>

namespace rrs_examples {

inline float float_from_bits(std::uint32_t bits) noexcept {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline std::uint32_t bits_from_float(float value) noexcept {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float f16_to_f32(std::uint16_t half) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fu;
  const std::uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1f) return float_from_bits(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return float_from_bits(sign | ((exponent + 112) << 23) | (mantissa << 13));
  // Subnormal: mantissa * 2^-24 is exact in float.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return float_from_bits(sign | bits_from_float(magnitude));
}

inline std::uint16_t f32_to_f16(float value) noexcept {
  const std::uint32_t bits = bits_from_float(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const auto with_sign = [sign](std::uint32_t half) {
    return static_cast<std::uint16_t>(sign | half);
  };
  if (magnitude > 0x7f800000u) return with_sign(0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x47800000u) return with_sign(0x7c00u);  // 65536 and above, and infinity
  std::uint32_t kept;
  std::uint32_t rest;
  std::uint32_t half_unit;
  if (magnitude >= 0x38800000u) {  // normal binary16: at least 2^-14
    kept = (magnitude - 0x38000000u) >> 13;
    rest = magnitude & 0x1fffu;
    half_unit = 0x1000u;
  } else {
    const std::uint32_t exponent = magnitude >> 23;
    if (exponent < 102) return with_sign(0);  // below 2^-25
    const std::uint32_t shift = 126 - exponent;
    const std::uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    kept = mantissa >> shift;
    rest = mantissa & ((1u << shift) - 1u);
    half_unit = 1u << (shift - 1);
  }
  // A carry out of the mantissa moves to the next exponent, up to infinity: what rounding asks for.
  if (rest > half_unit || (rest == half_unit && (kept & 1u) != 0)) ++kept;
  return with_sign(kept);
}

inline float bf16_to_f32(std::uint16_t value) noexcept {
  return float_from_bits(static_cast<std::uint32_t>(value) << 16);
}

inline std::uint16_t f32_to_bf16(float value) noexcept {
  const std::uint32_t bits = bits_from_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace rrs_examples
