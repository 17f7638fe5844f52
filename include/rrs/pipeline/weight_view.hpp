// WeightView and PreparedWeight: a packed weight, seen and owned.
//
//   W[n,k] = v[n,g] * (u[n,k] - bias)            bias 8 (4 bits) or 128 (8 bits), g = k / group
//   W[n,k] = v[n,g] * u[n,k] + offset[n,g]       when offsets are stored
//
// from: pipeline/weight.hpp (prepare_weight, weight_from_codes), weight_file.hpp (view_weight).
// to: gemm, linear.
// Layout: pack/layout.hpp, pack/low_rank.hpp. One buffer: panels, scales, offsets, L_B, L_A and its
// scales, each section 64-byte aligned. Cost in memory: 4 or 8 bits per weight, plus 16 (scale) and
// 32 (offset) bits per group and output, plus 16 r (N + K) bits for a low-rank branch, or
// 8 r (N + K) + 32 r in 8 bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "rrs/core/aligned_buffer.hpp"
#include "rrs/core/config.hpp"
#include "rrs/core/hash.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/types.hpp"
#include "rrs/pack/layout.hpp"
#include "rrs/pack/low_rank.hpp"

RRS_TYPES_BEGIN

// A packed weight that somebody else owns. May be used by any number of threads.
struct WeightView {
  std::int64_t n = 0;
  std::int64_t k = 0;
  Scheme scheme;                           // what it was prepared for
  const std::uint8_t* panels = nullptr;    // 64-byte aligned, panel_count(n) panels
  std::int64_t panel_bytes = 0;            // from one panel to the next
  const f16* scales = nullptr;             // [panel][group][16]
  const float* offsets = nullptr;          // the same shape, or null
  std::int64_t groups = 0;                 // group_count(k, scheme.weight.group)
  std::uint64_t channels_fingerprint = 0;  // channels_fingerprint() of its LayerChannels; 0: none
  LowRankView low_rank;                    // y += L_A (L_B x~); rank 0: none

  RRS_MEMBER std::int64_t panel_scales() const noexcept { return groups * kPanelOutputs; }
  // Bytes stored: panels, scales, offsets and the low-rank branch, padding included.
  RRS_MEMBER std::int64_t stored_bytes() const noexcept {
    const std::int64_t panels_ = (n + kPanelOutputs - 1) / kPanelOutputs;
    const std::int64_t per_scale = offsets != nullptr ? 6 : 2;
    const std::int64_t columns = (low_rank.rank + 7) / 8 * 8;
    const std::int64_t factors = columns * k + panels_ * kPanelOutputs * low_rank.rank;
    const std::int64_t branch = low_rank.bits == 8 ? factors + 4 * columns : 2 * factors;
    return panels_ * (panel_bytes + panel_scales() * per_scale) + branch;
  }
  // 8 * stored_bytes() / (n * k): 4.5 for 4 bits in groups of 32; 0 for an empty weight.
  RRS_MEMBER double bits_per_weight() const noexcept {
    if (n <= 0 || k <= 0) return 0.0;
    return 8.0 * static_cast<double>(stored_bytes()) /
           (static_cast<double>(n) * static_cast<double>(k));
  }
};

// Where the sections of a packed weight lie, in bytes from the start of its buffer.
struct WeightLayout {
  std::int64_t panel_bytes = 0;
  std::int64_t groups = 0;
  std::int64_t panels_bytes = 0;  // at offset 0
  std::int64_t scales_at = 0;
  std::int64_t scales_bytes = 0;
  std::int64_t offsets_at = 0;
  std::int64_t offsets_bytes = 0;  // 0: no offsets
  std::int64_t rank = 0;           // 0: no low-rank branch
  int rank_bits = 16;              // of an element of L_B and L_A: 16 or 8
  std::int64_t down_at = 0;
  std::int64_t down_bytes = 0;
  std::int64_t up_at = 0;
  std::int64_t up_bytes = 0;
  std::int64_t rank_scales_at = 0;
  std::int64_t rank_scales_bytes = 0;  // 0: 16 bits
  std::int64_t total_bytes = 0;
};

// A packed weight and its memory. Move-only; views stay valid when it is moved.
class PreparedWeight {
 public:
  PreparedWeight() = default;
  RRS_MEMBER PreparedWeight(AlignedBuffer buffer, const WeightView& view) noexcept
      : buffer_(std::move(buffer)), view_(view) {}
  RRS_MEMBER ~PreparedWeight() = default;
  RRS_MEMBER PreparedWeight(PreparedWeight&&) noexcept = default;
  RRS_MEMBER PreparedWeight& operator=(PreparedWeight&&) noexcept = default;

  // Points into this object's memory: valid until it is destroyed or assigned to.
  RRS_MEMBER const WeightView& view() const noexcept { return view_; }
  RRS_MEMBER operator const WeightView&() const noexcept { return view_; }  // NOLINT: by design
  RRS_MEMBER std::int64_t n() const noexcept { return view_.n; }
  RRS_MEMBER std::int64_t k() const noexcept { return view_.k; }
  RRS_MEMBER const Scheme& scheme() const noexcept { return view_.scheme; }
  RRS_MEMBER double bits_per_weight() const noexcept { return view_.bits_per_weight(); }

