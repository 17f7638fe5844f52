// prepare_weight: the weight lane, once per layer, offline.
//
//   W f32|f16|bf16 --times divisor, permute--> --rotate--> w~ --(group permutation)--> RTN
//   --pack--> W[n,k] -> w~[n,k] ~ v[n,g] q[n,k],  so that x~ w~^T = x W^T       (see
//   core/scheme.hpp)
//
// from: the model's weights.  to: gemm, linear, weight_file.hpp. Weights quantized elsewhere come
// through weight_from_codes.hpp, included here; GPTQ takes w~ from transform_weight and brings its
// codes back with weight_from_quantized. Shapes: W [N,K], any row stride, aligned to an element,
// N >= 0, K >= 1. Numeric contract: the same bytes on every ISA, with any executor. w~: one rounded
// product with the divisor, then the rotation's bound (rotate/rotate_row.hpp). Codes:
// quantize/rtn.hpp. Memory: the result, plus 28 K bytes per task, up to 64 tasks. Cost: clip search
// dominates, about 0.1 us per weight and core (1.5 s for 4096 x 4096); without it about 10 ns.
// Papers: RRS, QuaRot (rotation into the weight), SmoothQuant (divisor).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "rrs/core/config.hpp"
#include "rrs/core/dispatch.hpp"
#include "rrs/core/executor.hpp"
#include "rrs/core/view.hpp"
#include "rrs/pack/pack.hpp"
#include "rrs/pipeline/weight_from_codes.hpp"
#include "rrs/pipeline/weight_view.hpp"
#include "rrs/quantize/rtn.hpp"
#include "rrs/rotate/rotate_row.hpp"

RRS_TYPES_BEGIN

