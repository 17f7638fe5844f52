// PreparedActivation: quantized, packed activations of one call, inside a Workspace.
//
// from: pipeline/activation.hpp (smooth_rotate_quantize).  to: pipeline/linear.hpp (gemm).
// One preparation serves every weight with the same scheme and LayerChannels: q, k and v, or gate
// and up. Valid until its workspace is used again; may be read by any number of threads at once
// (exception: exact_reference repacks weights into the workspace inside gemm).
// Layout of tiles: pack/layout.hpp. With exact_reference each sequence is a segment with a channel
// permutation and tiles of its own; otherwise there is one segment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/pack/layout.hpp"
#include "rrs/pack/low_rank.hpp"

RRS_TYPES_BEGIN

// Everything about one activation call that is not the scheme.
struct ActivationOptions {
  LayerChannels channels;                         // the same as the weight's
  const std::int64_t* sequence_starts = nullptr;  // ascending rows at which sequences begin
  std::int64_t sequences = 0;                     // their number; 0: one sequence
  // Low-rank branches of the weights that this activation will meet (WeightView::low_rank; rank 0
  // is skipped): the same pass computes L_B x~ of each. linear() registers its weight's own.
  const LowRankView* low_rank = nullptr;
  std::int64_t low_rank_count = 0;  // at most kMaxLowRankBranches
  std::optional<Isa> isa;           // overrides RRS_ISA for this call
  bool fused = true;  // false: always the separate stages (same bytes; for tests and benchmarks)
};

// Consecutive rows that share a channel permutation (exact_reference), else the whole call.
struct ActivationSegment {
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  const std::int32_t* permutation = nullptr;  // [k], or null
};

// L_B x~ of one branch, which its `down` pointer names.
struct PreparedLowRank {
  const void* down = nullptr;
  std::int64_t rank = 0;
  const float* u = nullptr;  // [m][low_rank_columns(rank)]
};

struct PreparedActivation {
  std::int64_t m = 0;
  std::int64_t k = 0;
  std::int64_t k_padded = 0;
  Scheme scheme;
  const KernelTable* table = nullptr;  // the level that packed it, hence the one gemm uses
  std::int64_t activation_groups = 0;
  std::int64_t inner_groups = 0;
  const void* codes = nullptr;                  // int8, or f32 when activation.bits is 16
  const float* scales = nullptr;                // s, tile by tile [group][rows]; null at 16 bits
  const std::int32_t* sums = nullptr;           // code sums, tile by tile [inner group][rows]
  const float* token_scales = nullptr;          // a [m]; quiet NaN marks a non-finite row
  const ActivationSegment* segments = nullptr;  // null: one segment, all rows
  std::int64_t segment_count = 1;
  std::uint64_t channels_fingerprint = 0;
  std::int64_t first_non_finite = -1;  // row, or -1
  const std::byte* memory = nullptr;   // the workspace, for overlap checks
  std::int64_t memory_bytes = 0;
  PreparedLowRank low_rank[kMaxLowRankBranches];
  int low_rank_count = 0;
  std::byte* repack_memory = nullptr;  // exact_reference: where gemm repacks the weight
  std::int64_t repack_bytes = 0;

  RRS_MEMBER bool is_float() const noexcept { return scheme.activation.bits == kActivationFloat; }
  // Segment i of max(segments, 1): without permutations the whole call is one.
  RRS_MEMBER ActivationSegment segment(std::int64_t i) const noexcept {
    return segments == nullptr ? ActivationSegment{0, m, nullptr} : segments[i];
  }
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

// The GEMM kernel of a level for a scheme: by weight bits, and activation bits 2..4, 5..8 or 16.
inline const GemmKernel& select_gemm_kernel(const KernelTable& table, const Scheme& s) noexcept {
  const bool w8 = s.weight.bits == 8;
  if (s.activation.bits == kActivationFloat) return w8 ? table.gemm.w8a16 : table.gemm.w4a16;
  if (w8) return table.gemm.w8a8;
  return s.activation.bits <= 4 ? table.gemm.w4a4 : table.gemm.w4a8;
}

// True when the codes go through the A4 form of the pack leaf.
RRS_FORCE_INLINE bool uses_a4(const Scheme& s) noexcept {
  return s.weight.bits == 4 && s.activation.bits <= 4;
}

// s[t, group] of a prepared activation without segments: for tests, tools and frozen scales.
inline float scale_at(const PreparedActivation& a, std::int64_t row, std::int64_t group) noexcept {
  const RowTiles tiles = make_row_tiles(a.m, select_gemm_kernel(*a.table, a.scheme).max_rows);
  std::int64_t tile = 0;
  while (tiles.first_row(tile) + tiles.rows_in(tile) <= row) ++tile;
  const std::int64_t first = tiles.first_row(tile);
  return a.scales[first * a.activation_groups + group * tiles.rows_in(tile) + (row - first)];
}

RRS_FUNCTIONS_END
