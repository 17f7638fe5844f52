// gemm and linear: where the two lanes meet.
//
//   Y[t,n] = a[t] sum_g s[t,g] v[n,g] (sum_{k in g} q[t,k] p[n,k])   (+ bias[n]) (+ old Y[t,n])
//            + sum_j L_A[n,j] (sum_k L_B[j,k] x~[t,k])   for a weight with a low-rank branch
//
// from: pipeline/activation.hpp (PreparedActivation), pipeline/weight.hpp (WeightView).  to: Y.
// Numeric contract: the inner sum is exact; the rest is one written order (gemm/gemm.hpp), so Y has
// the same bits on every ISA level, with any executor, and for a row alone or among others
// (window one).
#pragma once

#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/executor.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/view.hpp"
#include "rrs/gemm/gemm.hpp"
#include "rrs/pipeline/activation.hpp"
#include "rrs/pipeline/weight_view.hpp"

RRS_TYPES_BEGIN

struct GemmOptions {
  const float* bias = nullptr;  // [N], added to every row, or null
  bool accumulate = false;      // Y += instead of Y = (residual add)
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

inline bool same_rotation(const Rotation& a, const Rotation& b) noexcept {
  if (a.kind != b.kind || a.random_signs != b.random_signs) return false;
  if (a.random_signs && a.sign_seed != b.sign_seed) return false;
  return a.kind != RotationKind::kBlock || a.block == b.block;
}

inline Status validate_weight(const WeightView& w) noexcept {
  if (w.n < 0) return invalid_argument("W.n", "must not be negative", w.n, 0);
  if (Status status = validate(w.scheme, w.k); !status) return status;
  if (w.n == 0) return Status{};
  if (w.panels == nullptr || w.scales == nullptr) {
    return invalid_argument("W.panels", "and W.scales must not be null", 0, 1);
  }
  if (reinterpret_cast<std::uintptr_t>(w.panels) % 64 != 0) {
    return invalid_argument(
        "W.panels", "must be 64-byte aligned (found: address modulo 64)",
        static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(w.panels) % 64), 0);
  }
  if (w.panel_bytes != panel_bytes(w.k, w.scheme.weight.bits)) {
    return invalid_argument("W.panel_bytes", "must be panel_bytes(K, bits)", w.panel_bytes,
                            panel_bytes(w.k, w.scheme.weight.bits));
  }
  if (w.groups != group_count(w.k, w.scheme.weight.group)) {
    return invalid_argument("W.groups", "must be group_count(K, group)", w.groups,
                            group_count(w.k, w.scheme.weight.group));
  }
  if (w.low_rank.rank == 0) return Status{};
  return validate_low_rank(w.low_rank, w.n, w.k);
}

// u = L_B x~ of the weight's branch, or null.
inline const float* find_branch(const PreparedActivation& a, const LowRankView& b) noexcept {
  for (int i = 0; i < a.low_rank_count; ++i) {
    if (a.low_rank[i].down == b.down && a.low_rank[i].rank == b.rank) return a.low_rank[i].u;
  }
  return nullptr;
}

// The weight and the activation were prepared for each other.
inline Status validate_match(const PreparedActivation& a, const WeightView& w) noexcept {
  if (a.table == nullptr) {
    return invalid_argument("activation", "must come from smooth_rotate_quantize", 0, 1);
  }
  if (a.k != w.k) return invalid_argument("W.k", "must equal the activation's K", w.k, a.k);
  if (!same_rotation(a.scheme.rotation, w.scheme.rotation)) {
    return invalid_scheme("rotation", "must be the same for weight and activation (found: block)",
                          w.scheme.rotation.block, a.scheme.rotation.block);
  }
  if (a.scheme.weight.bits != w.scheme.weight.bits) {
    return invalid_scheme("weight.bits", "must be the activation scheme's", w.scheme.weight.bits,
                          a.scheme.weight.bits);
  }
  if (a.scheme.weight.group != w.scheme.weight.group) {
    return invalid_scheme("weight.group", "must be the activation scheme's", w.scheme.weight.group,
                          a.scheme.weight.group);
  }
  if (!a.is_float() && w.k > max_inputs(a.scheme, w.offsets != nullptr)) {
    return invalid_argument("W.k",
                            "with offsets and row groups must keep integer sums within int32", w.k,
                            max_inputs(a.scheme, true));
  }
  if (a.channels_fingerprint != w.channels_fingerprint) {
    return invalid_argument("channels", "must be the same for weight and activation (fingerprints)",
                            static_cast<std::int64_t>(w.channels_fingerprint),
                            static_cast<std::int64_t>(a.channels_fingerprint));
  }
  if (w.low_rank.rank > 0 && find_branch(a, w.low_rank) == nullptr) {
    return invalid_argument("activation.low_rank",
                            "must hold the weight's branch (found: branches)", a.low_rank_count,
                            w.low_rank.rank);
  }
  return Status{};
}

