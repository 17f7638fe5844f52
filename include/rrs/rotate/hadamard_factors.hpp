// Coefficient tables of the dense factors of a HadamardPlan, built by formula into caller memory.
//
//   Paley I    H[0][j] = H[i][0] = 1,  H[1+a][1+b] = chi(a + b) - [a + b = 0],  a, b in GF(q)
//   Paley II   C[0][0] = 0, C[0][j] = C[i][0] = 1, C[1+a][1+b] = chi(a - b),
//              H = C x [1 1; 1 -1] + I x [1 -1; -1 -1]
//   Hartley    H[i][j] = cas(2 pi (i j mod m) / m)
// chi: quadratic character of GF(q), +1 on squares, -1 on other nonzero elements, chi(0) = 0. The
// usual Paley I matrix is I + skew; negating the row index and the first row makes it symmetric.
//
// Layout: one table per dense factor in plan order, each on a 64-byte boundary: f32 [order][order],
// shared by neighbours of equal order; a Hartley factor above kMaxDenseHartley stores only cas(2 pi
// r / m), r < m, and its rows are written when they are used (hartley_rows).
//
// from: hadamard.hpp.  to: rotate.hpp, reference/rotate.hpp.  noexcept, nothing is allocated.
// Cost: order^2 small integer steps per table (344: below a millisecond); build once per layer or
// workspace, not per row.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/rotate/hadamard.hpp"

RRS_TYPES_BEGIN

// Largest Hartley order whose m x m matrix is stored (1 MiB).
inline constexpr int kMaxDenseHartley = 512;

namespace internal {

inline constexpr int kMaxFieldSize = kMaxPaleyOrder - 1;  // Paley I has the larger field
inline constexpr int kMaxFieldDegree = 5;                 // 3^5 = 243, and 3^6 > 511

// GF(p^e): elements are integers whose base-p digits are the coefficients of a polynomial.
struct Field {
  int q = 0, p = 0, e = 0;
  std::int8_t chi[kMaxFieldSize + 1];
  std::uint16_t digits[kMaxFieldSize + 1][kMaxFieldDegree];
};

}  // namespace internal

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

// v times the polynomial x, modulo x^e - sum_i low_i x^i, where low_i are the digits of `low`.
inline int times_x(const internal::Field& field, int v, int low) noexcept {
  const int top_power = field.q / field.p;
  const int top = v / top_power;
  int rest = v % top_power;  // digits 0..e-2, which move up by one
  int result = 0;
  for (int power = 1, carry = 0; power < field.q; power *= field.p) {
    const int digit = (carry + top * (low % field.p)) % field.p;
    result += digit * power;
    carry = rest % field.p;
    rest /= field.p;
    low /= field.p;
  }
  return result;
}

// True when the powers of x modulo that polynomial run through all q - 1 nonzero elements. Then
// each of them has an inverse, the residues are a field, and chi(x^i) = (-1)^i; fills chi.
inline bool fill_character(internal::Field* field, int low) noexcept {
  for (int i = 0; i < field->q; ++i) field->chi[i] = 0;
  int v = 1;
  for (int i = 0; i < field->q - 1; ++i) {
    if (v == 0 || field->chi[v] != 0) return false;
    field->chi[v] = i % 2 == 0 ? 1 : -1;
    v = times_x(*field, v, low);
  }
  return v == 1;
}

// q an odd prime power up to kMaxFieldSize. The search ends: primitive polynomials exist.
inline void make_field(int q, internal::Field* field) noexcept {
  field->q = q;
  field->p = prime_of_power(q);
  field->e = 0;
  for (int power = 1; power < q; power *= field->p) ++field->e;
  for (int v = 0; v < q; ++v) {
    for (int i = 0, rest = v; i < field->e; ++i, rest /= field->p) {
      field->digits[v][i] = static_cast<std::uint16_t>(rest % field->p);
    }
  }
  for (int low = 1; low < q && !fill_character(field, low);) ++low;
}

// chi(a + b), or chi(a - b).
inline int character_of_sum(const internal::Field& f, int a, int b, bool subtract) noexcept {
  int v = 0;
  for (int i = f.e - 1; i >= 0; --i) {
    int digit = f.digits[a][i] + (subtract ? f.p - f.digits[b][i] : f.digits[b][i]);
    if (digit >= f.p) digit -= f.p;
    v = v * f.p + digit;
  }
  return f.chi[v];
}

inline void fill_paley1(int order, float* h) noexcept {
  internal::Field field;
  make_field(order - 1, &field);
  for (int i = 0; i < order; ++i) {
    for (int j = 0; j < order; ++j, ++h) {
      int value = 1;
      if (i > 0 && j > 0) {
        value = character_of_sum(field, i - 1, j - 1, false);
        if (value == 0) value = -1;  // a + b = 0
      }
      *h = static_cast<float>(value);
    }
  }
}

