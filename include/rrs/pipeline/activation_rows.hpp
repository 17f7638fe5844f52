// One row, one tile: the activation lane inside a task, written once and ISA-free.
//
//   row of X --load (convert, divide, permute)--> f32 --rotate--> x~ --extremes, scales--> codes
//   tile of rows: codes, scales, sums of its rows --pack--> what the tile kernel reads
//
// from: activation.hpp (tasks and phases).  to: the packed tiles of a PreparedActivation.
// All scratch is a slot of the workspace; nothing allocates.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/view.hpp"
#include "rrs/gemm/low_rank.hpp"
#include "rrs/pipeline/prepared_activation.hpp"
#include "rrs/pipeline/workspace.hpp"
#include "rrs/quantize/quantize.hpp"
#include "rrs/rotate/load.hpp"
#include "rrs/rotate/rotate_row.hpp"
#include "rrs/smooth/smooth.hpp"

RRS_TYPES_BEGIN

namespace internal {

// Scratch of one task.
struct ActivationSlot {
  float* row;          // [k_padded]
  float* spare;        // [k_padded]: the row before a permutation
  float* rotate;       // rotation scratch
  std::byte* codes;    // [kMaxTileRows][code_stride] int8 or f32
  float* positive;     // [groups]
  float* negative;     // [groups]
  float* inverse;      // [groups]
  float* scales;       // [kMaxTileRows][groups]
  std::int32_t* sums;  // [kMaxTileRows][inner groups]
  float* kept;         // low rank: [kLowRankBlockRows][kept_stride], rotated rows
};

// What all tasks of a call share.
struct ActivationJob {
  const KernelTable* table = nullptr;
  const Scheme* scheme = nullptr;
  const ActivationOptions* options = nullptr;
  ErasedView x;
  RotationPlan rotation;  // with its tables
  WorkspacePlan plan;
  std::byte* memory = nullptr;
  PreparedActivation* out = nullptr;
  bool wide = false;
  bool fused = false;
  LowRankView low_rank[kMaxLowRankBranches];  // as out->low_rank
  int low_rank_count = 0;
  float* token_scales = nullptr;
  std::atomic<std::uint64_t>* free_slots = nullptr;
  std::atomic<std::int64_t>* first_non_finite = nullptr;

  template <class T>
  RRS_MEMBER T* at(std::int64_t offset) const noexcept {
    return reinterpret_cast<T*>(memory + offset);
  }
};

}  // namespace internal

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

inline internal::ActivationSlot slot_at(const internal::ActivationJob& job, int index) noexcept {
  const internal::WorkspacePlan& p = job.plan;
  const std::int64_t base = p.slots + index * p.slot_bytes;
  internal::ActivationSlot s;
  s.row = job.at<float>(base + p.slot_row);
  s.spare = s.row + p.k_padded;
  s.rotate = job.at<float>(base + p.slot_rotate);
  s.codes = job.at<std::byte>(base + p.slot_codes);
  s.positive = job.at<float>(base + p.slot_groups);
  s.negative = s.positive + p.activation_groups;
  s.inverse = s.negative + p.activation_groups;
  s.scales = s.inverse + p.activation_groups;
  s.sums = job.at<std::int32_t>(base + p.slot_sums);
  s.kept = job.at<float>(base + p.slot_kept);
  return s;
}

// The index of the only bit set.
RRS_FORCE_INLINE int slot_of(std::uint64_t bit) noexcept {
#if defined(__GNUC__) || defined(__clang__)
  return __builtin_ctzll(bit);
#else
  int slot = 0;
  while ((bit >> slot & 1) == 0) ++slot;
  return slot;
#endif
}

// The lowest free slot: serial callers always get the same one, which stays in cache. There are as
// many slots as tasks, so one is always free.
inline int acquire_slot(const internal::ActivationJob& job) noexcept {
  std::uint64_t mask = job.free_slots->load(std::memory_order_relaxed);
  for (;;) {
    const std::uint64_t lowest = mask & (~mask + 1);
    if (lowest == 0) {  // only an executor that breaks its contract gets here: wait for a slot
      mask = job.free_slots->load(std::memory_order_relaxed);
      continue;
    }
    if (job.free_slots->compare_exchange_weak(mask, mask & ~lowest, std::memory_order_acquire)) {
      return slot_of(lowest);
    }
  }
}

