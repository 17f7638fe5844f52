// The row driver of the rotation: x~ = x D H in place on one f32 row, ISA-free.
//
//   D: random signs +-1 (optional; sign k depends on the seed and k only).
//   H: orthonormal, symmetric. kNone: identity; kBlock: Hadamard blocks along K, the tail covered
//   greedily by powers of two (577 with block 128: 4 x 128, 64, 1); kFull: one transform of order
//   K.
//
// Written order: signs; butterflies of strides 1, 2, 4, ... inside contiguous segments of 2^k; then
// the dense factors in plan order (Paley ascending, Hartley last), each a sum over j ascending of
// fma (mix in core/kernel_table.hpp); then one product with rotation_scale(n) = float(1 / sqrt(n)),
// by whichever pass is last. All levels, and all orders of rows, give the same bits.
//
// Bound, u = 2^-24: ||x~ - exact||_2 <= rotation_error_bound * ||x||_2. Each pass is, up to scale,
// an orthogonal matrix, and so are its truncations to the first t columns: hence the vector of all
// t-th partial sums has norm <= that of the result, and each of the `additions_per_element`
// roundings adds at most u, relative. A Hartley factor of order m adds sqrt(m) u (rounded
// coefficients, Frobenius norm); scale and final product add 2 u; 1 % covers products of errors.
// Valid without overflow, and for magnitudes whose butterflies stay normal. Reached within sqrt(f)
// for f the largest dense factor.
//
// from: load.hpp.  to: smooth/, quantize/, pipeline/ (activations and weights alike).
// Cost: additions_per_element() additions per element; nothing is allocated. Build a plan and its
// tables once per layer or workspace, use them for every row.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/status.hpp"
#include "rrs/rotate/hadamard.hpp"
#include "rrs/rotate/hadamard_factors.hpp"
#include "rrs/rotate/load.hpp"

RRS_TYPES_BEGIN

// How rows of k values are rotated. Plain data; signs and tables point into the memory given to
// build_rotation_tables and are null until then.
struct RotationPlan {
  Rotation rotation;
  std::int64_t k = 0;
  HadamardPlan full;             // only for kFull
  const float* signs = nullptr;  // [k] of +-1, or null
  const void* tables = nullptr;  // of `full`
};

namespace internal {
// Rows of a large Hartley matrix that exist at a time.
inline constexpr int kHartleyRows = 16;
// Factors with fewer columns than this are applied to an interchanged copy, so that the inner loops
// are long enough to vectorise. The same on all levels, though it changes no bit.
inline constexpr std::int64_t kMinMixColumns = 16;
inline constexpr std::int64_t kInterchangedColumns = 64;
}  // namespace internal

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

// The factor that makes a +-1 transform of order n orthonormal, rounded once.
inline float rotation_scale(std::int64_t n) noexcept {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
}

// What can be said about rotating rows of k inputs.
inline Status validate(const Rotation& rotation, std::int64_t k) noexcept {
  if (Status status = detail::validate_rotation(rotation); !status) return status;
  if (k < 1) return invalid_argument("K", "must be at least 1", k, 1);
  if (k > kMaxHadamardOrder) return invalid_argument("K", "must fit int32", k, kMaxHadamardOrder);
  return Status{};
}

// Requires validate(rotation, k).ok().
inline RotationPlan plan_rotation(const Rotation& rotation, std::int64_t k) noexcept {
  RotationPlan plan;
  plan.rotation = rotation;
  plan.k = k;
  if (rotation.kind == RotationKind::kFull) plan.full = plan_hadamard(k);
  return plan;
}

// Cost of one rotated row, in additions per element (explain prints it).
inline std::int64_t additions_per_element(const RotationPlan& plan) noexcept {
  switch (plan.rotation.kind) {
    case RotationKind::kNone: return 0;
    case RotationKind::kBlock: return detail::twos_in(plan.rotation.block);
    case RotationKind::kFull: return plan.full.additions_per_element();
  }
  return 0;
}

// Largest ||error||_2 / ||x||_2 of one rotated row (see above).
inline double rotation_error_bound(const RotationPlan& plan) noexcept {
  if (plan.rotation.kind == RotationKind::kNone) return 0.0;
  const double steps = static_cast<double>(additions_per_element(plan)) + 2.0 +
                       std::sqrt(static_cast<double>(plan.full.hartley_order()));
  return 1.01 * 0x1p-24 * steps;
}

