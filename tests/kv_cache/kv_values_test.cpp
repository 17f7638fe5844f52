// What the cache stores and computes, against the double oracle, and bit equality of the levels.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "rrs/kv_cache/kv_cache.hpp"
#include "rrs/reference/kv_cache.hpp"
#include "kv_cache/kv_cases.hpp"
#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/random.hpp"

namespace {

using rrs::KernelTable;
using rrs::KvCache;
using rrs::KvQuery;
using rrs::KvScheme;
using rrs_test::kv_create;
using rrs_test::KvRows;

constexpr double kUnit = 0x1p-24;

// Worst error / bound of one stored row; counts the values that equal the oracle's.
struct StoredCheck {
  double worst_ratio = 0.0;
  std::int64_t values = 0;
  std::int64_t equal = 0;
};

void check_stored(const KvScheme& s, bool is_k, const rrs::reference::KvRow& row,
                  const std::vector<float>& stored, std::int64_t head, StoredCheck* check) {
  const int bits = is_k ? s.bits : rrs::kv_v_bits(s);
  const auto size = static_cast<std::int64_t>(stored.size());
  double norm = 0.0;
  for (std::int64_t d = 0; d < size; ++d) {
    norm += std::pow(row.exact[static_cast<std::size_t>(head * size + d)], 2);
  }
  const rrs::RotationPlan plan =
      rrs::plan_rotation(rrs::Rotation{rrs::RotationKind::kFull, 32, false, 0}, size);
  const double rotation = rrs::rotation_error_bound(plan) * std::sqrt(norm);
  for (std::int64_t d = 0; d < size; ++d) {
    const auto at = static_cast<std::size_t>(head * size + d);
    const double value = static_cast<double>(stored[static_cast<std::size_t>(d)]);
    const double top = std::exp2(bits) - 1.0;
    const double half_step = bits == 16 ? row.step[at] / 2.0 : row.step[at] * (0.5 + top * 0x1p-10);
    // A change of the scale by one f16 step moves the ends of the range too: the same top * 2^-10.
    const double bound = half_step + row.cut[at] + rotation;
    const double error = std::abs(value - row.exact[at]);
    ASSERT_LE(error, bound) << "dim " << d << " bits " << bits << " group " << s.group;
    if (bound > 0.0) check->worst_ratio = (std::max)(check->worst_ratio, error / bound);
    ++check->values;
    check->equal += value == row.stored[at] ? 1 : 0;
  }
}

TEST(KvCache, StoredValuesWithinBound) {
  int checked = 0;
  for (const KvScheme& scheme : rrs_test::kv_schemes()) {
    StoredCheck k_check, v_check;
    for (const std::int64_t size : rrs_test::kv_head_sizes()) {
      const KvScheme s = rrs_test::kv_scheme_for(scheme, size);
      const KvRows rows(5, 2, size, 31);
      KvCache cache = kv_create(s, 2, size);
      ASSERT_TRUE(cache.append(rows.k.data(), rows.v.data(), rows.tokens).ok());
      std::vector<float> k(static_cast<std::size_t>(size)), v = k;
      for (std::int64_t t = 0; t < rows.tokens; ++t) {
        const auto k_row = rrs::reference::kv_row(s, true, rows.k_row(t), 2, size);
        const auto v_row = rrs::reference::kv_row(s, false, rows.v_row(t), 2, size);
        for (std::int64_t h = 0; h < 2; ++h) {
          ASSERT_TRUE(cache.stored(t, h, k.data(), v.data()).ok());
          check_stored(s, true, k_row, k, h, &k_check);
          check_stored(s, false, v_row, v, h, &v_check);
          if (HasFatalFailure()) return;
          ++checked;
        }
      }
    }
    EXPECT_GE(k_check.worst_ratio, 1.0 / 50.0);
    EXPECT_GE(v_check.worst_ratio, 1.0 / 50.0);
    // Only values beside a tie, or scales beside one, may differ from the oracle.
    EXPECT_GE(k_check.equal, k_check.values * 98 / 100) << scheme.bits << " " << scheme.group;
    EXPECT_GE(v_check.equal, v_check.values * 98 / 100) << scheme.bits << " " << scheme.group;
  }
  EXPECT_EQ(checked, 45 * 9 * 5 * 2);
}

TEST(KvCache, QueryWithinBound) {
  double worst = 0.0;
  for (const std::int64_t size : rrs_test::kv_head_sizes()) {
    const KvCache cache = kv_create(KvScheme{}, 1, size);
    const std::vector<float> q = rrs_test::llm_activations(1, size, 0, 3);
    KvQuery query;
    ASSERT_TRUE(cache.prepare_query(q.data(), &query).ok());
    std::vector<double> exact(q.begin(), q.end());
    rrs::reference::rotate_row(rrs::Rotation{rrs::RotationKind::kFull, 32, false, 0}, nullptr, size,
                               exact.data());
    double norm = 0.0;
    for (const double x : exact) norm += x * x;
    const double scale = static_cast<double>(query.scale);
    for (std::int64_t d = 0; d < size; ++d) {
      const double error = std::abs(scale * query.codes[d] - exact[static_cast<std::size_t>(d)]);
      const double bound = scale * 0.5 * (1.0 + 0x1p-15) + 1e-5 * std::sqrt(norm);
      ASSERT_LE(error, bound);
      worst = (std::max)(worst, error / bound);
    }
  }
  EXPECT_GE(worst, 0.02);
}

// Rounding bound of one score, from what is stored: (groups + 3) u sum over groups, or n u sum.
struct ScoreBound {
  double exact;
  double bound;
};
ScoreBound score_bound(const KvScheme& s, const KvQuery& query, const std::vector<float>& k) {
  const auto size = static_cast<std::int64_t>(k.size());
  const std::vector<double> stored(k.begin(), k.end());
  double magnitude = 0.0;
  if (s.bits == 16) {
    const std::vector<double> q(query.values, query.values + size);
    const double exact = rrs::reference::kv_dot(q.data(), stored.data(), size, &magnitude);
    return {exact, static_cast<double>(size) * kUnit * magnitude};
  }
  std::vector<double> q(query.codes, query.codes + size);
  for (double& x : q) x *= static_cast<double>(query.scale);
  const std::int64_t step = query.group == rrs::kRowGroup ? size : query.group;
  double exact = 0.0;
  for (std::int64_t first = 0; first < size; first += step) {
    const std::int64_t n = (std::min)(step, size - first);
    const double part = rrs::reference::kv_dot(q.data() + first, stored.data() + first, n, nullptr);
    exact += part;
    magnitude += std::abs(part);
  }
  const double groups = static_cast<double>(rrs::group_count(size, query.group));
  return {exact, (groups + 3.0) * kUnit * magnitude + 1e-30};
}

TEST(KvCache, ScoresWithinRoundingBound) {
  int checked = 0;
  double worst[17] = {0.0};
  for (const KvScheme& scheme : rrs_test::kv_schemes()) {
    for (const std::int64_t size : rrs_test::kv_head_sizes()) {
      const KvScheme s = rrs_test::kv_scheme_for(scheme, size);
      KvRows rows(37, 1, size, 7);
      std::vector<float> q = rrs_test::normal_vector(size, 5);
      if (s.bits == 16) {  // sums that absorb: 1, then values below half a unit of it
        for (float& x : rows.k) x = 1.0f;
        for (float& x : q) x = 0x1.fp-25f;
        q[0] = 1.0f;
      }
      rrs_test::each_isa([&](const KernelTable&) {
        KvCache cache = kv_create(s, 1, size);
        ASSERT_TRUE(cache.append(rows.k.data(), rows.v.data(), rows.tokens).ok());
        KvQuery query;
        ASSERT_TRUE(cache.prepare_query(q.data(), &query).ok());
        std::vector<float> scores(37), k(static_cast<std::size_t>(size));
        ASSERT_TRUE(cache.scores(query, 0, 0, 37, scores.data()).ok());
        for (std::int64_t t = 0; t < 37; t += 4) {
          ASSERT_TRUE(cache.stored(t, 0, k.data(), nullptr).ok());
          const ScoreBound b = score_bound(s, query, k);
          const double error =
              std::abs(static_cast<double>(scores[static_cast<std::size_t>(t)]) - b.exact);
          ASSERT_LE(error, b.bound) << s.bits << " size " << size << " token " << t;
          worst[s.bits] = (std::max)(worst[s.bits], error / b.bound);
          ++checked;
        }
      });
      if (HasFatalFailure()) return;
    }
  }
  for (const int bits : {4, 8, 16}) EXPECT_GE(worst[bits], 0.02) << bits;
  EXPECT_EQ(checked, 45 * 9 * 10 * static_cast<int>(rrs_test::supported_isas().size()));
}

// o[d] within (tokens + 2) u sum |p v| of the oracle, with weights whose sums absorb.
TEST(KvCache, AccumulateWithinRoundingBound) {
  constexpr std::int64_t kTokens = 90;
  int checked = 0;
  double worst[17] = {0.0};
  for (const KvScheme& scheme : rrs_test::kv_schemes()) {
    for (const std::int64_t size : {1, 64, 131}) {
      const KvScheme s = rrs_test::kv_scheme_for(scheme, size);
      KvRows rows(kTokens, 1, size, 7);
      for (std::size_t i = 0; i < rows.v.size(); ++i) {
        rows.v[i] = rows.v[i % static_cast<std::size_t>(size)];
      }
      std::vector<float> p(kTokens, 0x1.fp-25f);
      p[0] = 1.0f;
      rrs_test::each_isa([&](const KernelTable&) {
        KvCache cache = kv_create(s, 1, size);
        ASSERT_TRUE(cache.append(rows.k.data(), rows.v.data(), kTokens).ok());
        std::vector<float> out(static_cast<std::size_t>(size), 0.0f), v = out;
        ASSERT_TRUE(cache.accumulate(p.data(), 0, 0, kTokens, out.data()).ok());
        ASSERT_TRUE(cache.stored(0, 0, nullptr, v.data()).ok());
        for (std::size_t d = 0; d < out.size(); ++d) {
          const double exact =
              static_cast<double>(v[d]) * (1.0 + (kTokens - 1) * static_cast<double>(p[1]));
          const double bound = (kTokens + 2) * kUnit * std::abs(exact);
          const double error = std::abs(static_cast<double>(out[d]) - exact);
          ASSERT_LE(error, bound);
          if (bound > 0.0) {
            double& w = worst[rrs::kv_v_bits(s)];
            w = (std::max)(w, error / bound);
          }
          ++checked;
        }
      });
      if (HasFatalFailure()) return;
    }
  }
  for (const int bits : {4, 8, 16}) EXPECT_GE(worst[bits], 0.02) << bits;
  EXPECT_EQ(checked, 45 * (1 + 64 + 131) * static_cast<int>(rrs_test::supported_isas().size()));
}

// The whole path against attention in double without any quantization.
TEST(KvCache, AttentionIsCloseToUnquantized) {
  struct Case {
    int bits;
    double score_limit;
    double output_limit;
  };
  for (const Case c : {Case{16, 5e-4, 5e-4}, Case{8, 0.012, 0.006}, Case{4, 0.12, 0.09}}) {
    KvScheme s;
    s.bits = c.bits;
    constexpr std::int64_t kSize = 64, kTokens = 200;
    KvRows rows(kTokens, 2, kSize, 77);
    rows.k = rrs_test::normal_vector(kTokens * 2 * kSize, 5);
    KvCache cache = kv_create(s, 2, kSize);
    ASSERT_TRUE(cache.append(rows.k.data(), rows.v.data(), kTokens).ok());
    const std::vector<float> q = rrs_test::normal_vector(kSize, 9);
    const std::vector<float> p = rrs_test::normal_vector(kTokens, 10);
    std::vector<float> scores(kTokens), out(kSize, 0.0f);
    KvQuery query;
    ASSERT_TRUE(cache.prepare_query(q.data(), &query).ok());
    ASSERT_TRUE(cache.scores(query, 1, 0, kTokens, scores.data()).ok());
    ASSERT_TRUE(cache.accumulate(p.data(), 1, 0, kTokens, out.data()).ok());
    ASSERT_TRUE(cache.finish_output(out.data()).ok());
    std::vector<double> exact_scores(kTokens, 0.0), exact_out(kSize, 0.0);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      for (std::int64_t d = 0; d < kSize; ++d) {
        const auto at = static_cast<std::size_t>(d);
        const auto token = static_cast<std::size_t>(t);
        exact_scores[token] +=
            static_cast<double>(q[at]) * static_cast<double>(rows.k_row(t)[kSize + d]);
        exact_out[at] +=
            static_cast<double>(p[token]) * static_cast<double>(rows.v_row(t)[kSize + d]);
      }
    }
    const double score_error = rrs_test::relative_error(scores, exact_scores);
    const double output_error = rrs_test::relative_error(out, exact_out);
    EXPECT_LE(score_error, c.score_limit) << c.bits;
    EXPECT_LE(output_error, c.output_limit) << c.bits;
    EXPECT_GE(score_error, c.score_limit / 50.0) << c.bits;
    EXPECT_GE(output_error, c.output_limit / 50.0) << c.bits;
  }
}