// True when the bytes share one with the weight's panels, scales, offsets or low-rank branch.
inline bool overlaps_weight(const void* data, std::int64_t bytes, const WeightView& w) noexcept {
  const std::int64_t panels = panel_count(w.n) * w.panel_bytes;
  const std::int64_t scales = panel_count(w.n) * w.panel_scales() * 2;
  const LowRankView& b = w.low_rank;
  return ranges_overlap(data, bytes, w.panels, panels) ||
         ranges_overlap(data, bytes, w.scales, scales) ||
         (w.offsets != nullptr && ranges_overlap(data, bytes, w.offsets, 2 * scales)) ||
         ranges_overlap(data, bytes, b.down, low_rank_down_bytes(b.rank, w.k, b.bits)) ||
         ranges_overlap(data, bytes, b.up, low_rank_up_bytes(b.rank, w.n, b.bits)) ||
         ranges_overlap(data, bytes, b.scales, low_rank_scale_bytes(b.rank, b.bits));
}

// Y against the shape M x N, the weight, the workspace and the bias.
inline Status validate_output(const ErasedView& y, std::int64_t m, const WeightView& w,
                              const void* workspace, std::int64_t workspace_bytes,
                              const float* bias) noexcept {
  if (Status status = validate_view(y, kNamesY); !status) return status;
  if (y.rows != m) return invalid_argument("Y.rows", "must equal X.rows", y.rows, m);
  if (y.cols != w.n) return invalid_argument("Y.cols", "must equal W's outputs", y.cols, w.n);
  const std::int64_t bytes = extent_bytes(y);
  if (overlaps_weight(y.data, bytes, w)) {
    return invalid_argument("Y.data", "must not overlap the weight", 1, 0);
  }
  if (ranges_overlap(y.data, bytes, workspace, workspace_bytes)) {
    return invalid_argument("Y.data", "must not overlap the workspace", 1, 0);
  }
  if (bias != nullptr && ranges_overlap(y.data, bytes, bias, w.n * 4)) {
    return invalid_argument("Y.data", "must not overlap the bias", 1, 0);
  }
  return Status{};
}

inline Status validate_repack(const PreparedActivation& a, const WeightView& w) noexcept {
  if (!a.scheme.activation.exact_reference) return Status{};
  const std::int64_t needed = panel_count(w.n) * w.panel_bytes;
  if (a.repack_bytes >= needed) return Status{};
  return Status{StatusCode::kWorkspaceTooSmall,
                "workspace",
                "must hold workspace_bytes(M, K, scheme, N) for exact_reference (found: the rest)",
                a.repack_bytes,
                needed,
                nullptr};
}

// Inner groups per group of size `group`.
inline std::int64_t inner_per(int group, int inner, std::int64_t inner_groups) noexcept {
  if (group == inner) return 1;
  return group == kRowGroup ? inner_groups : group / inner;
}

inline GemmProblem make_problem(const PreparedActivation& a, const WeightView& w,
                                const ErasedView& y, const GemmOptions& options) noexcept {
  GemmProblem p;
  p.n = w.n;
  p.k_padded = a.k_padded;
  p.float_activations = a.is_float();
  p.weights = w.panels;
  p.panel_bytes = w.panel_bytes;
  p.weight_scales = w.scales;
  p.weight_offsets = w.offsets;
  p.weight_groups = w.groups;
  p.low_rank = w.low_rank;
  if (w.low_rank.rank > 0) p.low_rank_u = find_branch(a, w.low_rank);
  if (p.float_activations) {
    p.inner_group = w.scheme.weight.group;
    p.inner_groups = w.groups;
  } else {
    p.inner_group = inner_group(a.scheme.activation.group, a.scheme.weight.group);
    p.inner_groups = a.inner_groups;
    p.inner_per_weight = inner_per(a.scheme.weight.group, p.inner_group, a.inner_groups);
    p.inner_per_activation = inner_per(a.scheme.activation.group, p.inner_group, a.inner_groups);
    p.activation_groups = a.activation_groups;
  }
  p.output =
      GemmOutput{const_cast<void*>(y.data), y.type, y.row_stride, options.bias, options.accumulate};
  return p;
}