namespace detail {

RRS_FORCE_INLINE bool has_signs(const RotationPlan& plan) noexcept {
  return plan.rotation.random_signs && plan.rotation.kind != RotationKind::kNone;
}

inline std::size_t signs_bytes(const RotationPlan& plan) noexcept {
  return has_signs(plan) ? (static_cast<std::size_t>(plan.k) * sizeof(float) + 63) / 64 * 64 : 0;
}

// SplitMix64 as a hash of (seed, k).
RRS_FORCE_INLINE float random_sign(std::uint64_t seed, std::int64_t k) noexcept {
  std::uint64_t z = seed + (static_cast<std::uint64_t>(k) + 1u) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return ((z ^ (z >> 31)) >> 63) != 0 ? -1.0f : 1.0f;
}

}  // namespace detail

// Bytes of signs and coefficients; 0 for block rotations without signs.
inline std::size_t rotation_tables_bytes(const RotationPlan& plan) noexcept {
  return detail::signs_bytes(plan) + hadamard_tables_bytes(plan.full);
}

// Fills rotation_tables_bytes(*plan) bytes at `memory` (64-byte aligned) and points the plan at
// them. The memory must outlive the plan; any number of threads may then read both.
inline void build_rotation_tables(RotationPlan* plan, void* memory) noexcept {
  plan->signs = nullptr;
  plan->tables = nullptr;
  if (detail::has_signs(*plan)) {
    float* signs = static_cast<float*>(memory);
    for (std::int64_t k = 0; k < plan->k; ++k) {
      signs[k] = detail::random_sign(plan->rotation.sign_seed, k);
    }
    plan->signs = signs;
  }
  if (hadamard_tables_bytes(plan->full) == 0) return;
  void* tables = static_cast<std::byte*>(memory) + detail::signs_bytes(*plan);
  build_hadamard_tables(plan->full, tables);
  plan->tables = tables;
}

// Floats of scratch that rotating one row needs; 0 when butterflies alone do it.
inline std::int64_t rotation_scratch_floats(const RotationPlan& plan) noexcept {
  if (hadamard_tables_bytes(plan.full) == 0) return 0;
  std::int64_t floats = (plan.k + 15) / 16 * 16;
  if (plan.full.hartley_order() > kMaxDenseHartley) {
    floats += internal::kHartleyRows * plan.full.hartley_order();
  }
  return floats;
}

