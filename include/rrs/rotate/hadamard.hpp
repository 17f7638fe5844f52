// HadamardPlan: an orthonormal fast transform of any order n >= 1, without padding or stored
// tables.
//
//   H_n = (C_r x ... x C_1 x S_k) / sqrt(n),   n = 2^k f_1 ... f_r,   x: Kronecker product
//
// S_k is Sylvester's matrix (k butterflies per element). C_i is dense, one of
//   Paley I   order q + 1,    q = 3 mod 4 a prime power   entries +-1
//   Paley II  order 2(q + 1), q = 1 mod 4 a prime power   entries +-1
//   Hartley   any odd order m: cas(2 pi i j / m), cas = cos + sin; at most one, for odd parts that
//             no Paley matrix covers; entries at most sqrt(2) / sqrt(m), against 1 / sqrt(m)
// (R. Paley, On orthogonal matrices, J. Math. Phys. 12, 1933.)
// Every factor is written in a symmetric form, so H = H^T = H^-1: the inverse is the same
// transform.
//
// Cost, in additions per element: k for the butterflies, f for a dense factor of order f (f - 1
// additions and, when there is no sign to apply for free, one product). 576 = 12*12*4: 26.
// Choice: among products of Paley matrices of order <= 512 and a Sylvester matrix the cheapest, if
// it costs at most 512 or no more than the cheapest form with a Hartley factor; else the latter.
//
// from: core/scheme.hpp (K).  to: hadamard_factors.hpp (tables), rotate.hpp (the row driver).
// Planning takes microseconds and allocates nothing.
#pragma once

#include <cstdint>
#include <string>

#include "rrs/core/config.hpp"

RRS_TYPES_BEGIN

enum class FactorKind : std::uint8_t { kSylvester, kPaley1, kPaley2, kHartley };

struct HadamardFactor {
  FactorKind kind = FactorKind::kSylvester;
  std::int32_t order = 1;
};

// 12^8 < 2^31 < 12^9: at most eight dense +-1 factors, one Hartley, one Sylvester.
inline constexpr int kMaxHadamardFactors = 10;
inline constexpr std::int64_t kMaxHadamardOrder = INT32_MAX;
// Largest dense +-1 factor, and the cost up to which a +-1 form is preferred to a cheaper Hartley
// form.
inline constexpr int kMaxPaleyOrder = 512;
inline constexpr std::int64_t kPreferredHadamardCost = 512;

// Factors from the fastest index to the slowest: Sylvester (if even), Paley ascending, Hartley.
// order is 0 when n was outside 1..kMaxHadamardOrder.
struct HadamardPlan {
  std::int64_t order = 0;
  int log2_segment = 0;  // k: butterflies run inside contiguous segments of 2^k
  int factor_count = 0;
  HadamardFactor factors[kMaxHadamardFactors];

