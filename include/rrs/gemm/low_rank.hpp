// The low-rank branch of a layer at run time: Y = Q(W) x + L_A (L_B x~)   (ASER).
//
//   u[t,j] = sum_k x~[t,k] L_B[j,k]        while the activation is prepared, x~ in cache
//   z[t,n] = a[t] acc[t,n] + sum_j u[t,j] L_A[n,j]     in the tile, before it is stored
//
// from: pipeline/activation_rows.hpp (down), driver.hpp (up); layouts: pack/low_rank.hpp.  to: Y.
// Written order. Every level, thread count, tile and M gives the same bits:
//   u = 0; k ascending: u = fma(x~[k], f32(down[j,k]), u); at 8 bits then u = u * s[j] (rounded)
//   z = a * acc (rounded); j ascending: z = fma(u[j], f32(up[n,j]), z); then "Store" of gemm.hpp
//   with a = 1. A non-finite row has u = 0 and stays quiet NaN.
// At 16 bits down and up are L_B and L_A; at 8 they are codes, and L_A[n,j] L_B[j,k] stands for
// s[j] up[n,j] down[j,k] (f32 holds a code exactly).
// Bound against the exact sums, e = 2^-24, no overflow or underflow, c = 0 at 16 bits, 1 at 8:
//   |error| <= that of gemm.hpp + e |a acc| + r e (|a acc| + sum_j |u[j] up[n,j]|)
//              + (K + r + c) e sum_j |L_A[n,j]| sum_k |x~[k] L_B[j,k]|
// Why here and not as two more GEMMs: x~ never goes to memory and Y is written once. Why u is
// computed per (activation, weight) at preparation and not x~ kept for gemm: M r floats instead of
// M K. Why floats at 8 bits, too, and not x~ as codes: the branch is there for what codes of x~
// lose. Cost: r (K + N) multiply-adds per row, at f32 rate: 1.6 % of the layer's multiplications at
// rank 32 and 4096 x 4096 (measured overhead: bench/README.md), the same at 8 bits, where half the
// bytes are read. For one row (decode) the down-projection is part of the single preparation task.
#pragma once

#include <cstdint>
#include <type_traits>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/types.hpp"
#include "rrs/pack/low_rank.hpp"

RRS_FUNCTIONS_BEGIN

namespace detail {

template <class Element>
void run_low_rank(const GemmKernels& kernels, const LowRankArgs<Element>& a) noexcept {
  if constexpr (std::is_same_v<Element, f16>) {
    kernels.low_rank16(a);
  } else {
    kernels.low_rank8(a);
  }
}

// `a` has rows, x and out: the panels of 16 ranks, then the short one.
template <class Element>
void low_rank_down_panels(const GemmKernels& kernels, const LowRankView& b,
                          LowRankArgs<Element> a) noexcept {
  a.inputs = b.k;
  a.weights = static_cast<const Element*>(b.down);
  a.width = kPanelOutputs;
  const std::int64_t columns = low_rank_columns(b.rank);
  a.panels = static_cast<int>(columns / kPanelOutputs);
  if (a.panels > 0) run_low_rank(kernels, a);
  if (columns % kPanelOutputs == 0) return;
  const std::int64_t done = std::int64_t{a.panels} * kPanelOutputs;
  a.weights += done * b.k;
  a.out += done;
  a.width = 8;
  a.panels = 1;
  run_low_rank(kernels, a);
}

// use(LowRankArgs) of the branch's element type, empty.
template <class Use>
void with_low_rank_args(const LowRankView& b, const Use& use) noexcept {
  if (b.bits == 16) {
    use(LowRankArgs<f16>{});
  } else {
    use(LowRankArgs<std::int8_t>{});
  }
}

// u [rows][low_rank_columns(rank)] = x [rows][x_stride] L_B^T (times s at 8 bits).
inline void low_rank_down(const GemmKernels& kernels, const LowRankView& b, const float* x,
                          std::int64_t x_stride, int rows, float* u) noexcept {
  const std::int64_t columns = low_rank_columns(b.rank);
  with_low_rank_args(b, [&](auto a) {
    a.rows = rows;
    a.x = x;
    a.x_stride = x_stride;
    a.out = u;
    a.out_stride = columns;
    low_rank_down_panels(kernels, b, a);
  });
  if (b.bits == 16) return;
  for (int t = 0; t < rows; ++t) {
    for (std::int64_t j = 0; j < columns; ++j) u[t * columns + j] *= b.scales[j];
  }
}

// tile.out [rows][panels * 16] = token_scales * tile.out + u L_A^T for the panels from `panel` on;
// u [rows][low_rank_columns(rank)].
inline void low_rank_up(const GemmKernels& kernels, const LowRankView& b, const float* u,
                        const float* token_scales, std::int64_t panel,
                        const GemmTileArgs& tile) noexcept {
  with_low_rank_args(b, [&](auto a) {
    a.rows = tile.rows;
    a.panels = tile.panels;
    a.width = kPanelOutputs;
    a.inputs = b.rank;
    a.x = u;
    a.x_stride = low_rank_columns(b.rank);
    a.weights = static_cast<decltype(a.weights)>(b.up) + panel * kPanelOutputs * b.rank;
    a.start_scale = token_scales;
    a.out = tile.out;
    a.out_stride = std::int64_t{tile.panels} * kPanelOutputs;
    run_low_rank(kernels, a);
  });
}

}  // namespace detail

RRS_FUNCTIONS_END
