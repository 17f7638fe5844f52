// Activation codes, scales and sums: every level equal to scalar, errors bounded from both sides.
#include "rrs/quantize/quantize.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "rrs/reference/quantize.hpp"
#include "rrs/reference/smooth.hpp"
#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/random.hpp"

namespace {

using rrs_test::bits_equal;

constexpr int kGroups[] = {16, 32, 64, 128, 256, rrs::kRowGroup};

struct Row {
  std::vector<std::int8_t> codes;
  std::vector<float> scales;
  std::vector<std::int32_t> sums;
  float token = -1.0f;
  bool finite = false;
};

Row quantize(const rrs::KernelTable& table, const std::vector<float>& x,
             const rrs::ActivationScheme& scheme, int inner,
             const std::vector<float>* window_scales = nullptr) {
  const std::int64_t k = static_cast<std::int64_t>(x.size());
  const std::size_t groups = static_cast<std::size_t>(rrs::group_count(k, scheme.group));
  std::vector<float> p(groups), n(groups), inverse(groups);
  table.smooth.extremes(x.data(), k, scheme.group, p.data(), n.data());
  Row row;
  row.codes.assign(x.size() + 1, 99);
  row.scales.assign(groups + 1, 99.0f);
  row.sums.assign(static_cast<std::size_t>(rrs::group_count(k, inner)) + 1, 99);
  rrs::QuantizeRowArgs args;
  args.x = x.data();
  args.k = k;
  args.extremes = {p.data(), n.data(), static_cast<std::int64_t>(groups)};
  args.window_scales = window_scales == nullptr ? nullptr : window_scales->data();
  args.group = scheme.group;
  args.inner_group = inner;
  args.range = scheme.range;
  args.clip = scheme.clip;
  args.qmax = rrs::max_code(scheme.bits);
  args.token_scale = scheme.token_scale;
  args.inverse = inverse.data();
  args.codes = row.codes.data();
  args.scales = row.scales.data();
  args.sums = row.sums.data();
  row.finite = rrs::quantize_row(table.quantize, args, &row.token);
  EXPECT_EQ(row.codes.back(), 99) << "wrote past the row";
  EXPECT_EQ(row.scales.back(), 99.0f);
  EXPECT_EQ(row.sums.back(), 99);
  row.codes.pop_back();
  row.scales.pop_back();
  row.sums.pop_back();
  return row;
}

rrs::ActivationScheme scheme_of(int bits, int group, rrs::Range range, float clip) {
  rrs::ActivationScheme s;
  s.bits = bits;
  s.group = group;
  s.range = range;
  s.clip = clip;
  return s;
}

void expect_same(const Row& a, const Row& b) {
  ASSERT_TRUE(bits_equal(a.codes, b.codes));
  ASSERT_TRUE(bits_equal(a.scales, b.scales));
  ASSERT_TRUE(bits_equal(a.sums, b.sums));
  ASSERT_TRUE(bits_equal(&a.token, &b.token, 1));
  ASSERT_EQ(a.finite, b.finite);
}

TEST(ActivationQuantize, LevelsAgreeAtEveryLength) {
  std::vector<std::int64_t> ks;
  for (std::int64_t k = 1; k <= 300; ++k) ks.push_back(k);
  for (std::int64_t k : {576, 1536, 4099}) ks.push_back(k);
  int cases = 0;
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    for (const std::int64_t k : ks) {
      const std::vector<float> x =
          rrs_test::llm_activations(1, k, k % 3 == 0 ? 0 : -1, static_cast<std::uint64_t>(k));
      for (const int group : kGroups) {
        const rrs::Range range = k % 2 ? rrs::Range::kFull : rrs::Range::kSymmetric;
        const rrs::ActivationScheme s =
            scheme_of(2 + static_cast<int>(k % 7), group, range, k % 5 ? 1.0f : 0.9f);
        const int inner = group == rrs::kRowGroup ? (k % 2 ? 32 : group) : (k % 3 ? group : 16);
        const std::vector<float> window(static_cast<std::size_t>(rrs::group_count(k, group)), 3.0f);
        expect_same(quantize(table, x, s, inner),
                    quantize(rrs_test::table_of(rrs::Isa::kScalar), x, s, inner));
        expect_same(quantize(table, x, s, inner, &window),
                    quantize(rrs_test::table_of(rrs::Isa::kScalar), x, s, inner, &window));
        if (testing::Test::HasFatalFailure()) return;
        ++cases;
      }
    }
  });
  EXPECT_EQ(cases, 303 * 6 * static_cast<int>(rrs_test::supported_isas().size()));
}

