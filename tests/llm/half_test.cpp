// binary16 and bfloat16: exact widening against the format's formula, rounding to nearest even.

#include "../../examples/support/half.hpp"

#include <cmath>
#include <cstdint>

#include <gtest/gtest.h>

namespace {

using namespace rrs_examples;

double f16_by_formula(unsigned half) {
  const int exponent = static_cast<int>((half >> 10) & 31u);
  const double mantissa = static_cast<double>(half & 1023u);
  const double sign = (half & 0x8000u) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return mantissa == 0.0 ? sign * HUGE_VAL : std::nan("");
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024.0 + mantissa, exponent - 25);
}

TEST(Half, WidensEveryValueAndNarrowsItBack) {
  int checked = 0;
  for (unsigned half = 0; half < 65536; ++half) {
    const float value = f16_to_f32(static_cast<std::uint16_t>(half));
    const double expected = f16_by_formula(half);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(value)) << half;
      EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(value)))) << half;
    } else {
      EXPECT_EQ(static_cast<double>(value), expected) << half;
      EXPECT_EQ(f32_to_f16(value), half);
      EXPECT_EQ(std::signbit(value), (half & 0x8000u) != 0) << half;
    }
    ++checked;
  }
  EXPECT_EQ(checked, 65536);
}

TEST(Half, RoundsToNearestEven) {
  // Between each finite pair of neighbours: below, at and above the midpoint.
  for (unsigned half = 0; half < 0x7bffu; ++half) {
    const double low = f16_by_formula(half);
    const double high = f16_by_formula(half + 1);
    const auto middle = static_cast<float>((low + high) / 2.0);
    EXPECT_EQ(f32_to_f16(middle), half + (half & 1u)) << half;
    EXPECT_EQ(f32_to_f16(std::nextafter(middle, 0.0f)), half) << half;
    EXPECT_EQ(f32_to_f16(std::nextafter(middle, 1e9f)), half + 1) << half;
  }
  EXPECT_EQ(f32_to_f16(65519.996f), 0x7bffu);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00u);
  EXPECT_EQ(f32_to_f16(-1e30f), 0xfc00u);
}

TEST(Half, Bfloat16) {
  EXPECT_EQ(bf16_to_f32(0x3f80), 1.0f);
  EXPECT_EQ(bf16_to_f32(0xc040), -3.0f);
  EXPECT_EQ(f32_to_bf16(1.0f), 0x3f80u);
  EXPECT_EQ(f32_to_bf16(float_from_bits(0x3f808000u)), 0x3f80u);  // tie, even below
  EXPECT_EQ(f32_to_bf16(float_from_bits(0x3f818000u)), 0x3f82u);  // tie, even above
  EXPECT_EQ(f32_to_bf16(float_from_bits(0x3f808001u)), 0x3f81u);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::nanf("")))));
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(float_from_bits(0x7f800001u)))));
}

}  // namespace