// Everything about one weight that is not the scheme.
struct WeightOptions {
  LayerChannels channels;  // the same as the activations'; frozen_scales are not looked at
  std::optional<Isa> isa;  // overrides RRS_ISA for this call (the bytes are the same)
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

inline constexpr std::int64_t kMaxWeightTasks = 64;

// One call, after validation. Tasks share it by reference.
struct WeightJob {
  const KernelTable* table = nullptr;
  ErasedView w;
  Scheme scheme;
  LayerChannels channels;
  RotationPlan rotation;
  AlignedBuffer tables;
  AlignedBuffer scratch;
  std::int64_t panels = 0;
  std::int64_t tasks = 0;
  std::int64_t task_bytes = 0;
  // Smallest 2 * row + kind of an error, kind 0: not finite, 1: scale too large.
  std::atomic<std::int64_t> first_error{INT64_MAX};
};

// Scratch of one task.
struct WeightScratch {
  float* row;          // [k]
  float* spare;        // [k]
  float* rotate;       // rotation_scratch_floats
  std::int8_t* codes;  // [16][k]
  f16* scales;         // [groups]
};

// A permutation of 0..k-1, each index once.
inline Status validate_weight_permutation(const std::int32_t* p, std::int64_t k,
                                          const char* name) noexcept {
  if (p == nullptr) return Status{};
  AlignedBuffer seen;
  if (Status s = seen.allocate(k); !s) return s;
  std::memset(seen.data(), 0, static_cast<std::size_t>(k));
  for (std::int64_t i = 0; i < k; ++i) {
    if (p[i] < 0 || p[i] >= k) {
      return invalid_argument(name, "must hold indices in [0, K)", p[i], k);
    }
    if (seen.data()[p[i]] != std::byte{0}) {
      return invalid_argument(name, "must hold every index once (found twice)", p[i], k);
    }
    seen.data()[p[i]] = std::byte{1};
  }
  return Status{};
}

inline Status validate_weight_channels(const LayerChannels& c, const Scheme& s,
                                       std::int64_t k) noexcept {
  if (Status e = validate_weight_permutation(c.input_permutation, k, "channels.input_permutation");
      !e) {
    return e;
  }
  if (Status e = validate_weight_permutation(c.group_permutation, k, "channels.group_permutation");
      !e) {
    return e;
  }
  const ActivationScheme& a = s.activation;
  const bool wide = a.bits != kActivationFloat &&
                    (a.window.kind == WindowKind::kWhole || a.window.kind == WindowKind::kRows);
  if (c.group_permutation != nullptr && (!wide || a.exact_reference)) {
    return invalid_argument("channels.group_permutation",
                            "needs window whole or rows, without exact_reference", 1, 0);
  }
  for (std::int64_t i = 0; c.divisor != nullptr && i < k; ++i) {
    const std::uint32_t bits = float_bits(c.divisor[i]);
    if (bits == 0 || bits >= 0x7f800000u) {  // also every negative value, and -0
      return invalid_argument("channels.divisor", "must be finite and > 0 (found: index)", i, k);
    }
  }
  return Status{};
}

// Validates, and builds everything that tasks share.
inline Status start_weight_job(const ErasedView& w, const Scheme& scheme,
                               const WeightOptions& options, WeightJob* job) noexcept {
  if (Status s = select_kernels(options.isa, &job->table); !s) return s;
  if (Status s = validate_view(w, kNamesW); !s) return s;
  if (Status s = validate(scheme, w.cols); !s) return s;
  if (Status s = validate(scheme.rotation, w.cols); !s) return s;
  if (Status s = validate_weight_channels(options.channels, scheme, w.cols); !s) return s;
  const Result<WeightLayout> layout = weight_layout(w.rows, w.cols, scheme.weight, false);
  if (!layout) return layout.status();
  job->w = w;
  job->scheme = scheme;
  job->channels = options.channels;
  job->rotation = plan_rotation(scheme.rotation, w.cols);
  job->panels = panel_count(w.rows);
  job->tasks = job->panels < kMaxWeightTasks ? job->panels : kMaxWeightTasks;
  const std::int64_t k16 = (w.cols + 15) / 16 * 16;
  const std::int64_t rotate = (rotation_scratch_floats(job->rotation) + 15) / 16 * 16;
  const std::int64_t groups = (layout->groups + 31) / 32 * 32;
  job->task_bytes = 2 * k16 * 4 + rotate * 4 + k16 * kPanelOutputs + groups * 2;
  const auto table_bytes = static_cast<std::int64_t>(rotation_tables_bytes(job->rotation));
  if (Status s = job->tables.allocate(table_bytes); !s) return s;
  if (Status s = job->scratch.allocate(job->tasks * job->task_bytes); !s) return s;
  if (job->panels > 0) build_rotation_tables(&job->rotation, job->tables.data());
  return Status{};
}

inline WeightScratch weight_scratch(WeightJob& job, std::int64_t task) noexcept {
  const std::int64_t k16 = (job.w.cols + 15) / 16 * 16;
  const std::int64_t rotate = (rotation_scratch_floats(job.rotation) + 15) / 16 * 16;
  std::byte* base = job.scratch.data() + task * job.task_bytes;
  WeightScratch s;
  s.row = reinterpret_cast<float*>(base);
  s.spare = s.row + k16;
  s.rotate = s.spare + k16;
  s.codes = reinterpret_cast<std::int8_t*>(s.rotate + rotate);
  s.scales = reinterpret_cast<f16*>(s.codes + k16 * kPanelOutputs);
  return s;
}

inline void note_weight_error(WeightJob& job, std::int64_t row, int kind) noexcept {
  const std::int64_t code = 2 * row + kind;
  std::int64_t seen = job.first_error.load(std::memory_order_relaxed);
  while (code < seen &&
         !job.first_error.compare_exchange_weak(seen, code, std::memory_order_relaxed)) {
  }
}

inline Status weight_job_status(const WeightJob& job) noexcept {
  const std::int64_t code = job.first_error.load(std::memory_order_relaxed);
  if (code == INT64_MAX) return Status{};
  const std::int64_t row = code / 2;
  if (code % 2 == 0) {
    return invalid_argument("W", "must be finite in every row, also when rotated (found: row)", row,
                            job.w.rows);
  }
  return invalid_argument("W", "must give group scales within 65504 in every row (found: row)", row,
                          job.w.rows);
}

// w~ of row n; false when it is not finite. The result is in s.row or s.spare, as returned in *out.
inline bool transform_weight_row(WeightJob& job, const WeightScratch& s, std::int64_t n,
                                 const float** out) noexcept {
  load_row(*job.table, job.w, n, job.channels, ChannelUse::kWeight, s.row, s.spare);
  rotate_row(*job.table, job.rotation, s.row, s.rotate);
  *out = s.row;
  if (const std::int32_t* p = job.channels.group_permutation; p != nullptr) {
    for (std::int64_t k = 0; k < job.w.cols; ++k) s.spare[k] = s.row[p[k]];
    *out = s.spare;
  }
  if (group_extremes(*out, job.w.cols).finite) return true;
  note_weight_error(job, n, 0);
  return false;
}

// One panel: 16 rows transformed, quantized, packed.
inline void prepare_weight_panel(WeightJob& job, const WeightScratch& s, std::int64_t panel,
                                 const WeightSections& out) noexcept {
  const std::int64_t k = job.w.cols;
  const std::int64_t first = panel * kPanelOutputs;
  const std::int64_t left = job.w.rows - first;
  const int rows = static_cast<int>(left < kPanelOutputs ? left : kPanelOutputs);
  for (int r = 0; r < rows; ++r) {
    const float* row = nullptr;
    if (!transform_weight_row(job, s, first + r, &row)) return;
    if (!rtn_row(row, k, job.scheme.weight, s.scales, s.codes + r * k)) {
      note_weight_error(job, first + r, 1);
      return;
    }
    for (std::int64_t g = 0; g < out.groups; ++g) {
      out.scales[group_value_index(first + r, g, out.groups)] = s.scales[g];
    }
  }
  pack_panel(s.codes, k, rows, k, job.scheme.weight.bits, out.panels + panel * out.panel_bytes);
}

template <class Executor>
Result<PreparedWeight> prepare_erased_weight(const ErasedView& w, const Scheme& scheme,
                                             const WeightOptions& options,
                                             const Executor& executor) {
  WeightJob job;
  WeightBuilder builder{};
  if (Status s = start_weight_job(w, scheme, options, &job); !s) return s;
  if (Status s = start_weight(w.rows, w.cols, scheme.weight, false, &builder); !s) return s;
  const WeightSections& sections = builder.sections;
  run_tasks(executor, job.tasks, [&job, &sections](std::int64_t task) noexcept {
    const WeightScratch scratch = weight_scratch(job, task);
    for (std::int64_t panel = task; panel < job.panels; panel += job.tasks) {
      prepare_weight_panel(job, scratch, panel, sections);
    }
  });
  if (Status s = weight_job_status(job); !s) return s;
  const std::uint64_t fingerprint = channels_fingerprint(options.channels, w.cols);
  return finish_weight(std::move(builder), w.rows, w.cols, scheme, fingerprint);
}

template <class Executor>
Status transform_erased_weight(const ErasedView& w, const Scheme& scheme,
                               const WeightOptions& options, const MatrixView<float>& out,
                               const Executor& executor) {
  WeightJob job;
  if (Status s = start_weight_job(w, scheme, options, &job); !s) return s;
  if (Status s = validate_view(erase(out), kNamesY); !s) return s;
  if (out.rows != w.rows) return invalid_argument("Y.rows", "must equal N", out.rows, w.rows);
  if (out.cols != w.cols) return invalid_argument("Y.cols", "must equal K", out.cols, w.cols);
  if (ranges_overlap(w.data, extent_bytes(w), out.data, extent_bytes(erase(out)))) {
    return invalid_argument("Y.data", "must not overlap W", 0, 0);
  }
  run_tasks(executor, job.tasks, [&job, &out](std::int64_t task) noexcept {
    const WeightScratch scratch = weight_scratch(job, task);
    for (std::int64_t n = task; n < job.w.rows; n += job.tasks) {
      const float* row = nullptr;
      transform_weight_row(job, scratch, n, &row);
      std::memcpy(out.row(n), row, static_cast<std::size_t>(job.w.cols) * sizeof(float));
    }
  });
  return weight_job_status(job);
}

}  // namespace detail

