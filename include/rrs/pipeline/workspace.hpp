// Workspace: the caller's memory for one concurrent call, and the plan of what lies where in it.
//
// Nothing on the hot path allocates: prepared activations, rotation tables and per-task scratch all
// live here. One workspace per concurrent call; reuse it for any number of calls that fit. A
// prepared activation stays valid until its workspace is used again. Consecutive calls with the
// same rotation and K find its tables in place (rebuilding them takes 280 us at K = 11008).
//
// Bytes, roughly: M * K for codes (4 M K for 16-bit activations and for windows wider than one),
// plus about 80 K per task (320 K at 16 bits), at most min(64, M / 16) tasks. A low-rank branch
// adds 4 M r, and 48 K per task.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "rrs/core/aligned_buffer.hpp"
#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/pack/layout.hpp"
#include "rrs/pipeline/prepared_activation.hpp"
#include "rrs/pipeline/weight_view.hpp"
#include "rrs/rotate/rotate_row.hpp"

RRS_TYPES_BEGIN

namespace internal {
struct WorkspaceAccess;
}  // namespace internal

// Owns 64-byte aligned memory, or borrows it. Only owned memory whose address nobody has asked for
// keeps rotation tables from one call to the next.
class Workspace {
 public:
  Workspace() = default;
  // Allocates; on failure bytes() is 0 and every call reports kWorkspaceTooSmall.
  RRS_MEMBER explicit Workspace(std::size_t bytes) noexcept {
    if (bytes > static_cast<std::size_t>(INT64_MAX)) return;
    if (!owned_.allocate(static_cast<std::int64_t>(bytes)).ok()) return;
    memory_ = owned_.data();
    bytes_ = bytes;
  }
  // Borrows `bytes` at `memory`, which must outlive the workspace; any alignment.
  RRS_MEMBER Workspace(void* memory, std::size_t bytes) noexcept {
    const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(memory) % 64;
    const std::size_t skip = misaligned == 0 ? 0 : 64 - misaligned;
    if (memory == nullptr || bytes <= skip) return;
    memory_ = static_cast<std::byte*>(memory) + skip;
    bytes_ = bytes - skip;
  }

  RRS_MEMBER ~Workspace() = default;
  RRS_MEMBER Workspace(Workspace&& other) noexcept { swap(other); }
  RRS_MEMBER Workspace& operator=(Workspace&& other) noexcept {
    swap(other);
    return *this;
  }

  // Whoever asks may write: from then on no table is taken from an earlier call.
  RRS_MEMBER std::byte* data() noexcept {
    lent_ = true;
    rotation_ = RotationPlan{};
    return memory_;
  }
  RRS_MEMBER std::size_t bytes() const noexcept { return bytes_; }

 private:
  friend struct internal::WorkspaceAccess;

  RRS_MEMBER void swap(Workspace& other) noexcept {
    std::swap(owned_, other.owned_);
    std::swap(memory_, other.memory_);
    std::swap(bytes_, other.bytes_);
    std::swap(lent_, other.lent_);
    std::swap(rotation_, other.rotation_);
  }

  AlignedBuffer owned_;
  std::byte* memory_ = nullptr;
  std::size_t bytes_ = 0;
  bool lent_ = false;
  // The rotation whose tables the last call left at the start of the memory; k = 0: none.
  RotationPlan rotation_;
};