inline void release_slot(const internal::ActivationJob& job, int slot) noexcept {
  job.free_slots->fetch_or(std::uint64_t{1} << slot, std::memory_order_release);
}

inline void note_non_finite(const internal::ActivationJob& job, std::int64_t row) noexcept {
  std::int64_t seen = job.first_non_finite->load(std::memory_order_relaxed);
  while ((seen < 0 || row < seen) &&
         !job.first_non_finite->compare_exchange_weak(seen, row, std::memory_order_relaxed)) {
  }
}

// x~ of row t into `row`.
inline void load_rotated_row(const internal::ActivationJob& job,
                             const internal::ActivationSlot& slot, std::int64_t t,
                             float* row) noexcept {
  load_row(*job.table, job.x, t, job.options->channels, ChannelUse::kActivation, row, slot.spare);
  rotate_row(*job.table, job.rotation, row, slot.rotate);
}

inline Extremes row_extremes(const internal::ActivationJob& job,
                             const internal::ActivationSlot& slot, const float* row) noexcept {
  job.table->smooth.extremes(row, job.x.cols, job.scheme->activation.group, slot.positive,
                             slot.negative);
  return Extremes{slot.positive, slot.negative, job.plan.activation_groups};
}

inline QuantizeRowArgs quantize_args(const internal::ActivationJob& job,
                                     const internal::ActivationSlot& slot,
                                     int row_in_tile) noexcept {
  const ActivationScheme& a = job.scheme->activation;
  QuantizeRowArgs args;
  args.k = job.x.cols;
  args.group = a.group;
  args.inner_group = inner_group(a.group, job.scheme->weight.group);
  args.range = a.range;
  args.clip = a.clip;
  args.qmax = max_code(a.bits);
  args.token_scale = a.token_scale;
  args.inverse = slot.inverse;
  args.codes = reinterpret_cast<std::int8_t*>(slot.codes) + row_in_tile * job.plan.code_stride;
  args.scales = slot.scales + row_in_tile * job.plan.activation_groups;
  args.sums = slot.sums + row_in_tile * job.plan.inner_groups;
  std::memset(args.codes + args.k, 0, static_cast<std::size_t>(job.plan.k_padded - args.k));
  return args;
}

inline FusedArgs fused_args(const internal::ActivationJob& job, const QuantizeRowArgs& q,
                            const float* x) noexcept {
  const Rotation& r = job.scheme->rotation;
  FusedArgs f{};
  f.x = x;
  f.permutation = job.options->channels.input_permutation;
  f.k = q.k;
  f.block = r.kind == RotationKind::kBlock ? r.block : 1;
  f.rotation_scale = rotation_scale(f.block);
  f.group = q.group;
  f.inner_group = q.inner_group;
  f.range = q.range;
  f.clip = q.clip;
  f.qmax = q.qmax;
  f.signs = r.kind == RotationKind::kBlock ? job.rotation.signs : nullptr;
  f.codes = q.codes;
  f.scales = q.scales;
  f.sums = q.sums;
  return f;
}

// The row as f32, divided, not permuted: without a copy where X already is that.
inline const float* plain_row(const internal::ActivationJob& job,
                              const internal::ActivationSlot& slot, std::int64_t t) noexcept {
  if (job.x.type == ElementType::kF32 && job.options->channels.divisor == nullptr) {
    return reinterpret_cast<const float*>(job.x.row(t));
  }
  LayerChannels c = job.options->channels;
  c.input_permutation = nullptr;
  load_row(*job.table, job.x, t, c, ChannelUse::kActivation, slot.row, nullptr);
  return slot.row;
}