  RRS_MEMBER std::int64_t additions_per_element() const noexcept {
    std::int64_t cost = log2_segment;
    for (int i = 0; i < factor_count; ++i) {
      if (factors[i].kind != FactorKind::kSylvester) cost += factors[i].order;
    }
    return cost;
  }
  // Order of the Hartley factor, 0 when there is none.
  RRS_MEMBER std::int64_t hartley_order() const noexcept {
    if (factor_count == 0) return 0;
    const HadamardFactor& last = factors[factor_count - 1];
    return last.kind == FactorKind::kHartley ? last.order : 0;
  }
  // True when every entry of sqrt(n) H is +1 or -1.
  RRS_MEMBER bool is_hadamard() const noexcept { return order >= 1 && hartley_order() == 0; }
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

// q = p^e with p prime: returns p, else 0. q < 2^31.
inline int prime_of_power(int q) noexcept {
  if (q < 2) return 0;
  int p = 2;
  while (p * p <= q && q % p != 0) ++p;
  if (p * p > q) return q;
  while (q % p == 0) q /= p;
  return q == 1 ? p : 0;
}

// The smallest Paley matrix whose order has the odd part `odd` > 1; order 0 when there is none up
// to kMaxPaleyOrder. A larger power of two is never better: it costs more than the butterflies.
inline HadamardFactor smallest_paley(std::int64_t odd) noexcept {
  for (std::int64_t f = 4 * odd; f <= kMaxPaleyOrder; f *= 2) {
    const int order = static_cast<int>(f);
    if (prime_of_power(order - 1) != 0) return {FactorKind::kPaley1, order};
    const int q = order / 2 - 1;
    if (q % 4 == 1 && prime_of_power(q) != 0) return {FactorKind::kPaley2, order};
  }
  return {FactorKind::kPaley1, 0};
}

RRS_FORCE_INLINE int twos_in(std::int64_t n) noexcept {
  int twos = 0;
  while ((n & 1) == 0) n /= 2, ++twos;
  return twos;
}

// A partial product: Paley factors chosen so far, and what they leave over.
struct FactorSearch {
  std::int64_t odd = 1;  // odd part not yet covered
  int twos = 0;          // powers of two not yet used
  int count = 0;
  std::int64_t cost = 0;
  HadamardFactor paley[kMaxHadamardFactors];
};

struct BestForms {
  FactorSearch hadamard;            // the cheapest +-1 form
  FactorSearch hartley;             // the cheapest form with one Hartley factor
  std::int64_t hadamard_cost = -1;  // -1: there is none
  std::int64_t hartley_cost = -1;
};

// Depth-first over divisors in ascending order; at most eight levels, as each factor is 12 or more.
inline void search_forms(const FactorSearch& now, std::int64_t first, BestForms* best) noexcept {
  if (now.odd == 1) {
    const std::int64_t cost = now.cost + now.twos;
    if (best->hadamard_cost < 0 || cost < best->hadamard_cost) {
      best->hadamard = now;
      best->hadamard_cost = cost;
    }
    return;
  }
  const std::int64_t cost = now.cost + now.twos + now.odd;
  if (best->hartley_cost < 0 || cost < best->hartley_cost) {
    best->hartley = now;
    best->hartley_cost = cost;
  }
  for (std::int64_t odd = first; odd <= now.odd && 4 * odd <= kMaxPaleyOrder; odd += 2) {
    if (now.odd % odd != 0) continue;
    const HadamardFactor factor = smallest_paley(odd);
    if (factor.order == 0 || twos_in(factor.order) > now.twos) continue;
    FactorSearch next = now;
    next.odd /= odd;
    next.twos -= twos_in(factor.order);
    next.paley[next.count++] = factor;
    next.cost += factor.order;
    search_forms(next, odd, best);
  }
}

inline void sort_by_order(HadamardFactor* factors, int count) noexcept {
  for (int i = 1; i < count; ++i) {
    for (int j = i; j > 0 && factors[j].order < factors[j - 1].order; --j) {
      const HadamardFactor other = factors[j];
      factors[j] = factors[j - 1];
      factors[j - 1] = other;
    }
  }
}

}  // namespace detail

// The plan of order n; plan.order is 0 when n is outside 1..kMaxHadamardOrder.
inline HadamardPlan plan_hadamard(std::int64_t n) noexcept {
  HadamardPlan plan;
  if (n < 1 || n > kMaxHadamardOrder) return plan;
  detail::FactorSearch start;
  start.twos = detail::twos_in(n);
  start.odd = n >> start.twos;
  detail::BestForms best;
  detail::search_forms(start, 3, &best);
  const bool hadamard =
      best.hadamard_cost >= 0 && (best.hadamard_cost <= kPreferredHadamardCost ||
                                  best.hartley_cost < 0 || best.hadamard_cost <= best.hartley_cost);
  detail::FactorSearch& chosen = hadamard ? best.hadamard : best.hartley;
  detail::sort_by_order(chosen.paley, chosen.count);
  plan.order = n;
  plan.log2_segment = chosen.twos;
  if (chosen.twos > 0) {
    plan.factors[plan.factor_count++] = {FactorKind::kSylvester, std::int32_t{1} << chosen.twos};
  }
  for (int i = 0; i < chosen.count; ++i) plan.factors[plan.factor_count++] = chosen.paley[i];
  if (chosen.odd > 1) {
    plan.factors[plan.factor_count++] = {FactorKind::kHartley,
                                         static_cast<std::int32_t>(chosen.odd)};
  }
  return plan;
}

// Offline text: "576 = sylvester 4 * paley2 12 * paley2 12, 26 additions per element".
inline std::string describe(const HadamardPlan& plan) {
  constexpr const char* kNames[] = {"sylvester ", "paley1 ", "paley2 ", "hartley "};
  if (plan.order < 1) return "no plan";
  std::string out = std::to_string(plan.order) + " = ";
  if (plan.factor_count == 0) out += "1";
  for (int i = 0; i < plan.factor_count; ++i) {
    if (i > 0) out += " * ";
    out += kNames[static_cast<int>(plan.factors[i].kind)];
    out += std::to_string(plan.factors[i].order);
  }
  return out + ", " + std::to_string(plan.additions_per_element()) + " additions per element";
}

RRS_FUNCTIONS_END