namespace internal {

// What the library may do with a workspace beyond its public members. Tables are a function of the
// rotation and K alone and lie at offset 0 in every plan, so a call with the same two finds them in
// place whatever else changed.
struct WorkspaceAccess {
  RRS_MEMBER static std::byte* memory(const Workspace& ws) noexcept { return ws.memory_; }
  RRS_MEMBER static const RotationPlan* kept(const Workspace& ws, const Rotation& r,
                                             std::int64_t k) noexcept {
    const Rotation& old = ws.rotation_.rotation;
    const bool same = ws.rotation_.k == k && old.kind == r.kind && old.block == r.block &&
                      old.random_signs == r.random_signs && old.sign_seed == r.sign_seed;
    return same ? &ws.rotation_ : nullptr;
  }
  // After the tables have been built, before anything else is written; null: there are none.
  RRS_MEMBER static void keep(Workspace& ws, const RotationPlan* plan) noexcept {
    const bool safe = plan != nullptr && ws.owned_.data() != nullptr && !ws.lent_;
    ws.rotation_ = safe ? *plan : RotationPlan{};
  }
};

inline constexpr std::int64_t kMaxTasks = 64;
// Rows that wait in cache for the down-projections: a multiple of the leaves' 6 and 12 rows.
inline constexpr int kLowRankBlockRows = 12;

// Offsets in bytes from the start of the workspace, all multiples of 64.
struct WorkspacePlan {
  bool ok = false;  // false: a size overflowed
  std::int64_t k_padded = 0;
  // Elements between the rows of codes in a slot: 64 bytes more than a row, since rows a power of
  // two apart would fall into the same cache set, and packing walks down all rows of a tile.
  std::int64_t code_stride = 0;
  std::int64_t activation_groups = 0;
  std::int64_t inner_groups = 0;
  std::int64_t tasks = 0;  // upper bound of concurrent tasks
  std::int64_t tables = 0, codes = 0, scales = 0, sums = 0, token_scales = 0;
  std::int64_t rotated = 0, positive = 0, negative = 0, window_scales = 0;  // wide windows
  std::int64_t permutations = 0, segments = 0, sort = 0, repacked = 0;      // exact_reference
  std::int64_t low_rank = 0;                                                // u of all branches
  std::int64_t slots = 0, slot_bytes = 0;
  // Inside a slot.
  std::int64_t slot_row = 0, slot_rotate = 0, slot_codes = 0, slot_groups = 0, slot_sums = 0;
  std::int64_t slot_kept = 0, kept_stride = 0;  // low rank: rotated rows, and floats between them
  std::int64_t bytes = 0;
};

}  // namespace internal

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

// Hands out consecutive 64-byte aligned ranges; sticky failure on overflow.
struct RangeAllocator {
  std::int64_t next = 0;
  bool ok = true;

  RRS_MEMBER std::int64_t take(std::int64_t a, std::int64_t b, std::int64_t element) noexcept {
    std::int64_t bytes = 0;
    const std::int64_t at = next;
    ok = ok && checked_product(a, b, &bytes) && checked_product(bytes, element, &bytes) &&
         bytes <= INT64_MAX - 64 - next;
    if (ok) next += (bytes + 63) / 64 * 64;
    return at;
  }
};

RRS_FORCE_INLINE bool is_wide(const Scheme& s) noexcept {
  return s.activation.bits != kActivationFloat && (s.activation.window.kind == WindowKind::kWhole ||
                                                   s.activation.window.kind == WindowKind::kRows);
}

inline void plan_slot(const Scheme& s, std::int64_t k, const RotationPlan& rotation,
                      std::int64_t columns, internal::WorkspacePlan* p) noexcept {
  const std::int64_t element = s.activation.bits == kActivationFloat ? 4 : 1;
  RangeAllocator slot;
  p->slot_row = slot.take(2, p->k_padded, 4);  // the row, and the row before its permutation
  p->slot_rotate = slot.take(1, rotation_scratch_floats(rotation) + k, 4);
  p->code_stride = (p->k_padded * element + 127) / 64 * 64 / element;
  p->slot_codes = slot.take(internal::kMaxTileRows, p->code_stride, element);
  p->slot_groups = slot.take(4 + internal::kMaxTileRows, p->activation_groups, 4);
  p->slot_sums = slot.take(internal::kMaxTileRows, p->inner_groups, 4);
  const bool keep = columns > 0 && element == 1 && !is_wide(s);  // else the rows lie there anyway
  p->kept_stride = (k + 31) / 16 * 16;                           // as for code_stride
  p->slot_kept = slot.take(keep ? internal::kLowRankBlockRows : 0, p->kept_stride, 4);
  p->slot_bytes = slot.next;
  p->ok = p->ok && slot.ok;
}