 private:
  AlignedBuffer buffer_;
  WeightView view_;
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

// Hash of what a weight and its activations must have in common beside the scheme: both
// permutations and the divisor, each of k elements. 0 when there is none of them, never 0
// otherwise.
inline std::uint64_t channels_fingerprint(const LayerChannels& c, std::int64_t k) noexcept {
  const std::size_t bytes = static_cast<std::size_t>(k) * 4;
  std::uint64_t h = 0;
  if (c.input_permutation != nullptr) h = hash_bytes(c.input_permutation, bytes, h + 1);
  if (c.group_permutation != nullptr) h = hash_bytes(c.group_permutation, bytes, h + 2);
  if (c.divisor != nullptr) h = hash_bytes(c.divisor, bytes, h + 3);
  const bool any =
      c.input_permutation != nullptr || c.group_permutation != nullptr || c.divisor != nullptr;
  return any && h == 0 ? 1 : h;
}

// Sections of a weight of n x k; kInvalidArgument when a size is negative, rank is above min(n, k),
// rank_bits is neither 16 nor 8 or the bytes exceed int64.
inline Result<WeightLayout> weight_layout(std::int64_t n, std::int64_t k,
                                          const WeightScheme& scheme, bool with_offsets,
                                          std::int64_t rank = 0, int rank_bits = 16) noexcept {
  constexpr std::int64_t kMost = std::int64_t{1} << 56;  // keeps every sum below clear of overflow
  if (n < 0 || n > kMost) return invalid_argument("N", "must be in [0, 2^56]", n, kMost);
  if (k < 1 || k > kMost / 32) return invalid_argument("K", "must be in [1, 2^51]", k, kMost / 32);
  if (rank < 0 || rank > (n < k ? n : k)) {
    return invalid_argument("low_rank.rank", "must be in [0, min(N, K)]", rank, n < k ? n : k);
  }
  if (Status s = detail::validate_low_rank_bits(rank_bits); !s) return s;
  WeightLayout l;
  l.rank = rank;
  l.rank_bits = rank_bits;
  l.panel_bytes = panel_bytes(k, scheme.bits);
  l.groups = group_count(k, scheme.group);
  const std::int64_t panels = panel_count(n);
  const std::int64_t panel_scales = l.groups * kPanelOutputs;
  std::int64_t all = 0;
  std::int64_t low_rank = 0;  // both parts: rank <= n, so one more panel holds the rounding
  if (!checked_product(panels, l.panel_bytes + panel_scales * 6 + 128, &all) ||
      !checked_product((rank + 7) / 8 * 8, k + panels * kPanelOutputs, &low_rank) ||
      low_rank > (INT64_MAX - all) / 2 - 128) {
    return invalid_argument("N", "times K must fit 63 bits of bytes", n, kMost);
  }
  const std::int64_t mask = static_cast<std::int64_t>(kBufferAlignment) - 1;
  l.panels_bytes = panels * l.panel_bytes;  // a multiple of 64
  l.scales_at = l.panels_bytes;
  l.scales_bytes = panels * panel_scales * 2;
  l.offsets_at = (l.scales_at + l.scales_bytes + mask) & ~mask;
  l.offsets_bytes = with_offsets ? panels * panel_scales * 4 : 0;
  l.down_at = (l.offsets_at + l.offsets_bytes + mask) & ~mask;
  l.down_bytes = low_rank_down_bytes(rank, k, rank_bits);
  l.up_at = (l.down_at + l.down_bytes + mask) & ~mask;
  l.up_bytes = low_rank_up_bytes(rank, n, rank_bits);
  l.rank_scales_at = (l.up_at + l.up_bytes + mask) & ~mask;
  l.rank_scales_bytes = low_rank_scale_bytes(rank, rank_bits);
  l.total_bytes = (l.rank_scales_at + l.rank_scales_bytes + mask) & ~mask;
  return l;
}

// The view of a buffer with that layout.
inline WeightView make_weight_view(const std::byte* base, const WeightLayout& l, std::int64_t n,
                                   std::int64_t k, const Scheme& scheme,
                                   std::uint64_t fingerprint) noexcept {
  WeightView v;
  v.n = n;
  v.k = k;
  v.scheme = scheme;
  v.panel_bytes = l.panel_bytes;
  v.groups = l.groups;
  v.channels_fingerprint = fingerprint;
  if (base == nullptr) return v;  // n == 0: nothing is stored
  v.panels = reinterpret_cast<const std::uint8_t*>(base);
  v.scales = reinterpret_cast<const f16*>(base + l.scales_at);
  if (l.offsets_bytes > 0) v.offsets = reinterpret_cast<const float*>(base + l.offsets_at);
  if (l.rank > 0) {
    v.low_rank = LowRankView{l.rank, n, k, base + l.down_at, base + l.up_at, l.rank_bits};
    if (l.rank_bits == 8) {
      v.low_rank.scales = reinterpret_cast<const float*>(base + l.rank_scales_at);
    }
  }
  return v;
}

RRS_FUNCTIONS_END
