// What holds exactly for every layer, tried on 21,000 random ones: scheme, shape, channels, branch.
#include <gtest/gtest.h>

#include <cstdio>
#include <numeric>
#include <vector>

#include "properties/random_layer.hpp"
#include "rrs/reference/pack.hpp"
#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/thread_executor.hpp"

namespace {

using rrs_test::bits_equal;
using rrs_test::make_random_layer;
using rrs_test::Random;
using rrs_test::RandomLayer;
using rrs_test::run_random;

constexpr int kLevels = 5000, kThreads = 4000, kAlone = 4000, kPowers = 3000, kPermuted = 2500,
              kZeros = 1500, kPack = 1000;
static_assert(kLevels + kThreads + kAlone + kPowers + kPermuted + kZeros + kPack >= 20000);

// body(layer, level, random) for `all` layers that `applies` accepts; a level of this machine each
// in turn. Counted, and every level must have had its share.
template <class Applies, class Body>
void for_layers(int all, std::uint64_t first_seed, const Applies& applies, const Body& body) {
  const std::vector<rrs::Isa> isas = rrs_test::supported_isas();
  const int wanted = rrs_test::property_cases(all);
  std::vector<int> ran(isas.size(), 0);
  int cases = 0;
  for (std::uint64_t seed = first_seed; cases < wanted; ++seed) {
    ASSERT_LT(seed, first_seed + 100u * static_cast<std::uint64_t>(all));
    RandomLayer l;
    make_random_layer(seed, &l);
    if (!applies(l)) continue;
    Random random(seed + 1);
    const std::size_t level = static_cast<std::size_t>(cases) % isas.size();
    SCOPED_TRACE("layer " + std::to_string(seed));
    body(l, isas[level], random);
    if (::testing::Test::HasFailure()) return;
    ++ran[level];
    ++cases;
  }
  EXPECT_EQ(cases, wanted);
  for (const int count : ran) EXPECT_GE(count, wanted / static_cast<int>(isas.size()));
  std::printf("%d layers\n", cases);
}

bool any(const RandomLayer&) { return true; }

TEST(RandomLayers, EveryLevelGivesTheSameBits) {
  for_layers(kLevels, 1000000, any, [](const RandomLayer& l, rrs::Isa, Random&) {
    const std::vector<float> y = run_random(l, l.data.x, l.data.m, rrs::Isa::kScalar);
    for (const rrs::Isa isa : rrs_test::supported_isas()) {
      if (isa == rrs::Isa::kScalar) continue;
      ASSERT_TRUE(bits_equal(run_random(l, l.data.x, l.data.m, isa), y)) << static_cast<int>(isa);
    }
  });
}

TEST(RandomLayers, OrderAndThreadsChangeNoBit) {
  int threaded = 0;
  for_layers(kThreads, 2000000, any, [&](const RandomLayer& l, rrs::Isa isa, Random& random) {
    const std::vector<float> y = run_random(l, l.data.x, l.data.m, isa);
    const rrs_test::ReverseExecutor reverse;
    ASSERT_TRUE(bits_equal(run_random(l, l.data.x, l.data.m, isa, reverse), y));
    const rrs_test::ShuffledExecutor shuffled(random.bits());
    ASSERT_TRUE(bits_equal(run_random(l, l.data.x, l.data.m, isa, shuffled), y));
    if (random.integer(1, 8) > 1) return;
    const rrs_test::ThreadExecutor threads(static_cast<int>(random.integer(2, 16)));
    ASSERT_TRUE(bits_equal(run_random(l, l.data.x, l.data.m, isa, threads), y));
    ++threaded;
  });
  EXPECT_GE(threaded, rrs_test::property_cases(kThreads) / 16);
}

// Window one, frozen scales, float activations: a row has the same bits alone and among others.
TEST(RandomLayers, ARowAloneHasTheBitsItHasAmongOthers) {
  const auto alone = [](const RandomLayer& l) { return l.rows_are_alone() && l.data.m > 1; };
  for_layers(kAlone, 3000000, alone, [](const RandomLayer& l, rrs::Isa isa, Random& random) {
    const std::vector<float> y = run_random(l, l.data.x, l.data.m, isa);
    const std::int64_t first = random.integer(0, l.data.m - 1);
    const std::int64_t rows = random.integer(1, l.data.m - first);
    const std::vector<float> part(l.data.x.begin() + first * l.data.k,
                                  l.data.x.begin() + (first + rows) * l.data.k);
    const std::vector<float> z = run_random(l, part, rows, isa);
    ASSERT_TRUE(bits_equal(z.data(), y.data() + first * l.data.n, z.size())) << "row " << first;
  });
}

TEST(RandomLayers, APowerOfTwoScalesExactly) {
  const auto applies = [](const RandomLayer& l) {
    return l.scheme().activation.floor == 0.0f && l.window() != rrs::WindowKind::kFrozen;
  };
  for_layers(kPowers, 4000000, applies, [](const RandomLayer& l, rrs::Isa isa, Random& random) {
    const float factor = std::ldexp(1.0f, static_cast<int>(random.integer(-30, 30)));
    std::vector<float> x = l.data.x, expected = run_random(l, l.data.x, l.data.m, isa);
    for (float& v : x) v *= factor;
    for (float& v : expected) v *= factor;
    ASSERT_TRUE(bits_equal(run_random(l, x, l.data.m, isa), expected)) << "times " << factor;
  });
}

TEST(RandomLayers, PermutedTokensPermuteTheRows) {
  const auto applies = [](const RandomLayer& l) {
    return l.data.m > 1 && (l.window() != rrs::WindowKind::kRows || l.rows_are_alone());
  };
  for_layers(kPermuted, 5000000, applies, [](const RandomLayer& l, rrs::Isa isa, Random& random) {
    const std::vector<std::int32_t> from = rrs_test::random_permutation(random, l.data.m);
    std::vector<float> x;
    for (const std::int32_t t : from) {
      x.insert(x.end(), l.data.x.begin() + t * l.data.k, l.data.x.begin() + (t + 1) * l.data.k);
    }
    const std::vector<float> y = run_random(l, l.data.x, l.data.m, isa);
    const std::vector<float> z = run_random(l, x, l.data.m, isa);
    for (std::size_t t = 0; t < from.size(); ++t) {
      const auto n = static_cast<std::size_t>(l.data.n);
      ASSERT_TRUE(bits_equal(z.data() + t * n, y.data() + static_cast<std::size_t>(from[t]) * n, n))
          << "row " << t;
    }
  });
}

TEST(RandomLayers, ZeroRowsGiveZeroRows) {
  for_layers(kZeros, 6000000, any, [](const RandomLayer& l, rrs::Isa isa, Random& random) {
    std::vector<float> x = l.data.x;
    std::vector<bool> zero;
    for (std::int64_t t = 0; t < l.data.m; ++t) {
      zero.push_back(random.integer(0, 1) == 1);
      if (zero.back()) std::fill_n(x.begin() + t * l.data.k, l.data.k, 0.0f);
    }
    const std::vector<float> y = run_random(l, x, l.data.m, isa);
    for (std::size_t i = 0; i < y.size(); ++i) {
      ASSERT_FALSE(zero[i / static_cast<std::size_t>(l.data.n)] && !(y[i] == 0.0f)) << i;
    }
  });
}

// Any codes and scales come back out of the packed weight, and packed again are the same bytes.
TEST(RandomLayers, PackAndUnpackInvert) {
  const int wanted = rrs_test::property_cases(kPack);
  int cases = 0;
  for (; cases < wanted; ++cases) {
    Random random(7000000u + static_cast<std::uint64_t>(cases));
    const rrs::Scheme s = rrs_test::random_scheme(random);
    const std::int64_t n = random.integer(1, 50), k = random.integer(1, 300);
    const std::int64_t groups = rrs::group_count(k, s.weight.group);
    const int bias = s.weight.bits == 8 ? 128 : 8;
    std::vector<std::int8_t> codes(static_cast<std::size_t>(n * k));
    for (std::int8_t& c : codes) {
      c = static_cast<std::int8_t>(random.integer(-bias, bias - 1));
    }
    std::vector<rrs::f16> scales(static_cast<std::size_t>(n * groups));
    for (rrs::f16& v : scales) v = rrs::to_f16(random.normal());
    const auto pack = [&](const std::vector<std::int8_t>& c, const std::vector<rrs::f16>& v) {
      auto w = rrs::weight_from_quantized(rrs::MatrixView<const std::int8_t>(c.data(), n, k),
                                          rrs::MatrixView<const rrs::f16>(v.data(), n, groups), s);
      EXPECT_TRUE(w.ok()) << w.status().message();
      return std::move(*w);
    };
    const rrs::PreparedWeight w = pack(codes, scales);
    std::vector<std::int8_t> codes_again;
    std::vector<rrs::f16> scales_again;
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < k; ++j) {
        const int u = rrs::reference::stored_code(w.view(), i, j);
        codes_again.push_back(static_cast<std::int8_t>(u - bias));
      }
      for (std::int64_t g = 0; g < groups; ++g) {
        scales_again.push_back(rrs::reference::scale(w.view(), i, g));
      }
    }
    ASSERT_TRUE(bits_equal(codes_again, codes)) << cases;
    ASSERT_TRUE(bits_equal(scales_again, scales)) << cases;
    const rrs::PreparedWeight again = pack(codes_again, scales_again);
    ASSERT_TRUE(bits_equal(again.view().panels, w.view().panels,
                           static_cast<std::size_t>(rrs::panel_count(n) * w.view().panel_bytes)));
  }
  EXPECT_EQ(cases, wanted);
}

}  // namespace