// Against the double oracle: scales within 4 ulp, sums exact, and |x - s q| <= |s| / 2 where
// nothing clips; the bound is nearly reached. Clipped values have the extreme code.
void check_errors(const Row& row, const rrs::reference::QuantizedRow& want,
                  const std::vector<float>& x, const rrs::ActivationScheme& s, int inner) {
  const int qmax = rrs::max_code(s.bits);
  const std::size_t step = s.group == rrs::kRowGroup ? x.size() : static_cast<std::size_t>(s.group);
  ASSERT_EQ(row.scales.size(), want.scales.size());
  for (std::size_t g = 0; g < row.scales.size(); ++g) {
    ASSERT_LE(std::abs(static_cast<double>(row.scales[g]) - want.scales[g]),
              0x1p-22 * std::abs(want.scales[g]));
  }
  ASSERT_LE(std::abs(static_cast<double>(row.token) - want.token_scale),
            0x1p-22 * std::abs(want.token_scale));
  double worst = 0.0;
  std::vector<std::int32_t> sums(row.sums.size(), 0);
  const std::size_t inner_step = inner == 0 ? x.size() : static_cast<std::size_t>(inner);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double step_size =
        static_cast<double>(row.scales[i / step]) * static_cast<double>(row.token);
    const int q = row.codes[i];
    sums[i / inner_step] += q;
    ASSERT_GE(q, -qmax - 1);
    ASSERT_LE(q, qmax);
    const double scaled = static_cast<double>(x[i]) / step_size;
    if (scaled > qmax + 0.5) {
      ASSERT_EQ(q, qmax);
    } else if (scaled < -qmax - 1.5) {
      ASSERT_EQ(q, -qmax - 1);
    } else {
      const double error = std::abs(scaled - q);
      ASSERT_LE(error, 0.5 * (1.0 + 0x1p-15)) << "element " << i;
      worst = std::max(worst, error);
    }
    if (s.clip == 1.0f) {
      ASSERT_LE(scaled, qmax + 0.001) << "clip 1 clips nothing";
      ASSERT_GE(scaled, -qmax - 1.001);
    }
  }
  ASSERT_GE(worst, 0.45) << "the bound must be reached";
  ASSERT_TRUE(bits_equal(row.sums, sums));
}

TEST(ActivationQuantize, ErrorsAreBoundedFromBothSides) {
  const std::vector<float> x = rrs_test::normal_vector(4099, 21);
  std::vector<float> window(257);
  int cases = 0;
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    for (int bits = 2; bits <= 8; ++bits) {
      for (const int group : kGroups) {
        for (const rrs::Range range : {rrs::Range::kFull, rrs::Range::kSymmetric}) {
          for (const float clip : {1.0f, 0.9f, 0.5f}) {
            rrs::ActivationScheme s = scheme_of(bits, group, range, clip);
            const int inner = group == 64 ? 32 : group;
            check_errors(quantize(table, x, s, inner),
                         rrs::reference::quantize_row(x.data(), 4099, s, inner, nullptr), x, s,
                         inner);
            // Wide: scales that some other row of the window made larger.
            const std::vector<double> own =
                rrs::reference::window_scales(x.data(), 1, 4099, group, 0.0);
            window.assign(own.begin(), own.end());
            for (std::size_t g = 0; g < window.size(); g += 3) window[g] *= 1.7f;
            const std::vector<double> given(window.begin(), window.end());
            for (const bool token_scale : {true, false}) {
              s.token_scale = token_scale;
              check_errors(quantize(table, x, s, inner, &window),
                           rrs::reference::quantize_row(x.data(), 4099, s, inner, &given), x, s,
                           inner);
            }
            if (testing::Test::HasFatalFailure()) {
              FAIL() << bits << " bits, group " << group << ", clip " << clip;
            }
            ++cases;
          }
        }
      }
    }
  });
  EXPECT_EQ(cases, 7 * 6 * 2 * 3 * static_cast<int>(rrs_test::supported_isas().size()));
}

