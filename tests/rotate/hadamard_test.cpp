// Orders, costs and matrices of the Hadamard planner: exact orthogonality, order by order.
#include "rrs/rotate/hadamard.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "rrs/reference/rotate.hpp"
#include "rrs/rotate/hadamard_factors.hpp"
#include "support/random.hpp"

namespace {

using rrs::FactorKind;
using rrs::HadamardFactor;
using rrs::HadamardPlan;

// Tables of a plan as the library builds them; the bytes after them must stay untouched.
struct Tables {
  explicit Tables(const HadamardPlan& plan)
      : memory(rrs::hadamard_tables_bytes(plan) / sizeof(float) + 16 + kGuard, 123.0f) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    start = memory.data() + (64 - address % 64) % 64 / sizeof(float);
    rrs::build_hadamard_tables(plan, start);
    const float* end = start + rrs::hadamard_tables_bytes(plan) / sizeof(float);
    EXPECT_EQ(*end, 123.0f);
  }
  static constexpr std::size_t kGuard = 1;
  std::vector<float> memory;
  float* start;
};

// H H^T = n I for all pairs of rows of a +-1 matrix, in integers: rows as bits, differences
// counted.
void expect_exact_hadamard_bits(const std::vector<double>& h, std::size_t n) {
  constexpr std::size_t kWords = 512 / 64;
  std::vector<std::uint64_t> bits(n * kWords, 0);
  for (std::size_t i = 0; i < n * n; ++i) {
    ASSERT_EQ(std::abs(h[i]), 1.0) << "order " << n;
    if (h[i] < 0) bits[i / n * kWords + i % n / 64] |= std::uint64_t{1} << (i % n % 64);
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      int different = 0;
      for (std::size_t w = 0; w < kWords; ++w) {
        different += __builtin_popcountll(bits[i * kWords + w] ^ bits[j * kWords + w]);
      }
      ASSERT_EQ(2 * different, static_cast<int>(n)) << "rows " << i << ", " << j;
    }
  }
}

TEST(HadamardPlan, EveryPaleyFactorIsExactlyOrthogonal) {
  int factors = 0, prime_powers = 0;
  for (std::int64_t odd = 3; 4 * odd <= rrs::kMaxPaleyOrder; odd += 2) {
    const HadamardFactor factor = rrs::detail::smallest_paley(odd);
    if (factor.order == 0) continue;
    const HadamardPlan plan = rrs::plan_hadamard(factor.order);
    ASSERT_TRUE(plan.is_hadamard()) << rrs::describe(plan);
    HadamardPlan dense;  // the factor alone, whatever the planner prefers
    dense.order = factor.order;
    dense.factor_count = 1;
    dense.factors[0] = factor;
    const Tables tables(dense);
    const auto n = static_cast<std::size_t>(factor.order);
    const float* table = rrs::hadamard_table(dense, 0, tables.start);
    expect_exact_hadamard_bits(std::vector<double>(table, table + n * n), n);
    for (std::size_t i = 0; i < n * n; ++i) ASSERT_EQ(table[i], table[i % n * n + i / n]);
    if (HasFatalFailure()) return;
    const int q = factor.kind == FactorKind::kPaley1 ? factor.order - 1 : factor.order / 2 - 1;
    if (rrs::detail::prime_of_power(q) != q) ++prime_powers;
    ++factors;
  }
  EXPECT_EQ(factors, 48);
  EXPECT_GE(prime_powers, 6);  // 3^3, 5^2, 7^2, 3^4, 3^5, 7^3, ...
}

std::vector<double> times(const std::vector<double>& h, const std::vector<double>& x) {
  std::vector<double> y(x.size(), 0.0);
  for (std::size_t i = 0; i < x.size(); ++i) {
    for (std::size_t j = 0; j < x.size(); ++j) y[j] += h[i * x.size() + j] * x[i];
  }
  return y;
}

// Hartley orders: H (H^T x) = n x for random x, which a single wrong entry would break; H
// symmetric, entries at most sqrt(2).
void expect_orthogonal(const std::vector<double>& h, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      ASSERT_LE(std::abs(h[i * n + j] - h[j * n + i]), 1e-12) << "order " << n;
      ASSERT_LE(std::abs(h[i * n + j]), std::sqrt(2.0) + 1e-12) << "order " << n;
    }
  }
  rrs_test::Random random(n);
  std::vector<double> x(n);
  for (double& v : x) v = static_cast<double>(random.uniform());
  const std::vector<double> y = times(h, times(h, x));
  for (std::size_t i = 0; i < n; ++i) {
    ASSERT_LE(std::abs(y[i] / static_cast<double>(n) - x[i]), 1e-12) << "order " << n;
  }
}