inline void fill_paley2(int order, float* h) noexcept {
  internal::Field field;
  make_field(order / 2 - 1, &field);
  for (int i = 0; i < order / 2; ++i) {
    for (int j = 0; j < order / 2; ++j) {
      int c = 1;
      if (i > 0 && j > 0) c = character_of_sum(field, i - 1, j - 1, true);
      if (i == 0 && j == 0) c = 0;
      const float same = static_cast<float>(i == j ? 1 : c);
      const float cross = static_cast<float>(i == j ? -1 : c);
      float* upper = h + std::int64_t{2} * i * order + 2 * j;
      upper[0] = same;
      upper[1] = cross;
      upper[order] = cross;
      upper[order + 1] = -same;
    }
  }
}

// cas(2 pi r / m), r < m.
inline void fill_cas(std::int32_t m, float* cas) noexcept {
  constexpr double kTwoPi = 6.283185307179586476925286766559;
  for (std::int32_t r = 0; r < m; ++r) {
    const double angle = kTwoPi * (static_cast<double>(r) / static_cast<double>(m));
    cas[r] = static_cast<float>(std::cos(angle) + std::sin(angle));
  }
}

// Rows first..first+count-1 of the Hartley matrix of order m, from its cas table.
inline void hartley_rows(const float* cas, std::int64_t m, std::int64_t first, std::int64_t count,
                         float* rows) noexcept {
  for (std::int64_t i = first; i < first + count; ++i) {
    for (std::int64_t j = 0, r = 0; j < m; ++j) {
      *rows++ = cas[r];
      r += i;
      if (r >= m) r -= m;
    }
  }
}

// The last row of the matrix serves as the cas table while the rows before it are written; it is
// then replaced by itself reversed, which is what it must be (index (m - 1) j mod m = m - j).
inline void fill_dense_hartley(std::int32_t m, float* h) noexcept {
  float* last = h + std::int64_t{m - 1} * m;
  fill_cas(m, last);
  hartley_rows(last, m, 0, m - 1, h);
  for (std::int32_t i = 1, j = m - 1; i < j; ++i, --j) {
    const float other = last[i];
    last[i] = last[j];
    last[j] = other;
  }
}

RRS_FORCE_INLINE bool is_large_hartley(const HadamardFactor& factor) noexcept {
  return factor.kind == FactorKind::kHartley && factor.order > kMaxDenseHartley;
}

// Bytes that factor i adds to the tables: 0 for Sylvester, and when factor i - 1 is the same
// matrix.
inline std::size_t factor_table_bytes(const HadamardPlan& plan, int i) noexcept {
  const HadamardFactor& factor = plan.factors[i];
  if (factor.kind == FactorKind::kSylvester) return 0;
  if (i > 0 && plan.factors[i - 1].kind == factor.kind &&
      plan.factors[i - 1].order == factor.order) {
    return 0;
  }
  const std::size_t order = static_cast<std::size_t>(factor.order);
  const std::size_t floats = is_large_hartley(factor) ? order : order * order;
  return (floats * sizeof(float) + 63) / 64 * 64;
}

}  // namespace detail

// Bytes that build_hadamard_tables fills; 0 for a power of two.
inline std::size_t hadamard_tables_bytes(const HadamardPlan& plan) noexcept {
  std::size_t bytes = 0;
  for (int i = 0; i < plan.factor_count; ++i) bytes += detail::factor_table_bytes(plan, i);
  return bytes;
}

// Table of factor i inside `memory`; meaningless for a Sylvester factor.
inline const float* hadamard_table(const HadamardPlan& plan, int i, const void* memory) noexcept {
  std::size_t end = 0;
  std::size_t bytes = 0;  // of the table that factor i reads
  for (int f = 0; f <= i; ++f) {
    const std::size_t own = detail::factor_table_bytes(plan, f);
    if (own != 0) bytes = own;
    end += own;
  }
  return reinterpret_cast<const float*>(static_cast<const std::byte*>(memory) + (end - bytes));
}

// Fills hadamard_tables_bytes(plan) bytes at `memory` (64-byte aligned).
inline void build_hadamard_tables(const HadamardPlan& plan, void* memory) noexcept {
  std::byte* at = static_cast<std::byte*>(memory);
  for (int i = 0; i < plan.factor_count; ++i) {
    const std::size_t bytes = detail::factor_table_bytes(plan, i);
    if (bytes == 0) continue;
    const HadamardFactor& factor = plan.factors[i];
    float* table = reinterpret_cast<float*>(at);
    switch (factor.kind) {
      case FactorKind::kSylvester: break;
      case FactorKind::kPaley1: detail::fill_paley1(factor.order, table); break;
      case FactorKind::kPaley2: detail::fill_paley2(factor.order, table); break;
      case FactorKind::kHartley:
        if (detail::is_large_hartley(factor)) {
          detail::fill_cas(factor.order, table);
        } else {
          detail::fill_dense_hartley(factor.order, table);
        }
        break;
    }
    at += bytes;
  }
}

RRS_FUNCTIONS_END