// Quantizes and packs W for `scheme`, into memory of the result's own; W and what `options` points
// to are only read, during the call. Errors: kInvalidArgument naming the argument (a non-finite W
// with its row), kInvalidScheme, kSimulatedOnly, kUnsupportedIsa, kOutOfMemory.
// Threading: one executor call; calls are independent, and the result serves any threads at once.
template <class Executor = SerialExecutor>
Result<PreparedWeight> prepare_weight(const MatrixView<const float>& W, const Scheme& scheme,
                                      const WeightOptions& options = WeightOptions{},
                                      const Executor& executor = Executor{}) {
  return detail::prepare_erased_weight(erase(W), scheme, options, executor);
}
// The same from f16, each converted exactly.
template <class Executor = SerialExecutor>
Result<PreparedWeight> prepare_weight(const MatrixView<const f16>& W, const Scheme& scheme,
                                      const WeightOptions& options = WeightOptions{},
                                      const Executor& executor = Executor{}) {
  return detail::prepare_erased_weight(erase(W), scheme, options, executor);
}
// The same from bf16, each converted exactly.
template <class Executor = SerialExecutor>
Result<PreparedWeight> prepare_weight(const MatrixView<const bf16>& W, const Scheme& scheme,
                                      const WeightOptions& options = WeightOptions{},
                                      const Executor& executor = Executor{}) {
  return detail::prepare_erased_weight(erase(W), scheme, options, executor);
}

// Y [N,K] = w~: W in the basis in which it is quantized (divided, permuted, rotated), as
// prepare_weight sees it. For GPTQ and ASER. Y: any row stride, aligned to an element; it must not
// overlap W (refused). Errors and threading as there, but Y is written unless an argument was
// wrong; kInvalidArgument for a non-finite row names it, and Y is unspecified there.
template <class T, class Executor = SerialExecutor>
Status transform_weight(const MatrixView<T>& W, const Scheme& scheme, const MatrixView<float>& Y,
                        const WeightOptions& options = WeightOptions{},
                        const Executor& executor = Executor{}) {
  return detail::transform_erased_weight(erase(W), scheme, options, Y, executor);
}

RRS_FUNCTIONS_END