// The whole matrix H_n, from Kronecker products of explicit factors.
TEST(HadamardPlan, EveryOrderUpTo512IsOrthonormal) {
  int hadamard = 0, hartley = 0;
  for (std::int64_t n = 1; n <= 512; ++n) {
    const HadamardPlan plan = rrs::plan_hadamard(n);
    ASSERT_EQ(plan.order, n);
    SCOPED_TRACE(rrs::describe(plan));
    const std::vector<double> h = rrs::reference::hadamard_matrix(plan);
    ASSERT_EQ(h.size(), static_cast<std::size_t>(n * n));
    if (plan.is_hadamard()) {
      expect_exact_hadamard_bits(h, static_cast<std::size_t>(n));
      ++hadamard;
    } else {
      expect_orthogonal(h, static_cast<std::size_t>(n));
      ++hartley;
    }
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(hadamard, 107);
  EXPECT_EQ(hartley, 405);
}

TEST(HadamardPlan, HartleyTablesAreRoundedCas) {
  int entries = 0;
  for (std::int64_t n = 3; n <= 511; n += n < 200 ? 2 : 62) {
    const HadamardPlan plan = rrs::plan_hadamard(n);
    ASSERT_EQ(plan.factors[0].kind, FactorKind::kHartley);
    const Tables tables(plan);
    const float* h = rrs::hadamard_table(plan, 0, tables.start);
    const std::vector<double> exact = rrs::reference::factor_matrix(plan.factors[0]);
    for (std::size_t i = 0; i < exact.size(); ++i, ++entries) {
      ASSERT_LE(std::abs(static_cast<double>(h[i]) - exact[i]), 0x1p-24 * std::sqrt(2.0) + 1e-12)
          << n << " entry " << i;
    }
  }
  EXPECT_GT(entries, 1800000);
}

TEST(HadamardPlan, DocumentedCosts) {
  const std::vector<std::pair<std::int64_t, std::int64_t>> costs = {
      {576, 26},    {1536, 19},     {896, 33},    {4864, 82},  {2880, 44},
      {9728, 83},   {10944, 100},   {11008, 349}, {13824, 39}, {14336, 37},
      {17408, 76},  {18944, 155},   {25600, 46},  {29568, 85}, {13696, 114},
      {10920, 150}, {10007, 10007}, {4096, 12},   {1, 0},      {2, 1}};
  for (const auto& [n, cost] : costs) {
    EXPECT_EQ(rrs::plan_hadamard(n).additions_per_element(), cost) << n;
  }
  EXPECT_EQ(rrs::describe(rrs::plan_hadamard(576)),
            "576 = sylvester 4 * paley1 12 * paley1 12, 26 additions per element");
  EXPECT_EQ(rrs::describe(rrs::plan_hadamard(1)), "1 = 1, 0 additions per element");
}

TEST(HadamardPlan, FactorsMultiplyToTheOrder) {
  int orders = 0;
  for (std::int64_t n = 1; n <= 70000; n += n < 3000 ? 1 : 101, ++orders) {
    const HadamardPlan plan = rrs::plan_hadamard(n);
    std::int64_t product = 1;
    for (int i = 0; i < plan.factor_count; ++i) product *= plan.factors[i].order;
    ASSERT_EQ(product, n);
    // The stated rule: the fallback costs n's odd part plus its butterflies, and is never exceeded
    // unless a +-1 form of at most 512 additions exists.
    const int twos = rrs::detail::twos_in(n);
    const std::int64_t fallback = (n >> twos) == 1 ? twos : (n >> twos) + twos;
    const std::int64_t cost = plan.additions_per_element();
    ASSERT_TRUE(cost <= fallback || (plan.is_hadamard() && cost <= 512)) << rrs::describe(plan);
  }
  EXPECT_EQ(orders, 3663);
  for (const std::int64_t n : {std::int64_t{0}, std::int64_t{-4}, rrs::kMaxHadamardOrder + 1}) {
    EXPECT_EQ(rrs::plan_hadamard(n).order, 0) << n;
  }
  EXPECT_EQ(rrs::plan_hadamard(rrs::kMaxHadamardOrder).order, rrs::kMaxHadamardOrder);
}

}  // namespace
