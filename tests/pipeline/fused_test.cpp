// The fused row gives the bytes of the separate stages, and refuses what it cannot do.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "rrs/core/kernel_tables.hpp"
#include "rrs/quantize/quantize.hpp"
#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/random.hpp"

namespace {

using rrs_test::bits_equal;

struct Row {
  std::vector<std::int8_t> codes;
  std::vector<float> scales;
  std::vector<std::int32_t> sums;
  bool finite = false;
};

Row make_row(const rrs::FusedArgs& args) {
  Row row;
  row.codes.assign(static_cast<std::size_t>(args.k) + 1, 99);
  row.scales.assign(static_cast<std::size_t>(args.k / args.group) + 1, 99.0f);
  row.sums.assign(static_cast<std::size_t>(args.k / args.inner_group) + 1, 99);
  return row;
}

Row fused(const rrs::KernelTable& table, rrs::FusedArgs args) {
  Row row = make_row(args);
  args.codes = row.codes.data();
  args.scales = row.scales.data();
  args.sums = row.sums.data();
  EXPECT_TRUE(table.fused.supports(args));
  row.finite = table.fused.prepare_row(args);
  return row;
}

// Permutation, signs, scalar butterflies, scalar extremes, range rule, scalar codes and sums.
Row separate(const rrs::FusedArgs& args) {
  Row row = make_row(args);
  std::vector<float> x(args.x, args.x + args.k);
  if (args.permutation != nullptr) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = args.x[args.permutation[i]];
  }
  if (args.signs != nullptr) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] *= args.signs[i];
  }
  int log2_block = 0;
  while ((1 << log2_block) < args.block) ++log2_block;
  if (args.block > 1) {
    rrs::scalar::hadamard(x.data(), args.k / args.block, log2_block, args.rotation_scale);
  }
  const std::size_t groups = static_cast<std::size_t>(args.k / args.group);
  std::vector<float> p(groups), n(groups), inverse(groups);
  rrs::scalar::extremes(x.data(), args.k, args.group, p.data(), n.data());
  rrs::QuantizeRowArgs q;
  q.x = x.data();
  q.k = args.k;
  q.extremes = {p.data(), n.data(), static_cast<std::int64_t>(groups)};
  q.group = args.group;
  q.inner_group = args.inner_group;
  q.range = args.range;
  q.clip = args.clip;
  q.qmax = args.qmax;
  q.inverse = inverse.data();
  q.codes = row.codes.data();
  q.scales = row.scales.data();
  q.sums = row.sums.data();
  float token = 0.0f;
  row.finite = rrs::quantize_row(rrs::scalar::quantize_kernels(), q, &token);
  return row;
}

void expect_same(const Row& a, const Row& b) {
  ASSERT_EQ(a.finite, b.finite);
  if (!b.finite) return;  // then the contents are unspecified
  ASSERT_TRUE(bits_equal(a.codes, b.codes)) << "codes";
  ASSERT_TRUE(bits_equal(a.scales, b.scales)) << "scales";
  ASSERT_TRUE(bits_equal(a.sums, b.sums)) << "sums";
}

rrs::FusedArgs args_of(const std::vector<float>& x, std::int64_t k, int block, int group,
                       int inner) {
  rrs::FusedArgs args{};
  args.x = x.data();
  args.k = k;
  args.block = block;
  args.rotation_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
  args.group = group;
  args.inner_group = inner;
  args.range = rrs::Range::kFull;
  args.clip = 1.0f;
  args.qmax = 7;
  return args;
}

std::vector<std::int32_t> shuffled(std::int64_t n, rrs_test::Random* random) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random->bits() % i]);
  return order;
}

bool has_fused(const rrs::KernelTable& table) { return table.isa != rrs::Isa::kScalar; }

TEST(Fused, EqualsTheSeparateStages) {
  int cases = 0, levels = 0, permuted = 0;
  std::vector<float> signs(4096);
  rrs_test::Random random(2);
  for (float& s : signs) s = random.bits() & 1 ? 1.0f : -1.0f;
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    if (!has_fused(table)) return;
    ++levels;
    for (const int block : {1, 32, 64, 128}) {
      for (const int group : {32, 64, 128}) {
        for (int inner = 16; inner <= group; inner *= 2) {
          const int unit = std::max(block, group);
          std::vector<std::int64_t> ks = {576, 1536, 4096};
          for (int i = 1; i <= 12; ++i) ks.push_back(std::int64_t{i} * unit);
          for (const std::int64_t k : ks) {
            if (k % unit != 0) continue;
            const std::uint64_t seed = static_cast<std::uint64_t>(cases);
            std::vector<float> x = rrs_test::llm_activations(1, k, k % 3 == 0 ? 0 : -1, seed);
            rrs::FusedArgs args = args_of(x, k, block, group, inner);
            args.qmax = rrs::max_code(2 + cases % 7);
            args.range = cases % 2 ? rrs::Range::kSymmetric : rrs::Range::kFull;
            args.clip = cases % 5 == 0 ? 0.9f : (cases % 5 == 1 ? 0.5f : 1.0f);
            args.signs = cases % 3 == 0 ? signs.data() : nullptr;
            const std::vector<std::int32_t> order = shuffled(k, &random);
            args.permutation = cases % 2 == 0 ? order.data() : nullptr;
            permuted += args.permutation != nullptr;
            expect_same(fused(table, args), separate(args));
            if (testing::Test::HasFatalFailure()) {
              FAIL() << "block " << block << " group " << group << " inner " << inner << " k " << k;
            }
            ++cases;
          }
        }
      }
    }
  });
  EXPECT_EQ(levels, static_cast<int>(rrs_test::supported_isas().size()) - 1);
  EXPECT_GE(cases, levels * 450);
  EXPECT_GE(permuted, levels * 225);
}

