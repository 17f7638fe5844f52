// Extremes, windows, window scales, sorted channels: exact on every level.
#include "rrs/core/kernel_tables.hpp"
#include "rrs/smooth/smooth.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

#include "rrs/reference/smooth.hpp"
#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/random.hpp"

namespace {

using rrs_test::bits_equal;

constexpr int kGroups[] = {16, 32, 64, 128, 256, rrs::kRowGroup};

std::vector<std::int64_t> lengths() {
  std::vector<std::int64_t> ks;
  for (std::int64_t k = 1; k <= 300; ++k) ks.push_back(k);
  for (std::int64_t k : {512, 576, 1536, 4096, 4099}) ks.push_back(k);
  return ks;
}

// Largest magnitude among the values of one sign (negative: the other), by definition.
float extreme(const float* x, std::int64_t n, bool negative) {
  float largest = 0.0f;
  for (std::int64_t i = 0; i < n; ++i) {
    const float v = negative ? -x[i] : x[i];
    if (v > largest) largest = v;
  }
  return largest;
}

TEST(Smooth, ExtremesMatchTheDefinitionAtEveryLength) {
  int cases = 0;
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    for (const std::int64_t k : lengths()) {
      const std::vector<float> x = rrs_test::normal_vector(k, static_cast<std::uint64_t>(k));
      for (const int group : kGroups) {
        const std::int64_t groups = rrs::group_count(k, group);
        const std::int64_t step = group == rrs::kRowGroup ? k : group;
        std::vector<float> p(static_cast<std::size_t>(groups) + 1, -7.0f), n = p;
        table.smooth.extremes(x.data(), k, group, p.data(), n.data());
        for (std::int64_t g = 0; g < groups; ++g) {
          const std::int64_t count = std::min(step, k - g * step);
          ASSERT_EQ(p[static_cast<std::size_t>(g)], extreme(x.data() + g * step, count, false));
          ASSERT_EQ(n[static_cast<std::size_t>(g)], extreme(x.data() + g * step, count, true));
        }
        ASSERT_EQ(p.back(), -7.0f) << "wrote past the groups, k " << k << " group " << group;
        ASSERT_EQ(n.back(), -7.0f);
        ++cases;
      }
    }
  });
  EXPECT_EQ(cases, 305 * 6 * static_cast<int>(rrs_test::supported_isas().size()));
}

// A special value at every position of a row: same bits as scalar, and NaN / Inf are seen.
TEST(Smooth, SpecialValuesAtEveryPosition) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float specials[] = {nan, -nan, inf, -inf, 3.4e38f, -3.4e38f, 1e-40f, -1e-40f, -0.0f};
  constexpr std::int64_t k = 545;
  int seen = 0;
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    for (const int group : kGroups) {
      const std::size_t groups = static_cast<std::size_t>(rrs::group_count(k, group));
      std::vector<float> p(groups), n(groups), want_p(groups), want_n(groups);
      for (std::int64_t at = 0; at < k; at += group == 32 ? 1 : 7) {
        const float special = specials[(at + group) % 9];
        std::vector<float> x = rrs_test::normal_vector(k, 3);
        x[static_cast<std::size_t>(at)] = special;
        table.smooth.extremes(x.data(), k, group, p.data(), n.data());
        rrs::scalar::extremes(x.data(), k, group, want_p.data(), want_n.data());
        ASSERT_TRUE(bits_equal(p, want_p)) << group << " " << at;
        ASSERT_TRUE(bits_equal(n, want_n)) << group << " " << at;
        const rrs::Extremes row{p.data(), n.data(), static_cast<std::int64_t>(groups)};
        ASSERT_EQ(rrs::row_is_finite(row), std::isfinite(special)) << at;
        seen += !std::isfinite(special);
      }
    }
  });
  EXPECT_GT(seen, 200);
}

TEST(Smooth, AllNegativeAllZeroAndSubnormalRows) {
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    for (const float value : {-3.0f, 0.0f, -0.0f, 1e-42f, -1e-42f, 5.0f}) {
      const std::vector<float> x(600, value);
      std::vector<float> p(19), n(19);
      table.smooth.extremes(x.data(), 600, 32, p.data(), n.data());
      for (std::size_t g = 0; g < 19; ++g) {
        ASSERT_EQ(rrs::float_bits(p[g]), rrs::float_bits(value > 0 ? value : 0.0f));
        ASSERT_EQ(rrs::float_bits(n[g]), rrs::float_bits(value < 0 ? -value : 0.0f));
      }
    }
  });
}

TEST(Smooth, WindowsMatchTheDefinition) {
  const std::vector<std::vector<std::int64_t>> all_starts = {
      {}, {0}, {1}, {0, 5}, {3, 3, 7}, {2, 4, 11, 13}, {13}, {0, 0, 13}};
  int cases = 0;
  for (const std::int64_t m : {0, 1, 2, 12, 13}) {
    for (const std::vector<std::int64_t>& starts : all_starts) {
      const rrs::SequenceStarts given{starts.data(), static_cast<std::int64_t>(starts.size())};
      if (!starts.empty() && starts.back() > m) continue;
      ASSERT_TRUE(rrs::validate_sequence_starts(given, m).ok());
      for (const rrs::Window window :
           {rrs::Window{rrs::WindowKind::kWhole, 0}, rrs::Window{rrs::WindowKind::kRows, 1},
            rrs::Window{rrs::WindowKind::kRows, 4}, rrs::Window{rrs::WindowKind::kRows, INT64_MAX},
            rrs::Window{rrs::WindowKind::kOne, 0}, rrs::Window{rrs::WindowKind::kFrozen, 0}}) {
        const std::vector<std::int64_t> want = rrs::reference::window_of_rows(window, m, starts);
        rrs::WindowWalk walk(window, m, given);
        rrs::WindowRange range;
        std::int64_t next = 0, number = 0;
        while (walk.next(&range)) {
          ASSERT_EQ(range.first, next);
          ASSERT_LT(range.first, range.last);
          for (std::int64_t t = range.first; t < range.last; ++t) {
            ASSERT_EQ(want[static_cast<std::size_t>(t)], number);
          }
          next = range.last;
          ++number;
        }
        ASSERT_EQ(next, m);
        ASSERT_EQ(rrs::window_count(window, m, given), number);
        ++cases;
      }
    }
  }
  EXPECT_EQ(cases, 6 * (2 + 3 + 3 + 5 + 8));
}

