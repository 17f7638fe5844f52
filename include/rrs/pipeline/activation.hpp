// smooth_rotate_quantize: activations of one call, rotated, smoothed, quantized and packed.
//
//   X f32|f16|bf16 --divide, permute--> --rotate--> x~ --smooth, quantize--> codes, s, a --pack-->
//   tiles s[b,g], a[t], q[t,k]: see core/scheme.hpp
//
// from: the engine's activations.  to: gemm (pipeline/linear.hpp), for any number of weights.
// Window one, frozen and 16-bit activations: one executor call, each task prepares whole tiles, a
// row at a time while it is in L1 (in registers where the level has a fused kernel for the scheme).
// Windows wider than one need maxima over rows first: rotated rows are kept in the workspace, and
// there are two executor calls.
// Papers: RRS (Rotated Runtime Smooth, 2024), QuaRot (2024), SmoothQuant (2023).
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/dispatch.hpp"
#include "rrs/core/executor.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/view.hpp"
#include "rrs/pipeline/activation_rows.hpp"
#include "rrs/pipeline/prepared_activation.hpp"
#include "rrs/pipeline/weight_view.hpp"
#include "rrs/pipeline/workspace.hpp"

RRS_FUNCTIONS_BEGIN

namespace detail {

inline Status validate_permutation(const std::int32_t* p, std::int64_t k,
                                   const char* name) noexcept {
  if (p == nullptr) return Status{};
  // Every call checks, since an index outside would read foreign memory; 16 at a time, so that
  // compilers vectorise it (a fifth of the time). Bit 31: p < 0 or p > last.
  const auto last = static_cast<std::int32_t>(k - 1);
  std::int64_t good = 0;
  for (std::uint32_t bad = 0; good + 16 <= k; good += 16) {
    for (int j = 0; j < 16; ++j) {
      const auto index = static_cast<std::uint32_t>(p[good + j]);
      bad |= index | (static_cast<std::uint32_t>(last) - index);
    }
    if (bad >> 31 != 0) break;
  }
  for (std::int64_t i = good; i < k; ++i) {
    if (p[i] < 0 || p[i] >= k) {
      return invalid_argument(name, "must hold indices in [0, K)", p[i], k);
    }
  }
  return Status{};
}

inline Status validate_positive(const float* v, std::int64_t count, const char* name) noexcept {
  for (std::int64_t i = 0; v != nullptr && i < count; ++i) {
    const std::uint32_t bits = float_bits(v[i]);
    if (bits == 0 || bits >= 0x7f800000u) {  // also catches every negative value, and -0
      return invalid_argument(
          name, "must be finite and > 0 (value: index of the first that is not)", i, count);
    }
  }
  return Status{};
}

inline Status validate_channels(const Scheme& s, std::int64_t k, const LayerChannels& c) noexcept {
  if (Status status = validate_permutation(c.input_permutation, k, "channels.input_permutation");
      !status) {
    return status;
  }
  if (Status status = validate_permutation(c.group_permutation, k, "channels.group_permutation");
      !status) {
    return status;
  }
  if (c.group_permutation != nullptr && (!is_wide(s) || s.activation.exact_reference)) {
    return invalid_argument("channels.group_permutation",
                            "needs window whole or rows, without exact_reference", 1, 0);
  }
  if (Status status = validate_positive(c.divisor, k, "channels.divisor"); !status) return status;
  if (s.activation.window.kind != WindowKind::kFrozen || s.activation.bits == kActivationFloat) {
    return Status{};
  }
  if (c.frozen_scales == nullptr) {
    return invalid_argument("channels.frozen_scales", "must not be null in window frozen", 0, 1);
  }
  return validate_positive(c.frozen_scales, group_count(k, s.activation.group),
                           "channels.frozen_scales");
}

// Everything is checked before anything is written.
inline Status validate_activation_call(const ErasedView& x, const Scheme& s,
                                       const ActivationOptions& options) noexcept {
  if (Status status = validate_view(x, kNamesX); !status) return status;
  if (Status status = validate(s, x.cols); !status) return status;
  if (Status status = validate(s.rotation, x.cols); !status) return status;
  const SequenceStarts starts{options.sequence_starts, options.sequences};
  if (Status status = validate_sequence_starts(starts, x.rows); !status) return status;
  if (Status status = validate_branches(s, x.cols, options); !status) return status;
  return validate_channels(s, x.cols, options.channels);
}

inline Status workspace_status(const internal::WorkspacePlan& plan, const Workspace& ws) noexcept {
  if (!plan.ok) {
    return invalid_argument("X.rows", "times K must keep the workspace below 2^63 bytes",
                            plan.bytes, INT64_MAX);
  }
  if (static_cast<std::uint64_t>(plan.bytes) <= ws.bytes()) return Status{};
  return Status{
      StatusCode::kWorkspaceTooSmall,        "workspace", "must hold workspace_bytes(M, K, scheme)",
      static_cast<std::int64_t>(ws.bytes()), plan.bytes,  nullptr};
}

// True when the level's fused kernel covers the scheme and K.
inline bool can_fuse(const KernelTable& table, const Scheme& s, std::int64_t k) noexcept {
  if (s.activation.bits == kActivationFloat || s.activation.window.kind != WindowKind::kOne ||
      s.rotation.kind == RotationKind::kFull) {
    return false;
  }
  if (s.activation.group == kRowGroup) return false;
  FusedArgs f{};
  f.k = k;
  f.block = s.rotation.kind == RotationKind::kBlock ? s.rotation.block : 1;
  f.group = s.activation.group;
  f.inner_group = inner_group(s.activation.group, s.weight.group);
  f.range = s.activation.range;
  f.clip = s.activation.clip;
  f.qmax = max_code(s.activation.bits);
  return k % f.block == 0 && k % f.group == 0 && k % f.inner_group == 0 && table.fused.supports(f);
}

// Runs prepare_tile over the tiles of rows [first, first + rows), in at most plan.tasks tasks.
template <class Executor>
void run_tiles(const internal::ActivationJob& job, std::int64_t first, std::int64_t rows,
               const Executor& executor) noexcept {
  const int max_rows = select_gemm_kernel(*job.table, *job.scheme).max_rows;
  const RowTiles tiles = make_row_tiles(rows, max_rows);
  if (tiles.tiles == 0) return;
  const std::int64_t tasks = tiles.tiles < job.plan.tasks ? tiles.tiles : job.plan.tasks;
  const auto task = [&job, tiles, tasks, first](std::int64_t index) noexcept {
    const int slot_index = acquire_slot(job);
    const internal::ActivationSlot slot = slot_at(job, slot_index);
    const std::int64_t last = tiles.tiles * (index + 1) / tasks;
    for (std::int64_t i = tiles.tiles * index / tasks; i < last; ++i) {
      prepare_tile(job, slot, first + tiles.first_row(i), tiles.rows_in(i));
    }
    release_slot(job, slot_index);
  };
  if (tasks == 1) {
    task(0);
  } else {
    run_tasks(executor, tasks, task);
  }
}

// out[k] = in[permutation[k]].
inline void permute_row(const float* in, const std::int32_t* permutation, std::int64_t k,
                        float* out) noexcept {
  for (std::int64_t i = 0; i < k; ++i) out[i] = in[permutation[i]];
}

// Phase one of wide windows: x~ of row t in the workspace.
inline void rotate_window_row(const internal::ActivationJob& job,
                              const internal::ActivationSlot& slot, std::int64_t t) noexcept {
  float* row = job.at<float>(job.plan.rotated) + t * job.plan.k_padded;
  const std::int32_t* permutation = job.options->channels.group_permutation;
  if (permutation == nullptr) {
    load_rotated_row(job, slot, t, row);
    return;
  }
  load_rotated_row(job, slot, t, slot.row);
  permute_row(slot.row, permutation, job.x.cols, row);
}

inline void measure_window_row(const internal::ActivationJob& job, std::int64_t t) noexcept {
  const internal::WorkspacePlan& p = job.plan;
  job.table->smooth.extremes(job.at<float>(p.rotated) + t * p.k_padded, job.x.cols,
                             job.scheme->activation.group,
                             job.at<float>(p.positive) + t * p.activation_groups,
                             job.at<float>(p.negative) + t * p.activation_groups);
}

template <class Executor>
void rotate_window_rows(const internal::ActivationJob& job, const Executor& executor) noexcept {
  const std::int64_t rows = job.x.rows;
  const std::int64_t tasks = rows < job.plan.tasks ? rows : job.plan.tasks;
  const auto task = [&job, rows, tasks](std::int64_t index) noexcept {
    const int slot_index = acquire_slot(job);
    const internal::ActivationSlot slot = slot_at(job, slot_index);
    for (std::int64_t t = rows * index / tasks; t < rows * (index + 1) / tasks; ++t) {
      rotate_window_row(job, slot, t);
      if (!job.scheme->activation.exact_reference) measure_window_row(job, t);
    }
    release_slot(job, slot_index);
  };
  run_tasks(executor, tasks, task);
}

// Phase two: scales of every window, copied to each of its rows.
inline void scale_windows(const internal::ActivationJob& job) noexcept {
  const internal::WorkspacePlan& p = job.plan;
  const std::int64_t groups = p.activation_groups;
  const Extremes extremes{job.at<float>(p.positive), job.at<float>(p.negative), groups};
  float* scales = job.at<float>(p.window_scales);
  WindowWalk walk(job.scheme->activation.window, job.x.rows,
                  SequenceStarts{job.options->sequence_starts, job.options->sequences});
  WindowRange range;
  while (walk.next(&range)) {
    float* first = scales + range.first * groups;
    window_scales(extremes, range, job.scheme->activation.floor, first);
    for (std::int64_t t = range.first + 1; t < range.last; ++t) {
      std::memcpy(scales + t * groups, first, static_cast<std::size_t>(groups) * sizeof(float));
    }
  }
}

// exact_reference: channel maxima of the window, sorted; its rows permuted in place.
inline void sort_window(const internal::ActivationJob& job, WindowRange range,
                        std::int32_t* permutation) noexcept {
  const internal::WorkspacePlan& p = job.plan;
  const std::int64_t k = job.x.cols;
  float* spare = job.at<float>(p.sort);
  std::int32_t* scratch = job.at<std::int32_t>(p.sort) + p.k_padded;
  std::memset(spare, 0, static_cast<std::size_t>(k) * sizeof(float));
  float* rows = job.at<float>(p.rotated);
  float positive = 0.0f, negative = 0.0f;
  for (std::int64_t t = range.first; t < range.last; ++t) {
    job.table->smooth.extremes(rows + t * p.k_padded, k, kRowGroup, &positive, &negative);
    if (row_is_finite(Extremes{&positive, &negative, 1})) {
      accumulate_column_max(rows + t * p.k_padded, k, spare);
    }
  }
  sorted_channels(spare, k, permutation, scratch);
  for (std::int64_t t = range.first; t < range.last; ++t) {
    float* row = rows + t * p.k_padded;
    std::memcpy(spare, row, static_cast<std::size_t>(k) * sizeof(float));
    permute_row(spare, permutation, k, row);
    measure_window_row(job, t);
  }
}

inline void sort_windows(const internal::ActivationJob& job) noexcept {
  const internal::WorkspacePlan& p = job.plan;
  auto* segments = job.at<ActivationSegment>(p.segments);
  WindowWalk walk(job.scheme->activation.window, job.x.rows,
                  SequenceStarts{job.options->sequence_starts, job.options->sequences});
  WindowRange range;
  std::int64_t count = 0;
  while (walk.next(&range)) {
    std::int32_t* permutation = job.at<std::int32_t>(p.permutations) + count * p.k_padded;
    sort_window(job, range, permutation);
    segments[count++] = ActivationSegment{range.first, range.last - range.first, permutation};
  }
  job.out->segments = segments;
  job.out->segment_count = count;
}

template <class Executor>
void run_activation(const internal::ActivationJob& job, const Executor& executor) noexcept {
  if (job.wide && job.x.rows > 0) {
    rotate_window_rows(job, executor);
    if (job.scheme->activation.exact_reference) sort_windows(job);
    scale_windows(job);
  }
  for (std::int64_t i = 0; i < job.out->segment_count; ++i) {
    const ActivationSegment segment = job.out->segment(i);
    run_tiles(job, segment.first_row, segment.rows, executor);
  }
}

inline PreparedActivation describe_activation(const internal::ActivationJob& job) noexcept {
  const internal::WorkspacePlan& p = job.plan;
  PreparedActivation a;
  a.m = job.x.rows;
  a.k = job.x.cols;
  a.k_padded = p.k_padded;
  a.scheme = *job.scheme;
  a.table = job.table;
  a.activation_groups = p.activation_groups;
  a.inner_groups = p.inner_groups;
  a.codes = job.at<std::byte>(p.codes);
  if (!a.is_float()) {
    a.scales = job.at<float>(p.scales);
    a.sums = job.at<std::int32_t>(p.sums);
  }
  a.token_scales = job.token_scales;
  a.channels_fingerprint = channels_fingerprint(job.options->channels, a.k);
  return a;
}

// Rotation tables at the start of the workspace, remembered there if there are any.
inline void build_tables(internal::ActivationJob* job, Workspace& ws) noexcept {
  const bool any = rotation_tables_bytes(job->rotation) > 0;
  build_rotation_tables(&job->rotation, job->at<std::byte>(job->plan.tables));
  internal::WorkspaceAccess::keep(ws, any ? &job->rotation : nullptr);
}

// The call after its arguments have been found good; `job` holds everything but its atomics.
template <class Executor>
Status prepare_activation(internal::ActivationJob& job, const Workspace& ws,
                          PreparedActivation& out, const Executor& executor) noexcept {
  const std::int64_t tasks = job.plan.tasks;
  std::atomic<std::uint64_t> free_slots{tasks >= 64 ? ~std::uint64_t{0}
                                                    : (std::uint64_t{1} << tasks) - 1};
  std::atomic<std::int64_t> first_non_finite{-1};
  job.free_slots = &free_slots;
  job.first_non_finite = &first_non_finite;
  PreparedActivation result = describe_activation(job);
  result.memory = job.memory;
  result.memory_bytes = static_cast<std::int64_t>(ws.bytes());
  list_branches(&job, &result);
  job.out = &result;
  run_activation(job, executor);
  if (job.scheme->activation.exact_reference) {
    result.repack_memory = job.at<std::byte>(job.plan.repacked);
    result.repack_bytes = result.memory_bytes - job.plan.repacked;
  }
  result.first_non_finite = first_non_finite.load();
  out = result;
  if (result.first_non_finite < 0) return Status{};
  return Status{
      StatusCode::kNonFinite,  "X",        "holds NaN or Inf in this row (its output is NaN)",
      result.first_non_finite, job.x.rows, nullptr};
}

}  // namespace detail