// The problem restricted to one segment's rows.
inline GemmProblem segment_problem(const GemmProblem& whole, const PreparedActivation& a,
                                   const ActivationSegment& segment, int max_rows) noexcept {
  GemmProblem p = whole;
  const std::int64_t row = segment.first_row;
  const std::int64_t element = p.float_activations ? 4 : 1;
  p.tiles = make_row_tiles(segment.rows, max_rows);
  p.activations = static_cast<const std::byte*>(a.codes) + row * a.k_padded * element;
  p.token_scales = a.token_scales + row;
  if (p.low_rank.rank > 0) p.low_rank_u += row * low_rank_columns(p.low_rank.rank);
  if (!p.float_activations) {
    p.code_sums = a.sums + row * a.inner_groups;
    p.activation_scales = a.scales + row * a.activation_groups;
  }
  const ErasedView y{p.output.y, p.output.type, 0, 0, p.output.row_stride};
  p.output.y = const_cast<std::byte*>(y.row(row));
  return p;
}

// exact_reference: one panel with its inputs in the window's order. Slow by design.
inline void repack_panel(const std::uint8_t* in, int bits, std::int64_t k, std::int64_t bytes,
                         const std::int32_t* permutation, std::uint8_t* out) noexcept {
  std::memset(out, bits == 4 ? 0x88 : 0x80, static_cast<std::size_t>(bytes));
  for (std::int64_t i = 0; i < k; ++i) {
    const std::int64_t source = permutation[i];
    for (int n = 0; n < kPanelOutputs; ++n) {
      if (bits == 8) {
        out[w8_byte(n, i)] = in[w8_byte(n, source)];
        continue;
      }
      const std::uint8_t byte = in[w4_byte(n, source)];
      const int code = w4_high_nibble(source) ? byte >> 4 : byte & 15;
      std::uint8_t& target = out[w4_byte(n, i)];
      target = static_cast<std::uint8_t>(w4_high_nibble(i) ? (target & 15) | (code << 4)
                                                           : (target & 240) | code);
    }
  }
}

template <class Executor>
void repack_weight(const PreparedActivation& a, const WeightView& w,
                   const std::int32_t* permutation, const Executor& executor) noexcept {
  run_tasks(executor, panel_count(w.n), [&a, &w, permutation](std::int64_t panel) noexcept {
    const std::int64_t at = panel * w.panel_bytes;
    repack_panel(w.panels + at, w.scheme.weight.bits, w.k, w.panel_bytes, permutation,
                 reinterpret_cast<std::uint8_t*>(a.repack_memory) + at);
  });
}

inline Status validate_gemm(const PreparedActivation& a, const WeightView& w, const ErasedView& y,
                            const GemmOptions& options) noexcept {
  if (Status status = validate_weight(w); !status) return status;
  if (Status status = validate_match(a, w); !status) return status;
  if (Status status = validate_output(y, a.m, w, a.memory, a.memory_bytes, options.bias); !status) {
    return status;
  }
  return validate_repack(a, w);
}

// What linear can know before it writes anything.
inline Status validate_linear(const ErasedView& x, const WeightView& w, const ErasedView& y,
                              Workspace& ws, const GemmOptions& options) noexcept {
  const auto ws_bytes = static_cast<std::int64_t>(ws.bytes());
  if (Status status = validate_view(x, kNamesX); !status) return status;
  if (x.cols != w.k) return invalid_argument("X.cols", "must equal W.k", x.cols, w.k);
  if (Status status = validate_weight(w); !status) return status;
  if (Status status = validate_output(y, x.rows, w, ws.data(), ws_bytes, options.bias); !status) {
    return status;
  }
  if (ranges_overlap(x.data, extent_bytes(x), y.data, extent_bytes(y))) {
    return invalid_argument("Y.data", "must not overlap X", 1, 0);
  }
  if (overlaps_weight(ws.data(), ws_bytes, w)) {
    return invalid_argument("workspace", "must not overlap the weight", 1, 0);
  }
  return Status{};
}

}  // namespace detail