TEST(Smooth, SequenceStartsAreValidated) {
  const std::int64_t descending[] = {2, 1}, negative[] = {-1}, beyond[] = {3, 9};
  using rrs::SequenceStarts;
  for (const SequenceStarts bad :
       {SequenceStarts{descending, 2}, SequenceStarts{negative, 1}, SequenceStarts{beyond, 2},
        SequenceStarts{nullptr, 1}, SequenceStarts{descending, -1}}) {
    const rrs::Status status = rrs::validate_sequence_starts(bad, 8);
    EXPECT_EQ(status.code, rrs::StatusCode::kInvalidArgument);
    EXPECT_EQ(std::strncmp(status.argument, "sequence_starts", 15), 0);
  }
  EXPECT_EQ(rrs::validate_sequence_starts({beyond, 2}, 8).value, 9);
  EXPECT_EQ(rrs::validate_sequence_starts({beyond, 2}, 8).limit, 8);
}

TEST(Smooth, WindowScalesAreTheMaximaOfFiniteRows) {
  constexpr std::int64_t m = 9, k = 200;
  std::vector<float> x = rrs_test::normal_vector(m * k, 5);
  for (std::int64_t i = 64; i < 96; ++i) {
    for (std::int64_t t = 0; t < m; ++t) x[static_cast<std::size_t>(t * k + i)] = 1e-35f;
  }
  x[3 * k + 17] = std::numeric_limits<float>::quiet_NaN();
  x[3 * k + 18] = 1e6f;  // must not count
  x[5 * k + 199] = -std::numeric_limits<float>::infinity();
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    for (const int group : kGroups) {
      const std::int64_t groups = rrs::group_count(k, group);
      std::vector<float> p(static_cast<std::size_t>(m * groups)), n = p;
      for (std::int64_t t = 0; t < m; ++t) {
        table.smooth.extremes(x.data() + t * k, k, group, p.data() + t * groups,
                              n.data() + t * groups);
      }
      for (const float floor : {0.0f, 1e-5f, 1.0f}) {
        for (const rrs::WindowRange range : {rrs::WindowRange{0, m}, rrs::WindowRange{2, 5}}) {
          std::vector<float> s(static_cast<std::size_t>(groups));
          rrs::window_scales({p.data(), n.data(), groups}, range, floor, s.data());
          const std::vector<double> want =
              rrs::reference::window_scales(x.data() + range.first * k, range.last - range.first, k,
                                            group, static_cast<double>(floor));
          ASSERT_TRUE(rrs_test::within(s, want, 0.0));
          if (group == 32) {
            ASSERT_EQ(s[2], floor) << "1e-35 counts as zero";
          }
        }
      }
    }
  });
}

TEST(Smooth, SortedChannelsAreStable) {
  rrs_test::Random random(9);
  int cases = 0;
  for (std::int64_t k : {1, 2, 3, 7, 8, 31, 64, 100, 577, 4096}) {
    for (const std::int64_t values : {1, 3, 1000000}) {
      std::vector<float> key(static_cast<std::size_t>(k));
      for (float& v : key) v = static_cast<float>(random.integer(0, values - 1)) * 0.25f;
      std::vector<std::int32_t> got(key.size()), scratch(key.size());
      rrs::sorted_channels(key.data(), k, got.data(), scratch.data());
      ASSERT_EQ(got, rrs::reference::sorted_channels(key)) << k << " " << values;
      ++cases;
    }
  }
  EXPECT_EQ(cases, 30);
}

TEST(Smooth, ColumnMaxima) {
  const std::vector<float> x = rrs_test::normal_vector(5 * 77, 8);
  std::vector<float> column(77, 0.0f);
  for (std::int64_t t = 0; t < 5; ++t)
    rrs::accumulate_column_max(x.data() + t * 77, 77, column.data());
  EXPECT_TRUE(
      rrs_test::within(column, rrs::reference::window_scales(x.data(), 5, 77, 1, 0.0), 0.0));
}

// The published scheme with one token is exact without groups: every code is +-7.
TEST(Smooth, UngroupedRsIsExactForOneToken) {
  const std::vector<float> x = rrs_test::normal_vector(300, 11);
  const std::vector<double> one = rrs::reference::rs_ungrouped(x.data(), 1, 300);
  EXPECT_TRUE(rrs_test::within(x, one, 1e-5));
  const std::vector<float> many = rrs_test::normal_vector(8 * 300, 12);
  const std::vector<double> eight = rrs::reference::rs_ungrouped(many.data(), 8, 300);
  const double error = rrs_test::relative_error(many, eight);
  EXPECT_GT(error, 0.02);
  EXPECT_LT(error, 0.2);
  const std::vector<double> grouped = rrs::reference::rs_dequantized(many.data(), 8, 300, 128, 4);
  EXPECT_GT(rrs_test::relative_error(many, grouped), error * 0.8);
}

}  // namespace