TEST(ActivationQuantize, FullRangeMakesTheExtremeTheLowestCode) {
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    for (int bits = 2; bits <= 8; ++bits) {
      const int qmax = rrs::max_code(bits);
      const rrs::ActivationScheme s = scheme_of(bits, 32, rrs::Range::kFull, 1.0f);
      std::vector<float> x(96, 0.25f);
      x[3] = 5.0f;                  // positive extreme: negative scale
      x[40] = -5.0f;                // negative extreme: positive scale
      x[70] = 5.0f, x[71] = -5.0f;  // a tie counts as positive; the other sign sets the step
      const Row row = quantize(table, x, s, 32);
      EXPECT_EQ(row.codes[3], -qmax - 1);
      EXPECT_LT(row.scales[0], 0.0f);
      EXPECT_EQ(row.codes[40], -qmax - 1);
      EXPECT_GT(row.scales[1], 0.0f);
      EXPECT_LT(row.scales[2], 0.0f);
      EXPECT_EQ(row.scales[2], -(5.0f / static_cast<float>(qmax)));
      EXPECT_EQ(row.codes[70], -qmax);
      EXPECT_EQ(row.codes[71], qmax);
    }
  });
}

// rint(x r) at exact halves: to even, on every level. s = 1 is exact here.
TEST(ActivationQuantize, TiesGoToEven) {
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    std::vector<float> x(37);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = -9.0f + 0.5f * static_cast<float>(i);
    std::vector<std::int8_t> codes(37);
    const float inverse[] = {1.0f};
    table.quantize.quantize(x.data(), 37, rrs::kRowGroup, inverse, 7, codes.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float want = std::min(std::max(std::nearbyint(x[i]), -8.0f), 7.0f);
      EXPECT_EQ(static_cast<float>(codes[i]), want) << x[i];
    }
  });
}

// The clamp acts before rounding: products that are huge or infinite have the right code.
TEST(ActivationQuantize, HugeProductsSaturate) {
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    for (int bits = 2; bits <= 8; ++bits) {
      const int qmax = rrs::max_code(bits);
      for (const std::int64_t k : {1, 7, 16, 33, 70}) {
        std::vector<float> x(static_cast<std::size_t>(k));
        for (std::size_t i = 0; i < x.size(); ++i) x[i] = i % 3 == 0 ? 3e38f : -3e38f;
        if (k > 5) x[5] = -0.0f;
        std::vector<std::int8_t> codes(x.size());
        for (const float inverse : {1e30f, 3e38f, 1e-30f, 1.0f}) {
          table.quantize.quantize(x.data(), k, rrs::kRowGroup, &inverse, qmax, codes.data());
          for (std::size_t i = 0; i < x.size(); ++i) {
            const int want = i == 5 ? 0 : (i % 3 == 0 ? qmax : -qmax - 1);
            ASSERT_EQ(codes[i], want);
          }
        }
      }
    }
  });
}