// Prepares X [M,K] for gemm under `scheme`. T: float, f16 or bf16 (const or not).
//
// X: row-major, aligned to an element; only read. It must not overlap the workspace (refused), nor
//   may anything that `options` points to (not checked); that is read during the call only.
// workspace: at least workspace_bytes(M, K, scheme[, N[, columns]]) bytes, any alignment (64-byte
//   aligned wastes none); `out` points into it, packed as pack/layout.hpp says.
// options:   channels (must be those of the weight), sequence_starts, isa, low_rank.
// Returns kNonFinite with the first row that holds NaN or Inf (or overflows in the rotation): all
//   other rows are as if that row were absent, and `out` is good to use; its output row will be
//   NaN. Any other error leaves `out` untouched (the workspace's contents are unspecified):
//   kInvalidArgument or kInvalidScheme naming what is wrong, kSimulatedOnly, kUnsupportedIsa,
//   kWorkspaceTooSmall.
// Threading: calls `executor` at most twice (with exact_reference once, and once per sequence);
//   results do not depend on it. Calls with workspaces of their own may run at once.
// Cost: about log2(block) + 8 operations per element; see bench_layer for the share of a layer.
template <class T, class Executor = SerialExecutor>
Status smooth_rotate_quantize(const MatrixView<T>& X, const Scheme& scheme, Workspace& workspace,
                              PreparedActivation& out, const Executor& executor = Executor{},
                              const ActivationOptions& options = ActivationOptions{}) noexcept {
  const KernelTable* table = nullptr;
  if (Status status = select_kernels(options.isa, &table); !status) return status;
  const ErasedView x = erase(X);
  if (Status status = detail::validate_activation_call(x, scheme, options); !status) return status;
  const RotationPlan* kept = internal::WorkspaceAccess::kept(workspace, scheme.rotation, x.cols);
  const RotationPlan rotation = kept != nullptr ? *kept : plan_rotation(scheme.rotation, x.cols);
  const std::int64_t columns = low_rank_columns(options.low_rank, options.low_rank_count);
  const internal::WorkspacePlan plan =
      detail::plan_workspace(x.rows, x.cols, 0, scheme, rotation, columns);
  if (Status status = detail::workspace_status(plan, workspace); !status) return status;
  if (ranges_overlap(x.data, extent_bytes(x), internal::WorkspaceAccess::memory(workspace),
                     static_cast<std::int64_t>(workspace.bytes()))) {
    return invalid_argument("X.data", "must not overlap the workspace", 1, 0);
  }
  internal::ActivationJob job;
  job.table = table;
  job.scheme = &scheme;
  job.options = &options;
  job.x = x;
  job.rotation = rotation;
  job.plan = plan;
  job.memory = internal::WorkspaceAccess::memory(workspace);
  if (kept == nullptr) detail::build_tables(&job, workspace);
  job.wide = detail::is_wide(scheme);
  job.fused = options.fused && columns == 0 && detail::can_fuse(*table, scheme, x.cols);
  job.token_scales = job.at<float>(plan.token_scales);
  return detail::prepare_activation(job, workspace, out, executor);
}

RRS_FUNCTIONS_END
