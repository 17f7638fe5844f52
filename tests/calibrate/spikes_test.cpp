// calibrate/spikes.hpp: scores, the threshold search and the prefix search, on constructed data.
#include "rrs/calibrate/spikes.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

using rrs::MatrixView;
using rrs::StatusCode;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(Spikes, TokenScalesAreRowMaxima) {
  const std::vector<float> x = {1.0f,
                                -5.0f,
                                0.0f,
                                /* row 1 */ -0.0f,
                                0.0f,
                                0.0f,
                                /* row 2 */ 2.0f,
                                3.0f,
                                -2.5f};
  std::vector<float> scales = {9.0f};
  ASSERT_TRUE(rrs::token_scales(MatrixView<const float>(x.data(), 3, 3), &scales).ok());
  EXPECT_EQ(scales, (std::vector<float>{5.0f, 0.0f, 3.0f}));
  ASSERT_TRUE(rrs::token_scales(MatrixView<const float>(x.data(), 2, 2, 3), &scales).ok());
  EXPECT_EQ(scales, (std::vector<float>{5.0f, 0.0f}));
  const std::vector<rrs::bf16> b = {rrs::to_bf16(-8.0f), rrs::to_bf16(1.0f)};
  ASSERT_TRUE(rrs::token_scales(MatrixView<const rrs::bf16>(b.data(), 1, 2), &scales).ok());
  EXPECT_EQ(scales, std::vector<float>{8.0f});
  ASSERT_TRUE(rrs::token_scales(MatrixView<const float>(nullptr, 0, 7), &scales).ok());
  EXPECT_TRUE(scales.empty());
}

TEST(Spikes, RowsWithoutInputsAreRefused) {
  std::vector<float> scales = {9.0f};
  const MatrixView<const float> tall(nullptr, INT64_MAX, 0);
  EXPECT_STREQ(rrs::token_scales(tall, &scales).argument, "X.cols");
  EXPECT_EQ(scales, std::vector<float>{9.0f});
  EXPECT_EQ(rrs::lower_median({}), 0.0f);
}

TEST(Spikes, NonFiniteRowsAreNamedAndChangeNothing) {
  int cases = 0;
  for (const float bad : {kNan, kInf, -kInf}) {
    const std::vector<float> x = {1.0f, 2.0f, 3.0f, bad};
    std::vector<float> scales = {9.0f};
    const rrs::Status s = rrs::token_scales(MatrixView<const float>(x.data(), 2, 2), &scales);
    EXPECT_EQ(s.code, StatusCode::kNonFinite);
    EXPECT_EQ(s.value, 1);
    EXPECT_EQ(scales, std::vector<float>{9.0f});
    rrs::ModuleSpikes module;
    EXPECT_EQ(rrs::add_sequence({1.0f, bad}, &module).code, StatusCode::kNonFinite);
    EXPECT_EQ(module.sequences, 0);
    ++cases;
  }
  EXPECT_EQ(cases, 3);
}

TEST(Spikes, RatioUsesTheLowerMedianAndCountsTheFirstToken) {
  EXPECT_EQ(*rrs::spike_ratio({8.0f}), 1.0);  // one token
  EXPECT_EQ(*rrs::spike_ratio({8.0f, 2.0f}), 4.0);
  EXPECT_EQ(*rrs::spike_ratio({100.0f, 4.0f, 1.0f, 2.0f}), 50.0);  // lower of 2 and 4
  EXPECT_EQ(*rrs::spike_ratio({1.0f, 3.0f, 2.0f}), 1.5);
  EXPECT_EQ(*rrs::spike_ratio({0.0f, 0.0f}), 1.0);
  EXPECT_EQ(*rrs::spike_ratio({0.0f, 0.0f, 1.0f}), 0x1p100);  // finite, however small the median
  EXPECT_FALSE(rrs::spike_ratio({}).ok());
}

TEST(Spikes, ScoreIsTheMeanRatioAndRemembersThePeak) {
  rrs::ModuleSpikes m;
  EXPECT_EQ(rrs::spike_score(m), 0.0);
  ASSERT_TRUE(rrs::add_sequence({1.0f, 1.0f, 4.0f}, &m).ok());
  ASSERT_TRUE(rrs::add_sequence({60.0f, 6.0f, 6.0f}, &m).ok());
  ASSERT_TRUE(rrs::add_sequence({100.0f, 100.0f, 100.0f}, &m).ok());
  EXPECT_EQ(rrs::spike_score(m), 5.0);
  EXPECT_EQ(m.peak, 60.0f);
  EXPECT_EQ(m.peak_position, 0);
  EXPECT_FALSE(rrs::add_sequence({}, &m).ok());
  EXPECT_EQ(m.sequences, 3);
}

TEST(Spikes, SiblingsShareAModule) {
  using rrs::SpikeModule;
  const SpikeModule expected[] = {SpikeModule::kQkv, SpikeModule::kQkv,    SpikeModule::kQkv,
                                  SpikeModule::kO,   SpikeModule::kGateUp, SpikeModule::kGateUp,
                                  SpikeModule::kDown};
  for (std::size_t l = 0; l < 7; ++l) EXPECT_EQ(rrs::spike_module_of(l), expected[l]) << l;
}