TEST(ActivationQuantize, ZeroTinyHugeAndSpikeRows) {
  int cases = 0;
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    for (const float value : {0.0f, -0.0f, 1e-42f, 0x1p-101f, -0x1p-101f}) {
      const Row row = quantize(table, std::vector<float>(100, value),
                               scheme_of(4, 32, rrs::Range::kFull, 1.0f), 32);
      EXPECT_TRUE(row.finite);
      EXPECT_EQ(row.codes, std::vector<std::int8_t>(100, 0));
      EXPECT_TRUE(bits_equal(row.scales, std::vector<float>(4, 0.0f))) << "+0";
      ++cases;
    }
    for (const float value : {0x1p-100f, 1e30f, 3e38f, 3.4028235e38f}) {
      for (int bits = 4; bits <= 8; ++bits) {
        for (const rrs::Range range : {rrs::Range::kFull, rrs::Range::kSymmetric}) {
          std::vector<float> x(100, value * 1e-5f);
          x[50] = -value;
          const Row row = quantize(table, x, scheme_of(bits, 32, range, 1.0f), 32);
          EXPECT_TRUE(row.finite);
          const int qmax = rrs::max_code(bits);
          EXPECT_EQ(row.codes[50], range == rrs::Range::kFull ? -qmax - 1 : -qmax);
          EXPECT_EQ(row.codes[51], 0);
          expect_same(row, quantize(rrs_test::table_of(rrs::Isa::kScalar), x,
                                    scheme_of(bits, 32, range, 1.0f), 32));
          ++cases;
        }
      }
    }
  });
  EXPECT_EQ(cases, (5 + 4 * 5 * 2) * static_cast<int>(rrs_test::supported_isas().size()));
}

TEST(ActivationQuantize, NonFiniteRowsAreMarked) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> window(19, 2.0f);
  int cases = 0;
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    for (std::size_t at = 0; at < 600; at += 13) {
      for (const float bad : {nan, -nan, inf, -inf}) {
        std::vector<float> x = rrs_test::normal_vector(600, at);
        x[at] = bad;
        for (const std::vector<float>* scales :
             {static_cast<const std::vector<float>*>(nullptr), &window}) {
          const Row row = quantize(table, x, scheme_of(4, 32, rrs::Range::kFull, 1.0f), 32, scales);
          ASSERT_FALSE(row.finite);
          ASSERT_EQ(rrs::float_bits(row.token), 0x7fc00000u);
          ASSERT_EQ(row.codes, std::vector<std::int8_t>(600, 0));
          ASSERT_EQ(row.scales, std::vector<float>(19, 0.0f));
          ASSERT_EQ(row.sums, std::vector<std::int32_t>(19, 0));
          ++cases;
        }
      }
    }
  });
  EXPECT_EQ(cases, 47 * 4 * 2 * static_cast<int>(rrs_test::supported_isas().size()));
}

TEST(ActivationQuantize, FrozenScalesOfAnySize) {
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    const std::vector<float> x = rrs_test::normal_vector(96, 4);
    const rrs::ActivationScheme s = scheme_of(4, 32, rrs::Range::kFull, 1.0f);
    std::vector<float> frozen = {1e-20f, 1.0f, 1e20f};  // far from what the row would measure
    Row row = quantize(table, x, s, 32, &frozen);
    EXPECT_TRUE(row.finite);
    expect_same(row, quantize(rrs_test::table_of(rrs::Isa::kScalar), x, s, 32, &frozen));
    EXPECT_EQ(row.scales, frozen);
    frozen = {0x1p-120f, 1.0f, 1.0f};  // below 2^-100: counts as zero
    row = quantize(table, x, s, 32, &frozen);
    EXPECT_TRUE(row.finite);
    EXPECT_EQ(row.scales[0], 0.0f);
    for (std::size_t i = 0; i < 32; ++i) EXPECT_EQ(row.codes[i], 0);
    EXPECT_LT(std::abs(row.token), 1.0f);
    std::vector<float> huge(96, 3e38f);  // x / s overflows: as a row that overflowed
    frozen = {1e-20f, 1.0f, 1.0f};
    EXPECT_FALSE(quantize(table, huge, s, 32, &frozen).finite);
    std::vector<float> tiny(96, 0.0f);  // 1 / (s a) would overflow: codes 0
    tiny[40] = 1e-40f;
    frozen = {1e-29f, 1e-29f, 1e-29f};
    row = quantize(table, tiny, s, 32, &frozen);
    EXPECT_TRUE(row.finite);
    EXPECT_EQ(row.codes, std::vector<std::int8_t>(96, 0));
  });
}

}  // namespace
