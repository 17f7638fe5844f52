// LowRankView: the low-rank branch of a layer, y += L_A (L_B x~), as two packed matrices of f16 or
// of int8 codes.
//
//   L_B [r,K] ("down")   panels of 16 ranks, [panel][K][16]; a last panel of at most 8: [K][8]
//   L_A [N,r] ("up")     panels of 16 outputs, [panel][r][16], N padded with zeros
//   s [r] ("scales")     f32, r padded to 8; 8 bits only: L_A[n,j] L_B[j,k] =
//                        s[j] up[n,j] down[j,k]
// One scale per rank and not two: both factors meet in u[j], which is where s[j] is applied.
// x~ is the activation as the weight was quantized for it: divided, permuted, rotated; not
// quantized.
//
// from: pipeline/weight_low_rank.hpp (attach_low_rank).  to: gemm/low_rank.hpp.
// Bytes: e (K r8 + r N16), e 2 or 1, at 8 bits + 4 r8; r8 is r rounded up to 8, N16 is N to 16.
// Offsets count elements.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/types.hpp"
#include "rrs/pack/layout.hpp"

RRS_TYPES_BEGIN

// A packed low-rank branch that somebody else owns. rank 0: there is none.
struct LowRankView {
  std::int64_t rank = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  const void* down = nullptr;     // L_B: f16 or int8
  const void* up = nullptr;       // L_A, the same
  int bits = 16;                  // of an element: 16 (f16) or 8 (int8)
  const float* scales = nullptr;  // s [low_rank_columns(rank)] at 8 bits
};

// Most branches that one prepared activation can carry (q, k and v are three).
inline constexpr int kMaxLowRankBranches = 8;

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

// Ranks as stored in L_B and as columns of L_B x~: rounded up to 8.
RRS_FORCE_INLINE constexpr std::int64_t low_rank_columns(std::int64_t rank) noexcept {
  return (rank + 7) / 8 * 8;
}
// The same for several branches: what workspace_bytes asks for.
inline std::int64_t low_rank_columns(const LowRankView* views, std::int64_t count) noexcept {
  std::int64_t columns = 0;
  for (std::int64_t i = 0; i < count; ++i) columns += low_rank_columns(views[i].rank);
  return columns;
}

// f16 elements of packed L_B [rank,K], padding included.
RRS_FORCE_INLINE constexpr std::int64_t low_rank_down_elements(std::int64_t rank,
                                                               std::int64_t k) noexcept {
  return low_rank_columns(rank) * k;
}
// f16 elements of packed L_A [N,rank], padding included.
RRS_FORCE_INLINE constexpr std::int64_t low_rank_up_elements(std::int64_t rank,
                                                             std::int64_t n) noexcept {
  return panel_count(n) * kPanelOutputs * rank;
}

// Bytes of L_B as stored. bits: 16 or 8.
RRS_FORCE_INLINE constexpr std::int64_t low_rank_down_bytes(std::int64_t rank, std::int64_t k,
                                                            int bits) noexcept {
  return low_rank_down_elements(rank, k) * (bits / 8);
}
// Bytes of L_A as stored.
RRS_FORCE_INLINE constexpr std::int64_t low_rank_up_bytes(std::int64_t rank, std::int64_t n,
                                                          int bits) noexcept {
  return low_rank_up_elements(rank, n) * (bits / 8);
}
// Bytes of the factors s, one per rank; none at 16 bits.
RRS_FORCE_INLINE constexpr std::int64_t low_rank_scale_bytes(std::int64_t rank, int bits) noexcept {
  return bits == 8 ? low_rank_columns(rank) * 4 : 0;
}

// L_B[j,k] of a branch of `rank`, K = inputs.
RRS_FORCE_INLINE constexpr std::int64_t low_rank_down_index(std::int64_t rank, std::int64_t inputs,
                                                            std::int64_t j,
                                                            std::int64_t k) noexcept {
  const std::int64_t panel = j / kPanelOutputs;
  const std::int64_t left = low_rank_columns(rank) - panel * kPanelOutputs;
  return panel * kPanelOutputs * inputs + k * (left < kPanelOutputs ? 8 : kPanelOutputs) +
         j % kPanelOutputs;
}
// L_A[n,j].
RRS_FORCE_INLINE constexpr std::int64_t low_rank_up_index(std::int64_t rank, std::int64_t n,
                                                          std::int64_t j) noexcept {
  return (n / kPanelOutputs * rank + j) * kPanelOutputs + n % kPanelOutputs;
}

namespace detail {

inline Status validate_low_rank_bits(int bits) noexcept {
  if (bits == 16 || bits == 8) return Status{};
  return invalid_argument("low_rank.bits", "must be 16 or 8", bits, 16);
}

// A branch for a layer of N x K; a view without rank needs no pointers.
inline Status validate_low_rank(const LowRankView& b, std::int64_t n, std::int64_t k) noexcept {
  if (b.k != k) return invalid_argument("low_rank.k", "must equal K", b.k, k);
  if (b.n != n) return invalid_argument("low_rank.n", "must equal N", b.n, n);
  const std::int64_t most = n < k ? n : k;
  if (b.rank < 0 || b.rank > most) {
    return invalid_argument("low_rank.rank", "must be in [0, min(N, K)]", b.rank, most);
  }
  if (b.rank > 0 && (b.down == nullptr || b.up == nullptr)) {
    return invalid_argument("low_rank.down", "and low_rank.up must not be null", 0, 1);
  }
  if (b.rank > 0 && b.bits == 8 && b.scales == nullptr) {
    return invalid_argument("low_rank.scales", "must not be null at 8 bits", 0, 1);
  }
  return validate_low_rank_bits(b.bits);
}

}  // namespace detail

RRS_FUNCTIONS_END
