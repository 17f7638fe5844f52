// quantize/rtn.hpp: scales, clip search and codes against the double reference.
#include "rrs/quantize/rtn.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "rrs/reference/rtn.hpp"
#include "support/compare.hpp"
#include "support/random.hpp"

namespace {

using rrs::f16;
using rrs::Range;
using rrs::WeightScale;
using rrs::WeightScheme;

double value(f16 h) { return static_cast<double>(rrs::to_f32(h)); }

WeightScheme scheme_of(int bits, Range range, WeightScale scale) {
  WeightScheme s;
  s.bits = bits;
  s.range = range;
  s.scale = scale;
  return s;
}

// Groups of several characters: normal, one outlier, one sign, tiny, large, few distinct values.
std::vector<float> group_of(int kind, std::int64_t n, std::uint64_t seed) {
  std::vector<float> w = rrs_test::normal_vector(n, seed);
  for (std::size_t i = 0; i < w.size(); ++i) {
    if (kind == 1 && i == w.size() / 2) w[i] *= 30.0f;
    if (kind == 2) w[i] = std::fabs(w[i]);
    if (kind == 3) w[i] *= 1e-3f;
    if (kind == 4) w[i] *= 3000.0f;
    if (kind == 5) w[i] = w[i] > 0.5f ? 1.0f : (w[i] < -0.5f ? -1.0f : 0.25f);
    if (kind == 6) w[i] = -std::fabs(w[i]) * 0.02f;
  }
  return w;
}
constexpr int kKinds = 7;

// Calls body(w, bits, range) for every kind, length, bits and range; returns the number of calls.
template <class Body>
int for_groups(const Body& body) {
  int cases = 0;
  for (int kind = 0; kind < kKinds; ++kind) {
    for (const std::int64_t n : {1, 7, 16, 32, 33, 100, 256}) {
      for (const int bits : {4, 8}) {
        for (const Range range : {Range::kSymmetric, Range::kFull}) {
          body(group_of(kind, n, static_cast<std::uint64_t>(kind * 1000 + n)), bits, range);
          ++cases;
        }
      }
    }
  }
  return cases;
}
constexpr int kGroupCases = kKinds * 7 * 2 * 2;

std::vector<std::int8_t> codes_of(const std::vector<float>& w, f16 scale, int bits) {
  std::vector<std::int8_t> codes(w.size());
  rrs::rtn_quantize(w.data(), static_cast<std::int64_t>(w.size()), scale, bits, codes.data());
  return codes;
}

TEST(RtnPower, WithinBoundOfDouble) {
  double worst = 0.0;
  int cases = 0;
  for (int e = -30; e < 8; ++e) {
    for (int m = 0; m < 4000; ++m) {
      const float d = std::ldexp(1.0f + static_cast<float>(m) / 4000.0f, e);
      const double exact = std::pow(static_cast<double>(d), 2.4);
      const double error =
          std::fabs(static_cast<double>(rrs::detail::error_power(d)) - exact) / exact;
      ASSERT_LE(error, 6e-7) << d;
      worst = (std::max)(worst, error);
      ++cases;
    }
  }
  EXPECT_GE(worst, 6e-7 / 50);
  EXPECT_EQ(cases, 38 * 4000);
  EXPECT_EQ(rrs::detail::error_power(0.0f), rrs::detail::error_power(0x1p-30f));
}

TEST(RtnError, VectorAndPortableFormsGiveTheSameBits) {
  int cases = 0;
  for_groups([&](const std::vector<float>& w, int bits, Range range) {
    if (w.size() < 16) return;
    rrs::detail::ErrorCandidate c;
    c.down = 1.0f;
    c.high = static_cast<float>(rrs::max_code(bits));
    c.low = -c.high - 1.0f;
    for (int i = 0; i < rrs::kClipSteps; i += 7) {
      c.scale = rrs::to_f32(rrs::reference::rtn_step_scale(w, scheme_of(bits, range, {}), i));
      c.inverse = 1.0f / c.scale;
      const float a = rrs::scalar::error_block(w.data(), c);
      const float b = rrs::scalar::error_block_portable(w.data(), c);
      ASSERT_EQ(rrs::float_bits(a), rrs::float_bits(b));
      ++cases;
    }
  });
  EXPECT_EQ(cases, kKinds * 5 * 4 * 12);
}

TEST(RtnScale, AbsmaxIsTheReferenceRoundedToF16) {
  int differ_by_one = 0;
  const int cases = for_groups([&](const std::vector<float>& w, int bits, Range range) {
    const WeightScheme s = scheme_of(bits, range, WeightScale::kAbsmax);
    const f16 scale = rrs::rtn_scale(w.data(), static_cast<std::int64_t>(w.size()), s);
    const f16 exact =
        rrs::to_f16(static_cast<float>(rrs::reference::rtn_base_scale(w, bits, range)));
    const int ulps = std::abs(static_cast<int>(scale.bits) - static_cast<int>(exact.bits));
    ASSERT_LE(ulps, 1);
    differ_by_one += ulps;
  });
  EXPECT_EQ(cases, kGroupCases);
  EXPECT_LE(differ_by_one, cases / 50);  // only ties of the two roundings
}

TEST(RtnCodes, MatchTheReferenceUpToTies) {
  std::int64_t checked = 0;
  for_groups([&](const std::vector<float>& w, int bits, Range range) {
    for (const WeightScale rule : {WeightScale::kAbsmax, WeightScale::kSearch}) {
      const WeightScheme s = scheme_of(bits, range, rule);
      const f16 scale = rrs::rtn_scale(w.data(), static_cast<std::int64_t>(w.size()), s);
      const std::vector<std::int8_t> codes = codes_of(w, scale, bits);
      for (std::size_t i = 0; i < w.size(); ++i) {
        const double quotient = static_cast<double>(w[i]) / value(scale);
        const int expected =
            rrs::reference::rtn_code(static_cast<double>(w[i]), value(scale), bits);
        const double tie = std::fabs(std::fabs(quotient - std::nearbyint(quotient)) - 0.5);
        ASSERT_TRUE(codes[i] == expected ||
                    (tie < 1e-6 * std::fabs(quotient) && std::abs(codes[i] - expected) == 1));
        ++checked;
      }
    }
  });
  EXPECT_EQ(checked, kKinds * (1 + 7 + 16 + 32 + 33 + 100 + 256) * 4 * 2);
}

// Upper bound for absmax: half a step, and it is nearly reached; lower bound: the error is not
// zero.
TEST(RtnCodes, AbsmaxErrorIsHalfAStep) {
  double worst = 0.0;
  const int cases = for_groups([&](const std::vector<float>& w, int bits, Range range) {
    const WeightScheme s = scheme_of(bits, range, WeightScale::kAbsmax);
    const f16 scale = rrs::rtn_scale(w.data(), static_cast<std::int64_t>(w.size()), s);
    const std::vector<std::int8_t> codes = codes_of(w, scale, bits);
    const double v = value(scale);
    const bool normal = std::fabs(v) >= 0x1p-14;
    for (std::size_t i = 0; i < w.size(); ++i) {
      const double error = std::fabs(v * codes[i] - static_cast<double>(w[i])) / std::fabs(v);
      // A subnormal f16 scale may be short by 2^-25, times the largest code.
      const double slack = normal ? 0.0 : rrs::max_code(bits) * 0x1p-25 / std::fabs(v);
      ASSERT_LE(error, 0.5 * (1.0 + 0x1p-9) + slack);
      if (normal) worst = (std::max)(worst, error);
    }
  });
  EXPECT_EQ(cases, kGroupCases);
  EXPECT_GE(worst, 0.45);
}

TEST(RtnSearch, ChoosesTheBestClipOfTheReference) {
  int better = 0, exact_step = 0;
  const int cases = for_groups([&](const std::vector<float>& w, int bits, Range range) {
    const WeightScheme s = scheme_of(bits, range, WeightScale::kSearch);
    const f16 scale = rrs::rtn_scale(w.data(), static_cast<std::int64_t>(w.size()), s);
    const std::vector<double> errors = rrs::reference::rtn_clip_errors(w, s);
    double best = errors[0], largest = 0.0;
    for (const double e : errors) best = (std::min)(best, e);
    for (const float x : w) largest = (std::max)(largest, std::fabs(static_cast<double>(x)));
    const double floor = static_cast<double>(w.size()) * std::pow(largest * 0x1p-29, 2.4);
    const double chosen = rrs::reference::rtn_error(w, value(scale), bits);
    ASSERT_LE(chosen, best * (1.0 + 1e-6) + floor) << "n " << w.size() << " bits " << bits;
    ASSERT_LE(chosen, errors[0] * (1.0 + 1e-6) + floor);  // never worse than absmax
    better += chosen < errors[0] * 0.999;
    for (int i = 0; i < rrs::kClipSteps; ++i) {
      if (errors[static_cast<std::size_t>(i)] == best) {
        exact_step += rrs::reference::rtn_step_scale(w, s, i).bits == scale.bits;
        break;
      }
    }
  });
  EXPECT_EQ(cases, kGroupCases);
  EXPECT_GE(better, cases / 3);  // 8 bits seldom gain
  EXPECT_GE(exact_step, cases * 9 / 10);
}

TEST(RtnSearch, LongRows) {
  int cases = 0;
  for (const std::int64_t n : {577, 2048, 4096}) {
    for (const int bits : {4, 8}) {
      const std::vector<float> w =
          rrs_test::llm_activations(1, n, -1, static_cast<std::uint64_t>(n));
      const WeightScheme s = scheme_of(bits, Range::kSymmetric, WeightScale::kSearch);
      const f16 scale = rrs::rtn_scale(w.data(), n, s);
      double best = std::numeric_limits<double>::max();
      for (const double e : rrs::reference::rtn_clip_errors(w, s)) best = (std::min)(best, e);
      EXPECT_LE(rrs::reference::rtn_error(w, value(scale), bits), best * (1.0 + 1e-6));
      ++cases;
    }
  }
  EXPECT_EQ(cases, 6);
}

// Far below the floor every clip gives codes 0, hence the same error.
TEST(RtnSearch, FirstClipWinsATie) {
  const std::vector<float> w(32, 0x1p-90f);
  const WeightScheme s = scheme_of(4, Range::kSymmetric, WeightScale::kSearch);
  EXPECT_EQ(rrs::rtn_scale(w.data(), 32, s).bits, rrs::to_f16(1e-5f / 7.0f).bits);
}

// One value far outside many small ones: the best clip is near the last step.
TEST(RtnSearch, ReachesTheLastSteps) {
  std::vector<float> w = rrs_test::normal_vector(4096, 9);
  for (float& x : w) x *= 0.05f;
  w[100] = 1.0f;
  const WeightScheme s = scheme_of(4, Range::kSymmetric, WeightScale::kSearch);
  const f16 scale = rrs::rtn_scale(w.data(), 4096, s);
  const std::vector<double> errors = rrs::reference::rtn_clip_errors(w, s);
  const auto best = std::min_element(errors.begin(), errors.end());
  EXPECT_GE(best - errors.begin(), 60);
  EXPECT_LE(rrs::reference::rtn_error(w, value(scale), 4), *best * (1.0 + 1e-6));
}

TEST(RtnRange, FullMapsTheSignedExtremeToTheLowestCode) {
  int cases = 0;
  for (const float sign : {1.0f, -1.0f}) {
    for (const int bits : {4, 8}) {
      std::vector<float> w = rrs_test::normal_vector(32, 5);
      for (float& x : w) x *= 0.5f;
      w[9] = 4.0f * sign;
      const WeightScheme s = scheme_of(bits, Range::kFull, WeightScale::kAbsmax);
      const f16 scale = rrs::rtn_scale(w.data(), 32, s);
      EXPECT_EQ(value(scale) < 0.0, sign > 0.0f);
      EXPECT_EQ(codes_of(w, scale, bits)[9], -rrs::max_code(bits) - 1);
      ++cases;
    }
  }
  EXPECT_EQ(cases, 4);
  // On a tie of magnitudes the positive one is the extreme, and the other must still fit.
  const std::vector<float> tie = {1.0f, -1.0f};
  const WeightScheme s = scheme_of(4, Range::kFull, WeightScale::kAbsmax);
  EXPECT_EQ(rrs::rtn_scale(tie.data(), 2, s).bits, rrs::to_f16(-1.0f / 7.0f).bits);
}

TEST(RtnScale, ZeroTinyLargeAndNonFiniteGroups) {
  int cases = 0;
  for (const Range range : {Range::kSymmetric, Range::kFull}) {
    for (const WeightScale rule : {WeightScale::kAbsmax, WeightScale::kSearch}) {
      for (const int bits : {4, 8}) {
        const WeightScheme s = scheme_of(bits, range, rule);
        const auto scale_of = [&](float x) {
          std::vector<float> w(20, 0.0f);
          w[3] = x;
          return rrs::rtn_scale(w.data(), 20, s);
        };
        EXPECT_EQ(scale_of(0.0f).bits & 0x7fff, 0);
        EXPECT_EQ(scale_of(0x1p-101f).bits & 0x7fff, 0);
        EXPECT_EQ(codes_of(std::vector<float>(5, 0.0f), f16{0}, bits),
                  std::vector<std::int8_t>(5, 0));
        // Floored at 1e-5: the scale is a small subnormal, nothing overflows.
        const f16 tiny = scale_of(0x1p-99f);
        EXPECT_TRUE(rrs::is_finite_f16(tiny));
        EXPECT_EQ(codes_of({0x1p-99f}, tiny, bits)[0], 0);
        const float qmax = static_cast<float>(rrs::max_code(bits));
        const float top = range == Range::kFull ? qmax + 1.0f : qmax;
        EXPECT_TRUE(rrs::is_finite_f16(scale_of(65504.0f * top)));
        EXPECT_FALSE(rrs::is_finite_f16(scale_of(65520.0f * top)));
        EXPECT_FALSE(rrs::is_finite_f16(scale_of(3e38f)));
        EXPECT_FALSE(rrs::is_finite_f16(scale_of(std::numeric_limits<float>::infinity())));
        EXPECT_FALSE(rrs::is_finite_f16(scale_of(std::numeric_limits<float>::quiet_NaN())));
        EXPECT_FALSE(rrs::is_finite_f16(scale_of(-std::numeric_limits<float>::quiet_NaN())));
        ++cases;
      }
    }
  }
  EXPECT_EQ(cases, 8);
}

TEST(RtnRow, GroupsAreIndependentAndTheLastMayBeShort) {
  int cases = 0;
  for (const int group : {16, 32, 64, 128, 256, rrs::kRowGroup}) {
    for (const std::int64_t k : {1, 31, 32, 300}) {
      WeightScheme s;
      s.group = group;
      const std::vector<float> w = rrs_test::normal_vector(k, 77);
      const std::int64_t groups = rrs::group_count(k, group);
      std::vector<f16> scales(static_cast<std::size_t>(groups));
      std::vector<std::int8_t> codes(w.size());
      ASSERT_TRUE(rrs::rtn_row(w.data(), k, s, scales.data(), codes.data()));
      const std::int64_t step = group == rrs::kRowGroup ? k : group;
      for (std::int64_t g = 0; g < groups; ++g) {
        const auto end = w.begin() + (std::min)(k, (g + 1) * step);
        const std::vector<float> part(w.begin() + g * step, end);
        const f16 scale = rrs::rtn_scale(part.data(), static_cast<std::int64_t>(part.size()), s);
        ASSERT_EQ(scales[static_cast<std::size_t>(g)].bits, scale.bits);
        const std::vector<std::int8_t> expected = codes_of(part, scale, 4);
        ASSERT_TRUE(
            rrs_test::bits_equal(codes.data() + g * step, expected.data(), expected.size()));
      }
      ++cases;
    }
  }
  EXPECT_EQ(cases, 24);
}

}  // namespace
