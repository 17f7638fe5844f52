// f16 and bf16 conversions: exhaustive against their definition in double, and F16C's bits.
#include "rrs/core/types.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

#include "support/random.hpp"

namespace {

// The value of binary16 bits by definition; NaN for NaN.
double f16_value(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return mantissa != 0 ? std::nan("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(Types, EveryF16ConvertsExactly) {
  int checked = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const double expected = f16_value(static_cast<std::uint16_t>(bits));
    const float got = rrs::to_f32(rrs::f16{static_cast<std::uint16_t>(bits)});
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(got)) << bits;
      ASSERT_NE(rrs::float_bits(got) & 0x400000u, 0u) << "quiet " << bits;
    } else {
      ASSERT_EQ(expected, static_cast<double>(got)) << bits;
      ASSERT_EQ(std::signbit(expected), std::signbit(got)) << bits;
    }
    ++checked;
  }
  EXPECT_EQ(checked, 65536);
}

TEST(Types, RoundTripThroughF32IsTheIdentity) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const rrs::f16 h{static_cast<std::uint16_t>(bits)};
    const rrs::bf16 b{static_cast<std::uint16_t>(bits)};
    const float fh = rrs::to_f32(h);
    const float fb = rrs::to_f32(b);
    if (!std::isnan(fh)) {
      ASSERT_EQ(rrs::to_f16(fh).bits, bits);
    }
    if (!std::isnan(fb)) {
      ASSERT_EQ(rrs::to_bf16(fb).bits, bits);
    }
  }
}

// The nearest of the two neighbours, ties to the even one, found by search.
std::uint16_t nearest_f16(float x) {
  if (std::abs(x) >= 65520.0f) return static_cast<std::uint16_t>(x < 0 ? 0xfc00 : 0x7c00);
  std::uint32_t low = 0, high = 0x7bff;  // magnitudes
  const double magnitude = std::abs(static_cast<double>(x));
  while (low < high) {
    const std::uint32_t middle = (low + high + 1) / 2;
    if (f16_value(static_cast<std::uint16_t>(middle)) <= magnitude) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const double below = f16_value(static_cast<std::uint16_t>(low));
  const double above = low == 0x7bff ? 65536.0 : f16_value(static_cast<std::uint16_t>(low + 1));
  const double down = magnitude - below, up = above - magnitude;
  const std::uint32_t best = down < up || (down == up && low % 2 == 0) ? low : low + 1;
  return static_cast<std::uint16_t>(best | (std::signbit(x) ? 0x8000u : 0u));
}

TEST(Types, F16RoundsToNearestEven) {
  rrs_test::Random random(7);
  int checked = 0;
  for (int i = 0; i < 200000; ++i) {
    const float x = rrs::float_from_bits(static_cast<std::uint32_t>(random.bits()));
    if (std::isnan(x)) {
      ASSERT_EQ(rrs::to_f16(x).bits & 0x7e00, 0x7e00);
      continue;
    }
    ASSERT_EQ(rrs::to_f16(x).bits, nearest_f16(x)) << x;
    ++checked;
  }
  for (int e = -26; e < 17; ++e) {  // around every power of two, where ties live
    for (int step = 0; step < 4096; ++step) {
      const float x = std::ldexp(1.0f + static_cast<float>(step) / 4096.0f, e);
      ASSERT_EQ(rrs::to_f16(x).bits, nearest_f16(x)) << x;
      ++checked;
    }
  }
  EXPECT_GT(checked, 300000);
}

TEST(Types, Bf16RoundsToNearestEvenAndKeepsSpecialValues) {
  EXPECT_EQ(rrs::to_bf16(1.0f).bits, 0x3f80);
  EXPECT_EQ(rrs::to_bf16(rrs::float_from_bits(0x3f808000u)).bits, 0x3f80);  // tie to even
  EXPECT_EQ(rrs::to_bf16(rrs::float_from_bits(0x3f818000u)).bits, 0x3f82);
  EXPECT_EQ(rrs::to_bf16(rrs::float_from_bits(0x7f7fffffu)).bits, 0x7f80);  // overflow
  EXPECT_EQ(rrs::to_bf16(INFINITY).bits, 0x7f80);
  EXPECT_EQ(rrs::to_bf16(rrs::float_from_bits(0x7f800001u)).bits & 0x7fc0, 0x7fc0);
}

TEST(Types, Int4x2HoldsBiasedNibbles) {
  for (int low = -8; low < 8; ++low) {
    for (int high = -8; high < 8; ++high) {
      const rrs::Int4x2 pair{static_cast<std::uint8_t>((low + 8) | ((high + 8) << 4))};
      ASSERT_EQ(pair.low(), low);
      ASSERT_EQ(pair.high(), high);
    }
  }
}

}  // namespace