// The largest codes of one sign everywhere: no partial sum may overflow or saturate.
TEST(KvCache, ExtremeCodesDoNotOverflow) {
  int checked = 0;
  for (const int bits : {4, 8}) {
    for (const int group : {0, 32, 256}) {
      for (const std::int64_t size : {64, 256, 1024}) {
        for (const float sign : {1.0f, -1.0f}) {
          KvScheme s;
          s.bits = bits;
          s.group = group;
          s.rotate_k = s.rotate_v = false;
          const std::vector<float> ones(static_cast<std::size_t>(size), 1.0f);
          std::vector<float> q(ones.size(), sign);
          rrs_test::each_isa([&](const KernelTable&) {
            KvCache cache = kv_create(s, 1, size);
            ASSERT_TRUE(cache.append(ones.data(), ones.data(), 1).ok());
            KvQuery query;
            float score = 0.0f;
            ASSERT_TRUE(cache.prepare_query(q.data(), &query).ok());
            ASSERT_TRUE(cache.scores(query, 0, 0, 1, &score).ok());
            const float expected = sign * static_cast<float>(size);
            ASSERT_NEAR(score, expected, 1e-3f * static_cast<float>(size)) << bits << " " << group;
            ++checked;
          });
        }
      }
    }
  }
  EXPECT_EQ(checked, 36 * static_cast<int>(rrs_test::supported_isas().size()));
}

// Stored bytes, scores and sums: the same bits on every level, for all schemes and sizes.
TEST(KvCache, LevelsAreBitEqual) {
  int compared = 0;
  for (const KvScheme& scheme : rrs_test::kv_schemes()) {
    for (const std::int64_t size : rrs_test::kv_head_sizes()) {
      const KvScheme s = rrs_test::kv_scheme_for(scheme, size);
      const KvRows rows(70, 2, size, static_cast<std::uint64_t>(size));
      std::vector<float> expected;
      rrs_test::each_isa([&](const KernelTable& table) {
        KvCache cache = kv_create(s, 2, size);
        ASSERT_TRUE(cache.append_exact(rows.k.data(), rows.v.data(), 3).ok());
        ASSERT_TRUE(cache.append(rows.k_row(3), rows.v_row(3), 67).ok());
        const std::vector<float> all = rrs_test::kv_everything(cache, 3);
        if (table.isa == rrs::Isa::kScalar) expected = all;
        ASSERT_TRUE(rrs_test::bits_equal(all, expected)) << s.bits << " " << s.group << " " << size;
        ++compared;
      });
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_EQ(compared, 45 * 9 * static_cast<int>(rrs_test::supported_isas().size()));
}

}  // namespace