// Every combination of bits, range and clip at the default sizes.
TEST(Fused, EveryCodeWidthRangeAndClip) {
  const std::vector<float> x = rrs_test::llm_activations(1, 1536, 0, 5);
  int cases = 0;
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    if (!has_fused(table)) return;
    for (int bits = 2; bits <= 8; ++bits) {
      for (const rrs::Range range : {rrs::Range::kFull, rrs::Range::kSymmetric}) {
        for (const float clip : {1.0f, 0.9f, 0.5f, 0x1p-16f}) {
          rrs::FusedArgs args = args_of(x, 1536, 32, 32, 32);
          args.qmax = rrs::max_code(bits);
          args.range = range;
          args.clip = clip;
          expect_same(fused(table, args), separate(args));
          if (testing::Test::HasFatalFailure()) return;
          ++cases;
        }
      }
    }
  });
  EXPECT_EQ(cases, 7 * 2 * 4 * (static_cast<int>(rrs_test::supported_isas().size()) - 1));
}

TEST(Fused, ZeroTinyHugeSpikeAndTies) {
  int cases = 0, overflowed = 0;
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    if (!has_fused(table)) return;
    for (const int block : {1, 32, 64, 128}) {
      for (const float value : {0.0f, -0.0f, 1e-42f, 0x1p-101f, 0x1p-100f, -0x1p-99f, 1.0f, 1e30f,
                                -1e30f, 1e37f, 3e38f, -3e38f}) {
        for (const int pattern : {0, 1, 2}) {
          std::vector<float> x(1280, pattern == 0 ? value : 0.0f);
          if (pattern == 1) x[400] = value;  // a spike: rotated values are all +-equal, a tie
          if (pattern == 2) {
            for (std::size_t i = 0; i < x.size(); ++i) x[i] = i % 2 ? value : -value;
          }
          for (const int qmax : {1, 7, 127}) {
            rrs::FusedArgs args = args_of(x, 1280, block, 128, 32);
            args.qmax = qmax;
            args.range = pattern == 2 ? rrs::Range::kSymmetric : rrs::Range::kFull;
            const Row want = separate(args);
            overflowed += !want.finite;
            expect_same(fused(table, args), want);
            if (testing::Test::HasFatalFailure()) FAIL() << block << " " << value << " " << pattern;
            ++cases;
          }
        }
      }
    }
  });
  const int levels = static_cast<int>(rrs_test::supported_isas().size()) - 1;
  EXPECT_EQ(cases, 4 * 12 * 3 * 3 * levels);
  // The rotation sums `block` equal values before it scales: of +-3e38 no block fits, of 1e37 none
  // above 32. So in patterns 0 and 2, for each of 3 code widths.
  EXPECT_EQ(overflowed, (2 * 3 + 2) * 2 * 3 * levels);
}

TEST(Fused, NanAndInfAtEveryPosition) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  int cases = 0;
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    if (!has_fused(table)) return;
    for (const int block : {1, 32, 128}) {
      for (std::size_t at = 0; at < 640; ++at) {
        std::vector<float> x = rrs_test::normal_vector(640, at);
        const float bad[] = {nan, -nan, inf, -inf};
        x[at] = bad[at % 4];
        ASSERT_FALSE(fused(table, args_of(x, 640, block, 32, 32)).finite) << block << " " << at;
        ++cases;
      }
    }
  });
  EXPECT_EQ(cases, 3 * 640 * (static_cast<int>(rrs_test::supported_isas().size()) - 1));
}

TEST(Fused, RefusesWhatItCannotDo) {
  const std::vector<float> x(4096, 1.0f);
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    EXPECT_EQ(table.fused.supports(args_of(x, 4096, 32, 32, 32)), has_fused(table));
    EXPECT_FALSE(table.fused.supports(args_of(x, 4096, 16, 32, 32)));
    EXPECT_FALSE(table.fused.supports(args_of(x, 4096, 256, 32, 32)));
    EXPECT_FALSE(table.fused.supports(args_of(x, 4096, 32, rrs::kRowGroup, rrs::kRowGroup)));
    EXPECT_FALSE(table.fused.supports(args_of(x, 4096, 32, 16, 16)));
    EXPECT_FALSE(table.fused.supports(args_of(x, 4096, 32, 32, 64)));
    EXPECT_FALSE(table.fused.supports(args_of(x, 577, 32, 32, 32)));
    EXPECT_FALSE(table.fused.supports(args_of(x, 96, 32, 64, 32)));
    rrs::FusedArgs args = args_of(x, 4096, 32, 32, 32);
    args.clip = 0x1p-17f;
    EXPECT_FALSE(table.fused.supports(args));
  });
}

}  // namespace