namespace detail {

// out[b][a][c] = in[a][b][c], c < kColumns.
template <int kColumns>
void interchange_fixed(const float* RRS_RESTRICT in, float* RRS_RESTRICT out, std::int64_t a_count,
                       std::int64_t b_count) noexcept {
  for (std::int64_t b = 0; b < b_count; ++b, in += kColumns) {
    const float* from = in;
    for (std::int64_t a = 0; a < a_count; ++a, from += b_count * kColumns, out += kColumns) {
      std::memcpy(out, from, kColumns * sizeof(float));  // a move or two: the size is a constant
    }
  }
}

// The same for any number of columns. 1, 2, 4 and 8 are what the butterflies leave.
inline void interchange(const float* RRS_RESTRICT in, float* RRS_RESTRICT out, std::int64_t a_count,
                        std::int64_t b_count, std::int64_t columns) noexcept {
  switch (columns) {
    case 1: return interchange_fixed<1>(in, out, a_count, b_count);
    case 2: return interchange_fixed<2>(in, out, a_count, b_count);
    case 4: return interchange_fixed<4>(in, out, a_count, b_count);
    case 8: return interchange_fixed<8>(in, out, a_count, b_count);
    case 12: return interchange_fixed<12>(in, out, a_count, b_count);
    default: break;
  }
  for (std::int64_t b = 0; b < b_count; ++b, in += columns) {
    const float* from = in;
    for (std::int64_t a = 0; a < a_count; ++a, from += b_count * columns) {
      for (std::int64_t c = 0; c < columns; ++c) *out++ = from[c];
    }
  }
}

// The two buffers that dense factors write alternately; the row is in `current`.
struct RowBuffers {
  float* current;
  float* other;
  RRS_MEMBER void swap() noexcept {
    float* old = current;
    current = other;
    other = old;
  }
};

// NOLINTNEXTLINE(readability-function-size): mix, with room for the rows that it makes
inline void mix_large_hartley(const KernelTable& table, const float* in, float* out,
                              std::int64_t columns, const float* cas, int order, float scale,
                              float* rows) noexcept {
  for (int i = 0; i < order; i += internal::kHartleyRows) {
    const int count = order - i < internal::kHartleyRows ? order - i : internal::kHartleyRows;
    hartley_rows(cas, order, i, count, rows);
    table.rotate.mix(in, out + i * columns, columns, rows, count, order, scale);
  }
}

// One dense factor on the row seen as [outer][order][columns], columns < kMinMixColumns: a few
// outer indices at a time, as many as make kInterchangedColumns columns, so that the piece stays in
// L1. (64 to 1024 columns per piece: no difference at n = 29568 on a core with 2 MiB of L2.)
inline void apply_narrow_factor(const KernelTable& table, const RowBuffers& row, std::int64_t outer,
                                int order, std::int64_t columns, const float* coefficients,
                                float scale) noexcept {
  const std::int64_t step = (internal::kInterchangedColumns + columns - 1) / columns;
  for (std::int64_t o = 0; o < outer; o += step) {
    const std::int64_t count = outer - o < step ? outer - o : step;
    float* piece = row.current + o * order * columns;
    float* other = row.other + o * order * columns;
    interchange(piece, other, count, order, columns);
    table.rotate.mix(other, piece, count * columns, coefficients, order, order, scale);
    interchange(piece, other, order, count, columns);
  }
}

// One dense factor on the row seen as [outer][order][columns]; the result is in row->current.
inline void apply_factor(const KernelTable& table, RowBuffers* row, std::int64_t outer, int order,
                         std::int64_t columns, const float* coefficients, float scale) noexcept {
  if (outer > 1 && columns < internal::kMinMixColumns) {
    apply_narrow_factor(table, *row, outer, order, columns, coefficients, scale);
  } else {
    for (std::int64_t o = 0; o < outer; ++o) {
      const std::int64_t offset = o * order * columns;
      table.rotate.mix(row->current + offset, row->other + offset, columns, coefficients, order,
                       order, scale);
    }
  }
  row->swap();
}

// H of order plan.k; returns x or scratch, whichever holds the result.
inline float* transform_full(const KernelTable& table, const RotationPlan& plan, float* x,
                             float* scratch) noexcept {
  const HadamardPlan& h = plan.full;
  const float scale = rotation_scale(plan.k);
  RowBuffers row{x, scratch};
  std::int64_t columns = std::int64_t{1} << h.log2_segment;
  const bool only_butterflies = columns == plan.k;
  if (h.log2_segment > 0) {
    table.rotate.hadamard(x, plan.k / columns, h.log2_segment, only_butterflies ? scale : 1.0f);
  }
  for (int i = h.log2_segment > 0 ? 1 : 0; i < h.factor_count; ++i) {
    const int order = h.factors[i].order;
    const float factor_scale = i + 1 == h.factor_count ? scale : 1.0f;
    const float* coefficients = hadamard_table(h, i, plan.tables);
    if (is_large_hartley(h.factors[i])) {
      float* rows = scratch + (plan.k + 15) / 16 * 16;
      mix_large_hartley(table, row.current, row.other, columns, coefficients, order, factor_scale,
                        rows);
      row.swap();
    } else {
      apply_factor(table, &row, plan.k / (columns * order), order, columns, coefficients,
                   factor_scale);
    }
    columns *= order;
  }
  return row.current;
}

inline void transform_blocks(const KernelTable& table, const RotationPlan& plan,
                             float* x) noexcept {
  const std::int64_t block = plan.rotation.block;
  table.rotate.hadamard(x, plan.k / block, twos_in(block), rotation_scale(block));
  std::int64_t rest = plan.k % block;
  x += plan.k - rest;
  for (std::int64_t size = block / 2; rest > 0; size /= 2) {
    if (size > rest) continue;
    if (size > 1) table.rotate.hadamard(x, 1, twos_in(size), rotation_scale(size));
    x += size;
    rest -= size;
  }
}

}  // namespace detail

// Rotates the row x (destroyed) and returns where the result is: x or scratch. scratch:
// rotation_scratch_floats(plan) floats, not overlapping x.
inline float* rotate_row_any(const KernelTable& table, const RotationPlan& plan, float* x,
                             float* scratch) noexcept {
  if (plan.signs != nullptr) detail::multiply_by(x, plan.signs, plan.k);
  if (plan.rotation.kind == RotationKind::kFull) {
    return detail::transform_full(table, plan, x, scratch);
  }
  if (plan.rotation.kind == RotationKind::kBlock) detail::transform_blocks(table, plan, x);
  return x;
}

// The same in place.
inline void rotate_row(const KernelTable& table, const RotationPlan& plan, float* x,
                       float* scratch) noexcept {
  const float* result = rotate_row_any(table, plan, x, scratch);
  if (result != x) std::memcpy(x, result, static_cast<std::size_t>(plan.k) * sizeof(float));
}

// x = x~ H D in place: H is its own inverse, the signs come last.
inline void inverse_rotate_row(const KernelTable& table, const RotationPlan& plan, float* x,
                               float* scratch) noexcept {
  RotationPlan unsigned_plan = plan;
  unsigned_plan.signs = nullptr;
  rotate_row(table, unsigned_plan, x, scratch);
  if (plan.signs != nullptr) detail::multiply_by(x, plan.signs, plan.k);
}

RRS_FUNCTIONS_END