// Row t of window one or frozen: everything at once; x~ is left in `row`, unless the call is fused.
// False for a non-finite row.
inline bool quantize_independent_row(const internal::ActivationJob& job,
                                     const internal::ActivationSlot& slot, std::int64_t t,
                                     int row_in_tile, float* row) noexcept {
  QuantizeRowArgs args = quantize_args(job, slot, row_in_tile);
  if (job.fused) {
    job.token_scales[t] = 1.0f;
    const FusedArgs f = fused_args(job, args, plain_row(job, slot, t));
    if (job.table->fused.prepare_row(f)) return true;
  }
  load_rotated_row(job, slot, t, row);
  args.x = row;
  args.extremes = row_extremes(job, slot, row);
  if (job.scheme->activation.window.kind == WindowKind::kFrozen) {
    args.window_scales = job.options->channels.frozen_scales;
  }
  return quantize_row(job.table->quantize, args, &job.token_scales[t]);
}

// Row t of a wide window: rotated and measured in an earlier phase.
inline bool quantize_window_row(const internal::ActivationJob& job,
                                const internal::ActivationSlot& slot, std::int64_t t,
                                int row_in_tile) noexcept {
  const internal::WorkspacePlan& p = job.plan;
  QuantizeRowArgs args = quantize_args(job, slot, row_in_tile);
  args.x = job.at<float>(p.rotated) + t * p.k_padded;
  args.extremes =
      Extremes{job.at<float>(p.positive), job.at<float>(p.negative), p.activation_groups}.row(t);
  args.window_scales = job.at<float>(p.window_scales) + t * p.activation_groups;
  return quantize_row(job.table->quantize, args, &job.token_scales[t]);
}

// Row t at 16 bits: rotated floats; a non-finite row becomes zeros with a NaN token scale.
inline bool float_row(const internal::ActivationJob& job, const internal::ActivationSlot& slot,
                      std::int64_t t, int row_in_tile) noexcept {
  float* row = reinterpret_cast<float*>(slot.codes) + row_in_tile * job.plan.code_stride;
  load_rotated_row(job, slot, t, row);
  job.table->smooth.extremes(row, job.x.cols, kRowGroup, slot.positive, slot.negative);
  const bool finite = row_is_finite(Extremes{slot.positive, slot.negative, 1});
  const std::int64_t used = finite ? job.x.cols : 0;
  std::memset(row + used, 0, static_cast<std::size_t>(job.plan.k_padded - used) * sizeof(float));
  const std::uint32_t bits = finite ? 0x3f800000u : kQuietNanBits;
  std::memcpy(&job.token_scales[t], &bits, sizeof bits);
  return finite;
}

// [rows][groups] -> [groups][rows] of 32-bit elements: what the pack leaf does with floats.
inline void transpose_groups(const KernelTable& table, const void* in, int rows,
                             std::int64_t groups, void* out) noexcept {
  table.pack.floats(static_cast<const float*>(in), groups, rows, groups, static_cast<float*>(out));
}

// The slot's rows, packed as tile rows [first, first + rows).
inline void pack_tile(const internal::ActivationJob& job, const internal::ActivationSlot& slot,
                      std::int64_t first, int rows) noexcept {
  const internal::WorkspacePlan& p = job.plan;
  if (job.out->is_float()) {
    job.table->pack.floats(reinterpret_cast<const float*>(slot.codes), p.code_stride, rows,
                           p.k_padded, job.at<float>(p.codes) + first * p.k_padded);
    return;
  }
  const auto pack = uses_a4(*job.scheme) ? job.table->pack.codes_a4 : job.table->pack.codes_a8;
  const int inner = inner_group(job.scheme->activation.group, job.scheme->weight.group);
  pack(reinterpret_cast<const std::int8_t*>(slot.codes), p.code_stride, rows, inner, p.k_padded,
       job.at<std::int8_t>(p.codes) + first * p.k_padded);
  transpose_groups(*job.table, slot.scales, rows, p.activation_groups,
                   job.at<float>(p.scales) + first * p.activation_groups);
  transpose_groups(*job.table, slot.sums, rows, p.inner_groups,
                   job.at<std::int32_t>(p.sums) + first * p.inner_groups);
}

// Where x~ of a row lies once the row is quantized, for the down-projections.
inline float* kept_row(const internal::ActivationJob& job, const internal::ActivationSlot& slot,
                       std::int64_t t, int row_in_tile) noexcept {
  const internal::WorkspacePlan& p = job.plan;
  if (job.out->is_float()) {
    return reinterpret_cast<float*>(slot.codes) + row_in_tile * p.code_stride;
  }
  if (job.wide) return job.at<float>(p.rotated) + t * p.k_padded;
  return slot.kept + row_in_tile % internal::kLowRankBlockRows * p.kept_stride;
}