// A model whose perplexity is 10 plus the cost of every module that is not exempt.
struct Costs {
  std::vector<double> of;
  std::vector<std::size_t> tried;
  double operator()(const std::vector<bool>& exempt) {
    double perplexity = 10.0;
    for (std::size_t i = 0; i < of.size(); ++i) perplexity += exempt[i] ? 0.0 : of[i];
    tried.push_back(static_cast<std::size_t>(std::count(exempt.begin(), exempt.end(), true)));
    return perplexity;
  }
};

TEST(Spikes, TheFewestModulesWithinTheToleranceAreExempt) {
  const std::vector<double> scores = {2.0, 1000.0, 7.0, 7.0, 1.5};
  struct Case {
    double tolerance;
    std::vector<bool> exempt;
    double threshold;
    std::vector<std::size_t> tried;
  };
  // Costs: 1 for the spike, 0.2 + 0.2 for the two tied modules, 0.05 and 0.01 for the rest.
  const Case cases[] = {
      {0.2, {false, false, false, false, false}, 1000.0, {5, 0}},
      {0.05, {false, true, false, false, false}, 7.0, {5, 0, 1}},
      {0.01, {false, true, true, true, false}, 2.0, {5, 0, 1, 3}},  // a tie goes together
      {0.002, {true, true, true, true, false}, 1.5, {5, 0, 1, 3, 4}},
      {0.0, {true, true, true, true, true}, -1.0, {5, 0, 1, 3, 4}},
  };
  for (const Case& c : cases) {
    Costs costs{{0.05, 1.0, 0.2, 0.2, 0.01}, {}};
    const auto found = rrs::search_exemptions(
        scores, c.tolerance, [&](const std::vector<bool>& exempt) { return costs(exempt); });
    ASSERT_TRUE(found.ok());
    EXPECT_EQ(found->exempt, c.exempt) << c.tolerance;
    EXPECT_EQ(found->threshold, c.threshold) << c.tolerance;
    EXPECT_EQ(costs.tried, c.tried) << c.tolerance;
    EXPECT_EQ(found->all_exempt, 10.0);
    EXPECT_LE(found->perplexity, found->limit);
    EXPECT_EQ(found->steps.back().exempt,
              static_cast<std::size_t>(std::count(c.exempt.begin(), c.exempt.end(), true)));
    EXPECT_EQ(found->steps.back().perplexity, found->perplexity);
  }
}

TEST(Spikes, SearchTakesTheFirstThatFitsThoughMoreWouldNot) {
  // Not monotone: one module exempt fits, two do not.
  const double of[] = {30.0, 10.0, 20.0, 10.0};
  const auto found = rrs::search_exemptions({3.0, 2.0, 1.0}, 0.01, [&](const auto& exempt) {
    return of[static_cast<std::size_t>(std::count(exempt.begin(), exempt.end(), true))];
  });
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->exempt, (std::vector<bool>{true, false, false}));
}

TEST(Spikes, AllScoresEqualLeavesNothingOrEverything) {
  const auto search = [](double cost) {
    Costs costs{{cost, cost}, {}};
    return rrs::search_exemptions({1.0, 1.0}, 0.01,
                                  [&](const auto& exempt) { return costs(exempt); });
  };
  EXPECT_EQ(search(0.0)->exempt, (std::vector<bool>{false, false}));
  EXPECT_EQ(search(1.0)->exempt, (std::vector<bool>{true, true}));
}

TEST(Spikes, NanPerplexityNeverQualifies) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto found = rrs::search_exemptions(
      {5.0, 1.0}, 0.5, [&](const auto& exempt) { return exempt[0] ? 10.0 : nan; });
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->exempt, (std::vector<bool>{true, false}));
  EXPECT_EQ(found->steps.size(), 2u);
}

TEST(Spikes, SearchRefusesBadInputByName) {
  const auto ten = [](const std::vector<bool>&) { return 10.0; };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_STREQ(rrs::search_exemptions({}, 0.1, ten).status().argument, "scores");
  EXPECT_EQ(rrs::search_exemptions({1.0, nan}, 0.1, ten).status().value, 1);
  EXPECT_FALSE(rrs::search_exemptions({inf}, 0.1, ten).ok());
  EXPECT_FALSE(rrs::search_exemptions({-1.0}, 0.1, ten).ok());
  for (const double tolerance : {nan, inf, -0.1}) {
    EXPECT_STREQ(rrs::search_exemptions({1.0}, tolerance, ten).status().argument, "tolerance");
  }
  for (const double all : {nan, inf, 0.0}) {
    const auto found =
        rrs::search_exemptions({1.0}, 0.1, [&](const std::vector<bool>&) { return all; });
    EXPECT_STREQ(found.status().argument, "perplexity");
  }
}

