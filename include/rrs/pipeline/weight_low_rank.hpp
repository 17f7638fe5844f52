// attach_low_rank: a packed weight with a low-rank branch beside it, y = Q(W) x~ + L_A (L_B x~).
//
// from: a PreparedWeight (any solver), L_A [N,r] and L_B [r,K] in the basis in which the weight was
// quantized (transform_weight: divided, permuted, rotated), e.g. of calibrate/aser.hpp.
// to: gemm, linear, weight_file.hpp.
// Numeric contract: codes, scales and offsets are copied bit for bit; L_A and L_B are rounded to
// f16 (halfway to even), so a value that is an f16 is kept. What is computed: gemm/low_rank.hpp.
// Cost: a copy of the weight, offline. Paper: ASER (2024).
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "rrs/core/config.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/types.hpp"
#include "rrs/core/view.hpp"
#include "rrs/pack/low_rank.hpp"
#include "rrs/pipeline/weight_file.hpp"
#include "rrs/pipeline/weight_view.hpp"

RRS_FUNCTIONS_BEGIN

namespace detail {

inline constexpr ViewNames kNamesLA{"L_A.data", "L_A.rows", "L_A.cols", "L_A.row_stride"};
inline constexpr ViewNames kNamesLB{"L_B.data", "L_B.rows", "L_B.cols", "L_B.row_stride"};

inline Status validate_factors(const WeightView& w, const MatrixView<const float>& la,
                               const MatrixView<const float>& lb) noexcept {
  if (Status s = validate_view(erase(la), kNamesLA); !s) return s;
  if (Status s = validate_view(erase(lb), kNamesLB); !s) return s;
  if (la.rows != w.n) return invalid_argument("L_A.rows", "must equal N", la.rows, w.n);
  if (lb.cols != w.k) return invalid_argument("L_B.cols", "must equal K", lb.cols, w.k);
  if (la.cols != lb.rows) {
    return invalid_argument("L_A.cols", "must equal L_B.rows (the rank)", la.cols, lb.rows);
  }
  const std::int64_t most = w.n < w.k ? w.n : w.k;
  if (la.cols < 1 || la.cols > most) {
    return invalid_argument("rank", "must be in [1, min(N, K)]", la.cols, most);
  }
  return Status{};
}

// Rows of `in` as f16 at out[index(row, column)].
template <class Index>
Status round_factor(const MatrixView<const float>& in, const char* name, f16* out,
                    const Index& index) noexcept {
  for (std::int64_t r = 0; r < in.rows; ++r) {
    for (std::int64_t c = 0; c < in.cols; ++c) {
      const f16 v = to_f16(in.row(r)[c]);
      if ((v.bits & 0x7c00u) == 0x7c00u) {
        return invalid_argument(name, "must be finite as f16 in every row (found: row)", r, 65504);
      }
      out[index(r, c)] = v;
    }
  }
  return Status{};
}

}  // namespace detail

// `w` and the branch in memory of their own. Errors: kInvalidArgument naming L_A, L_B or rank (its
// limit min(N, K); a value that is not finite as f16, with its row), kOutOfMemory. A branch that
// `w` already has is replaced.
inline Result<PreparedWeight> attach_low_rank(const WeightView& w,
                                              const MatrixView<const float>& L_A,
                                              const MatrixView<const float>& L_B) noexcept {
  WeightView base = w;
  base.low_rank = LowRankView{};
  const Result<WeightLayout> old = detail::checked_view_layout(base);
  if (!old) return old.status();
  if (Status s = detail::validate_factors(w, L_A, L_B); !s) return s;
  const std::int64_t rank = L_A.cols;
  const Result<WeightLayout> layout =
      weight_layout(w.n, w.k, w.scheme.weight, w.offsets != nullptr, rank);
  if (!layout) return layout.status();
  const WeightLayout& l = *layout;
  AlignedBuffer buffer;
  if (Status s = buffer.allocate(l.total_bytes); !s) {
    s.argument = "W";
    return s;
  }
  std::byte* out = buffer.data();
  std::memcpy(out, w.panels, static_cast<std::size_t>(l.panels_bytes));
  std::memset(out + l.scales_at, 0, static_cast<std::size_t>(l.total_bytes - l.scales_at));
  std::memcpy(out + l.scales_at, w.scales, static_cast<std::size_t>(l.scales_bytes));
  if (l.offsets_bytes > 0) {
    std::memcpy(out + l.offsets_at, w.offsets, static_cast<std::size_t>(l.offsets_bytes));
  }
  const auto down = [rank, &w](std::int64_t j, std::int64_t k) {
    return low_rank_down_index(rank, w.k, j, k);
  };
  const auto up = [rank](std::int64_t n, std::int64_t j) { return low_rank_up_index(rank, n, j); };
  if (Status s = detail::round_factor(L_B, "L_B", reinterpret_cast<f16*>(out + l.down_at), down);
      !s) {
    return s;
  }
  if (Status s = detail::round_factor(L_A, "L_A", reinterpret_cast<f16*>(out + l.up_at), up); !s) {
    return s;
  }
  const WeightView view = make_weight_view(out, l, w.n, w.k, w.scheme, w.channels_fingerprint);
  return PreparedWeight(std::move(buffer), view);
}

RRS_FUNCTIONS_END