// m rows, k inputs; n outputs matter only for exact_reference; `columns` of low-rank branches. The
// scheme must be valid for k.
inline internal::WorkspacePlan plan_workspace(std::int64_t m, std::int64_t k, std::int64_t n,
                                              const Scheme& s, const RotationPlan& rotation,
                                              std::int64_t columns = 0) noexcept {
  const bool quantized = s.activation.bits != kActivationFloat;
  const bool wide = is_wide(s);
  const bool exact = s.activation.exact_reference;
  internal::WorkspacePlan p;
  p.ok = true;
  p.k_padded = padded_inputs(k);
  p.activation_groups = quantized ? group_count(k, s.activation.group) : 1;
  p.inner_groups = quantized ? group_count(k, inner_group(s.activation.group, s.weight.group)) : 1;
  p.tasks = m / 16 < 1 ? 1 : (m / 16 > internal::kMaxTasks ? internal::kMaxTasks : m / 16);
  RangeAllocator all;
  p.tables = all.take(1, static_cast<std::int64_t>(rotation_tables_bytes(rotation)), 1);
  p.codes = all.take(m, p.k_padded, quantized ? 1 : 4);
  p.scales = all.take(m, p.activation_groups, 4);
  p.sums = all.take(m, p.inner_groups, 4);
  p.token_scales = all.take(m, 1, 4);
  const std::int64_t wide_rows = wide ? m : 0;
  p.rotated = all.take(wide_rows, p.k_padded, 4);
  p.positive = all.take(wide_rows, p.activation_groups, 4);
  p.negative = all.take(wide_rows, p.activation_groups, 4);
  p.window_scales = all.take(wide_rows, p.activation_groups, 4);
  p.permutations = all.take(exact ? m : 0, p.k_padded, 4);
  p.segments = all.take(exact ? m : 0, 1, sizeof(ActivationSegment));
  p.sort = all.take(exact ? 2 : 0, p.k_padded, 4);
  p.low_rank = all.take(m, columns, 4);
  plan_slot(s, k, rotation, columns, &p);
  // gemm repacks the weight where the tasks of the preparation had their slots.
  RangeAllocator repack = all;
  p.slots = all.take(p.tasks, p.slot_bytes, 1);
  p.repacked = repack.take(exact ? panel_count(n) : 0, panel_bytes(k, s.weight.bits), 1);
  p.bytes = all.next > repack.next ? all.next : repack.next;
  all.ok = all.ok && repack.ok;
  p.ok = p.ok && all.ok;
  return p;
}

}  // namespace detail

// Bytes that a call with m rows of k inputs needs; n (outputs) only matters for exact_reference,
// `columns` = low_rank_columns(views, count) when low-rank branches are registered. 0 when the
// scheme is invalid for k, a size is negative, or the total does not fit 63 bits.
inline std::size_t workspace_bytes(std::int64_t m, std::int64_t k, const Scheme& scheme,
                                   std::int64_t n = 0, std::int64_t columns = 0) noexcept {
  if (m < 0 || n < 0 || columns < 0 || !validate(scheme, k).ok()) return 0;
  if (!validate(scheme.rotation, k).ok()) return 0;
  const RotationPlan rotation = plan_rotation(scheme.rotation, k);
  const internal::WorkspacePlan plan = detail::plan_workspace(m, k, n, scheme, rotation, columns);
  return plan.ok ? static_cast<std::size_t>(plan.bytes) : 0;
}

// For linear(X [M,K], w): the same with everything that w brings.
inline std::size_t workspace_bytes(std::int64_t m, const WeightView& w) noexcept {
  return workspace_bytes(m, w.k, w.scheme, w.n, low_rank_columns(w.low_rank.rank));
}

RRS_FUNCTIONS_END
