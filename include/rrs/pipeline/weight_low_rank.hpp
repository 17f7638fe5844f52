// attach_low_rank: a packed weight with a low-rank branch beside it, y = Q(W) x~ + L_A (L_B x~).
//
// from: a PreparedWeight (any solver), L_A [N,r] and L_B [r,K] in the basis in which the weight was
// quantized (transform_weight: divided, permuted, rotated), e.g. of calibrate/aser.hpp.
// to: gemm, linear, weight_file.hpp.
// Numeric contract: codes, scales and offsets are copied bit for bit. L_A and L_B in 16 bits are
// rounded to f16 (halfway to even), so a value that is an f16 is kept. In 8 bits, with a_j and b_j
// the largest magnitudes of column j of L_A and row j of L_B:
//   up[n,j] = rint(127 L_A[n,j] / a_j),  down[j,k] = rint(127 L_B[j,k] / b_j)     halfway to even
//   s[j] = f32(a_j b_j / 127^2)
// so each factor is off by at most a_j / 254 or b_j / 254, and values that are such codes times a
// scale keep their codes. What is computed: gemm/low_rank.hpp. Cost: a copy of the weight, offline.
// Paper: ASER (2024).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
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

// rint(127 value / most), most the largest magnitude of its rank; 0 when that is 0. A float times
// 127 is exact in double, so ties are real ones.
inline std::int8_t low_rank_code(double value, double most) noexcept {
  return most > 0.0 ? static_cast<std::int8_t>(std::lrint(127.0 * value / most)) : std::int8_t{0};
}

inline Status validate_finite(const MatrixView<const float>& in, const char* name) noexcept {
  for (std::int64_t r = 0; r < in.rows; ++r) {
    for (std::int64_t c = 0; c < in.cols; ++c) {
      if (!is_finite_bits(float_bits(in.row(r)[c]))) {
        return invalid_argument(name, "must be finite in every row (found: row)", r, in.rows);
      }
    }
  }
  return Status{};
}

// The codes of rank j of both factors, and s[j].
inline Status quantize_rank(const MatrixView<const float>& la, const MatrixView<const float>& lb,
                            std::int64_t j, std::byte* base, const WeightLayout& l) noexcept {
  auto* down = reinterpret_cast<std::int8_t*>(base + l.down_at);
  auto* up = reinterpret_cast<std::int8_t*>(base + l.up_at);
  double in_a = 0.0, in_b = 0.0;
  for (std::int64_t n = 0; n < la.rows; ++n) {
    in_a = (std::max)(in_a, std::abs(static_cast<double>(la.row(n)[j])));
  }
  for (std::int64_t k = 0; k < lb.cols; ++k) {
    in_b = (std::max)(in_b, std::abs(static_cast<double>(lb.row(j)[k])));
  }
  const double scale = in_a * in_b / (127.0 * 127.0);
  if (!(scale <= static_cast<double>((std::numeric_limits<float>::max)()))) {
    return invalid_argument("L_A", "times L_B must be finite in every rank (found: rank)", j,
                            l.rank);
  }
  for (std::int64_t n = 0; n < la.rows; ++n) {
    up[low_rank_up_index(l.rank, n, j)] = low_rank_code(static_cast<double>(la.row(n)[j]), in_a);
  }
  for (std::int64_t k = 0; k < lb.cols; ++k) {
    down[low_rank_down_index(l.rank, lb.cols, j, k)] =
        low_rank_code(static_cast<double>(lb.row(j)[k]), in_b);
  }
  reinterpret_cast<float*>(base + l.rank_scales_at)[j] = static_cast<float>(scale);
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

// Both factors into zeroed sections of `base`.
inline Status store_factors(const MatrixView<const float>& la, const MatrixView<const float>& lb,
                            std::byte* base, const WeightLayout& l) noexcept {
  if (l.rank_bits == 8) {
    if (Status s = validate_finite(lb, "L_B"); !s) return s;
    if (Status s = validate_finite(la, "L_A"); !s) return s;
    for (std::int64_t j = 0; j < l.rank; ++j) {
      if (Status s = quantize_rank(la, lb, j, base, l); !s) return s;
    }
    return Status{};
  }
  const auto down = [&](std::int64_t j, std::int64_t k) {
    return low_rank_down_index(l.rank, lb.cols, j, k);
  };
  const auto up = [&](std::int64_t n, std::int64_t j) { return low_rank_up_index(l.rank, n, j); };
  if (Status s = round_factor(lb, "L_B", reinterpret_cast<f16*>(base + l.down_at), down); !s) {
    return s;
  }
  return round_factor(la, "L_A", reinterpret_cast<f16*>(base + l.up_at), up);
}

}  // namespace detail

// `w` and the branch in memory of their own, its elements in `bits`: 16, or 8, which halves what it
// stores and reads. L_A and L_B: row-major, aligned to an element; like `w` only read. Works on the
// calling thread. Errors: those of a `w` that serialize_weight would refuse; kInvalidArgument
// naming L_A, L_B, rank (its limit min(N, K)) or low_rank.bits (a value that is not finite as f16,
// or at 8 bits as f32, with its row; a rank whose s overflows f32), kOutOfMemory. A branch that `w`
// already has is replaced.
inline Result<PreparedWeight> attach_low_rank(const WeightView& w,
                                              const MatrixView<const float>& L_A,
                                              const MatrixView<const float>& L_B,
                                              int bits = 16) noexcept {
  WeightView base = w;
  base.low_rank = LowRankView{};
  const Result<WeightLayout> old = detail::checked_view_layout(base);
  if (!old) return old.status();
  if (Status s = detail::validate_factors(w, L_A, L_B); !s) return s;
  const Result<WeightLayout> layout =
      weight_layout(w.n, w.k, w.scheme.weight, w.offsets != nullptr, L_A.cols, bits);
  if (!layout) return layout.status();
  const WeightLayout& l = *layout;
  AlignedBuffer buffer;
  if (Status s = buffer.allocate(l.total_bytes); !s) {
    s.argument = "W";
    return s;
  }
  std::byte* out = buffer.data();
  detail::write_payload(base, l, out);
  if (Status s = detail::store_factors(L_A, L_B, out, l); !s) return s;
  const WeightView view = make_weight_view(out, l, w.n, w.k, w.scheme, w.channels_fingerprint);
  return PreparedWeight(std::move(buffer), view);
}

RRS_FUNCTIONS_END