TEST(Spikes, CandidatesAreTheLargestScalesPerTokenId) {
  rrs::SpikeTokens found;
  // BOS is 0. The three largest positions beside it: 7 (90), 5 (50), 7 (40).
  ASSERT_TRUE(
      rrs::collect_spike_tokens({0, 5, 7, 7, 4, 3}, {99, 50, 40, 90, 30, 20}, 0, &found).ok());
  EXPECT_EQ(found.largest, (std::map<std::int32_t, float>{{5, 50.0f}, {7, 90.0f}}));
  ASSERT_TRUE(rrs::collect_spike_tokens({4, 5}, {50, 60}, 0, &found).ok());  // two tokens only
  ASSERT_TRUE(rrs::collect_spike_tokens({}, {}, 0, &found).ok());
  EXPECT_EQ(rrs::top_spike_tokens(found), (std::vector<std::int32_t>{7, 5, 4}));
  ASSERT_TRUE(rrs::collect_spike_tokens({9, 1}, {60, 60}, 0, &found).ok());
  EXPECT_EQ(rrs::top_spike_tokens(found), (std::vector<std::int32_t>{7, 1, 5}));  // ties by id
  EXPECT_EQ(rrs::top_spike_tokens(found, 1), std::vector<std::int32_t>{7});
  rrs::SpikeTokens without;
  ASSERT_TRUE(rrs::collect_spike_tokens({0, 5}, {99, 50}, std::nullopt, &without).ok());
  EXPECT_EQ(rrs::top_spike_tokens(without), (std::vector<std::int32_t>{0, 5}));
  EXPECT_FALSE(rrs::collect_spike_tokens({1, 2}, {1.0f}, 0, &found).ok());
  EXPECT_EQ(rrs::collect_spike_tokens({1}, {kNan}, 0, &found).code, StatusCode::kNonFinite);
  EXPECT_TRUE(rrs::top_spike_tokens(rrs::SpikeTokens{}).empty());
}

TEST(Spikes, FrequentTokensTieById) {
  EXPECT_EQ(rrs::most_frequent_tokens({8, 3, 8, 9, 3, 1, 8}, 3),
            (std::vector<std::int32_t>{8, 3, 1}));
  EXPECT_EQ(rrs::most_frequent_tokens({2}), std::vector<std::int32_t>{2});
  EXPECT_TRUE(rrs::most_frequent_tokens({}).empty());
}

// S of each token of a probe: the first T after BOS and C spikes with 10 T + C, the second with 1.
std::vector<float> constructed(const std::vector<std::int32_t>& probe, std::size_t head) {
  std::vector<float> scales(probe.size(), 1.0f);
  scales[head + 1] = static_cast<float>(10 * probe[head + 1] + probe[head]);
  return scales;
}

TEST(Spikes, PrefixIsTheBestOfAllCandidates) {
  std::vector<std::vector<std::int32_t>> probes;
  const auto found = rrs::search_prefix(1, {20, 30}, {4, 6, 5}, [&](const auto& probe) {
    probes.push_back(probe);
    return constructed(probe, 1);
  });
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->tokens, (std::vector<std::int32_t>{1, 6, 30}));
  EXPECT_EQ(found->best.ratio, 306.0);
  EXPECT_EQ(found->best.first, 306.0f);
  EXPECT_EQ(found->best.second, 1.0f);
  ASSERT_EQ(found->candidates.size(), 2u);
  EXPECT_EQ(found->candidates[0].context, 6);
  EXPECT_EQ(found->candidates[0].ratio, 206.0);
  ASSERT_EQ(probes.size(), 6u);
  EXPECT_EQ(probes[1], (std::vector<std::int32_t>{1, 6, 20, 6, 20}));
}

TEST(Spikes, PrefixWithoutBosAndTies) {
  const auto found = rrs::search_prefix(std::nullopt, {20}, {4, 6},
                                        [](const auto& probe) { return constructed(probe, 0); });
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->tokens, (std::vector<std::int32_t>{6, 20}));
  const auto flat = [](const std::vector<std::int32_t>& probe) {
    return std::vector<float>(probe.size(), 0.0f);
  };
  const auto tied = rrs::search_prefix(1, {30, 20}, {6, 4}, flat);
  ASSERT_TRUE(tied.ok());
  EXPECT_EQ(tied->tokens, (std::vector<std::int32_t>{1, 6, 30}));  // the earlier
  EXPECT_EQ(tied->best.ratio, 0.0);
}

TEST(Spikes, PrefixRefusesBadInputByName) {
  const auto flat = [](const std::vector<std::int32_t>& probe) {
    return std::vector<float>(probe.size(), 1.0f);
  };
  EXPECT_STREQ(rrs::search_prefix(1, {}, {1}, flat).status().argument, "spikes");
  EXPECT_STREQ(rrs::search_prefix(1, {1}, {}, flat).status().argument, "contexts");
  const auto nan = [](const std::vector<std::int32_t>& probe) {
    return std::vector<float>(probe.size(), kNan);
  };
  EXPECT_EQ(rrs::search_prefix(1, {1}, {1}, nan).status().code, StatusCode::kNonFinite);
  const auto wrong = [](const std::vector<std::int32_t>&) { return std::vector<float>(4, 1.0f); };
  EXPECT_STREQ(rrs::search_prefix(1, {1}, {1}, wrong).status().argument, "probe");
}

}  // namespace