// u of `rows` rows from row `t` of the call, row `row_in_tile` of the tile, for every branch.
inline void project_rows(const internal::ActivationJob& job, const internal::ActivationSlot& slot,
                         std::int64_t t, int row_in_tile, int rows) noexcept {
  const internal::WorkspacePlan& p = job.plan;
  const std::int64_t stride =
      job.out->is_float() ? p.code_stride : (job.wide ? p.k_padded : p.kept_stride);
  const float* x = kept_row(job, slot, t, row_in_tile);
  std::int64_t at = 0;
  for (int i = 0; i < job.low_rank_count; ++i) {
    const std::int64_t columns = low_rank_columns(job.low_rank[i].rank);
    float* u = job.at<float>(p.low_rank) + at + t * columns;
    low_rank_down(job.table->gemm, job.low_rank[i], x, stride, rows, u);
    at += job.x.rows * columns;
  }
}

// Row t of the call as row r of the slot's tile.
inline void prepare_row(const internal::ActivationJob& job, const internal::ActivationSlot& slot,
                        std::int64_t t, int r) noexcept {
  const bool keep = job.low_rank_count > 0;
  float* row = keep ? kept_row(job, slot, t, r) : slot.row;
  const bool finite = job.out->is_float() ? float_row(job, slot, t, r)
                      : job.wide          ? quantize_window_row(job, slot, t, r)
                                          : quantize_independent_row(job, slot, t, r, row);
  if (finite) return;
  note_non_finite(job, t);
  if (keep) std::memset(row, 0, static_cast<std::size_t>(job.x.cols) * sizeof(float));
}

// Rows [first, first + rows) of the call, quantized and packed as one tile.
inline void prepare_tile(const internal::ActivationJob& job, const internal::ActivationSlot& slot,
                         std::int64_t first, int rows) noexcept {
  for (int r = 0; r < rows;) {
    const int begin = r;
    const int block = job.low_rank_count > 0 ? internal::kLowRankBlockRows : rows;
    const int end = rows - begin < block ? rows : begin + block;
    for (; r < end; ++r) prepare_row(job, slot, first + r, r);
    if (job.low_rank_count > 0) project_rows(job, slot, first + begin, begin, end - begin);
  }
  pack_tile(job, slot, first, rows);
}

inline Status validate_branches(const Scheme& s, std::int64_t k,
                                const ActivationOptions& o) noexcept {
  if (o.low_rank_count < 0 || o.low_rank_count > kMaxLowRankBranches) {
    return invalid_argument("low_rank_count", "must be in [0, kMaxLowRankBranches]",
                            o.low_rank_count, kMaxLowRankBranches);
  }
  if (o.low_rank_count > 0 && o.low_rank == nullptr) {
    return invalid_argument("low_rank", "must not be null when low_rank_count is not 0", 0, 1);
  }
  for (std::int64_t i = 0; i < o.low_rank_count; ++i) {
    const LowRankView& b = o.low_rank[i];
    if (b.rank == 0) continue;
    if (Status status = validate_low_rank(b, b.n, k); !status) return status;
    if (s.activation.exact_reference) {
      return invalid_scheme("activation.exact_reference", "does not go with a low-rank branch", 1,
                            0);
    }
  }
  return Status{};
}

// The branches with a rank, and where their u lie.
inline void list_branches(internal::ActivationJob* job, PreparedActivation* out) noexcept {
  const float* u = job->at<float>(job->plan.low_rank);
  for (std::int64_t i = 0; i < job->options->low_rank_count; ++i) {
    const LowRankView& b = job->options->low_rank[i];
    if (b.rank == 0) continue;
    job->low_rank[job->low_rank_count++] = b;
    out->low_rank[out->low_rank_count++] = PreparedLowRank{b.down, b.rank, u};
    u += job->x.rows * low_rank_columns(b.rank);
  }
}

}  // namespace detail

RRS_FUNCTIONS_END