// Y [M,N] from a prepared activation and a packed weight. T: float, f16 or bf16.
//
// The weight must share the activation's K, rotation, weight bits and group, and LayerChannels; the
// activation's bits, group and window are free (one 4-bit weight serves A4, A8 and A16). A low-rank
// branch must have been registered in ActivationOptions::low_rank.
// Y: row-major, aligned to an element; what lies between its rows is not written. It must not
// overlap the weight, the workspace or the bias (refused). Panels are 64-byte aligned (checked).
// Non-finite rows of X give quiet NaN rows; an f16 result beyond 65504 is Inf. Errors leave Y
// untouched: kInvalidArgument or kInvalidScheme naming what is wrong or does not match,
// kSimulatedOnly, kWorkspaceTooSmall (exact_reference only).
// Threading: at most one executor call (per sequence with exact_reference, plus one to repack the
// weight). One activation and one weight may be in several calls at once, each with its Y; not with
// exact_reference, which repacks into the workspace.
// Uses the level that prepared the activation. Cost: M N K multiply-adds.
template <class T, class Executor = SerialExecutor>
Status gemm(const PreparedActivation& activation, const WeightView& w, const MatrixView<T>& Y,
            const Executor& executor = Executor{},
            const GemmOptions& options = GemmOptions{}) noexcept {
  const ErasedView y = erase(Y);
  if (Status status = detail::validate_gemm(activation, w, y, options); !status) return status;
  const GemmKernel& kernel = select_gemm_kernel(*activation.table, activation.scheme);
  const GemmProblem whole = detail::make_problem(activation, w, y, options);
  for (std::int64_t i = 0; i < activation.segment_count; ++i) {
    const ActivationSegment segment = activation.segment(i);
    GemmProblem p = detail::segment_problem(whole, activation, segment, kernel.max_rows);
    if (segment.permutation != nullptr) {
      detail::repack_weight(activation, w, segment.permutation, executor);
      p.weights = reinterpret_cast<const std::uint8_t*>(activation.repack_memory);
    }
    run_gemm(*activation.table, kernel, p, executor);
  }
  return Status{};
}

// Both steps: Y = linear(X) under the weight's scheme.
//
// workspace: workspace_bytes(M, w). The weight's low-rank branch is registered unless
// activation_options registers others. Layout, alignment, errors and cost are those of the two
// steps: kNonFinite (with Y computed, NaN in that row) or the first error, with Y untouched.
// Y must overlap nothing else, nor the workspace X or the weight (refused) or the bias (not
// checked); what is only read may overlap.
// Threading: the executor calls of both, one after the other. Calls with a Y and a workspace of
// their own may run at once and share X, weight and bias.
template <class TX, class TY, class Executor = SerialExecutor>
Status linear(const MatrixView<TX>& X, const WeightView& w, const MatrixView<TY>& Y,
              Workspace& workspace, const Executor& executor = Executor{},
              const ActivationOptions& activation_options = ActivationOptions{},
              const GemmOptions& options = GemmOptions{}) noexcept {
  const ErasedView x = erase(X);
  const ErasedView y = erase(Y);
  if (Status status = detail::validate_linear(x, w, y, workspace, options); !status) return status;
  PreparedActivation activation;
  ActivationOptions with_branch = activation_options;
  if (with_branch.low_rank_count == 0 && w.low_rank.rank > 0) {
    with_branch.low_rank = &w.low_rank;
    with_branch.low_rank_count = 1;
  }
  const Status prepared =
      smooth_rotate_quantize(X, w.scheme, workspace, activation, executor, with_branch);
  if (!prepared.ok() && prepared.code != StatusCode::kNonFinite) return prepared;
  if (Status status = gemm(activation, w, Y, executor, options); !status) return status;
  return prepared;
}

RRS_FUNCTIONS_END
