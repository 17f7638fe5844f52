// The GEMM driver: loops over row tiles and weight panels, blocking for caches, tasks for threads.
// Written once, ISA-free; a tile leaf does all of K for rows x (panels * 16) outputs.
//
// from: pipeline/linear.hpp (validated, packed operands).  to: tile leaves, epilogue.hpp.
// Blocking. A task is a block of rows times a block of panels. Its weights
// (GemmBlocking::weight_block_bytes) stay in L2 while its row tiles pass; a row tile (max_rows x K
// bytes) stays in L2 while the panels of the block pass. Tasks are disjoint blocks of Y with one
// barrier at the end, and every output is computed by one tile in one order, so results do not
// depend on the executor or on the blocking. Cost: no allocation; stack: one tile of floats
// (kMaxTileOutputs) plus what the leaf states.
#pragma once

#include <algorithm>
#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/executor.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/gemm/epilogue.hpp"
#include "rrs/gemm/low_rank.hpp"
#include "rrs/pack/layout.hpp"

RRS_TYPES_BEGIN

// Upper bound of max_rows * max_panels * 16 for every kernel: 24 KB of stack.
inline constexpr int kMaxTileOutputs = 6144;

// Blocking as data, with the reason beside it.
struct GemmBlocking {
  // 1024 outputs of K = 4096 at 4 bits. Loading a row tile into L2 costs more than streaming
  // weights, which the leaves prefetch, so a tile stays for many panels (512 KB: 208 GMAC/s, 2 MB:
  // 221, 16 MB: 214; M = 512, Sapphire Rapids).
  std::int64_t weight_block_bytes = 2 << 20;
  // But at least this many tasks where the work allows it, for the caller's threads.
  std::int64_t min_tasks = 16;
  // Rows of a task: enough that loading its weight block is noise (below 0.5 byte per cycle), few
  // enough that M = 512 gives each of many threads several tasks.
  std::int64_t row_block = 128;
  // A task below this many multiply-accumulates is not worth handing to another thread (about 5
  // us).
  std::int64_t min_task_macs = 1 << 18;
};

// One packed problem. Packed activations of tile i start at first_row(i) * k_padded (elements), its
// code sums at first_row(i) * inner_groups, its scales at first_row(i) * activation_groups.
struct GemmProblem {
  RowTiles tiles;             // rows of a tile <= kernel.max_rows
  std::int64_t n = 0;         // outputs
  std::int64_t k_padded = 0;  // multiple of 8
  int inner_group = 32;       // 16..256, or kRowGroup
  std::int64_t inner_groups = 0;
  std::int64_t inner_per_weight = 1;  // 1 for float activations
  std::int64_t inner_per_activation = 1;
  const void* activations = nullptr;  // int8 codes, or float when float_activations
  bool float_activations = false;
  const std::int32_t* code_sums = nullptr;   // null when float_activations
  const float* activation_scales = nullptr;  // null when float_activations
  std::int64_t activation_groups = 0;
  const float* token_scales = nullptr;  // [rows], null: 1 (not with low_rank); NaN: a NaN row
  const std::uint8_t* weights = nullptr;
  std::int64_t panel_bytes = 0;
  const f16* weight_scales = nullptr;     // [panel][weight_groups][16]
  const float* weight_offsets = nullptr;  // the same shape, or null
  std::int64_t weight_groups = 0;
  LowRankView low_rank;               // rank 0: none
  const float* low_rank_u = nullptr;  // L_B x~ [rows][low_rank_columns(rank)]
  GemmOutput output;
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

// The task grid: task i is row block i % row_blocks of panel block i / row_blocks, so that tasks
// that run one after the other share their weights.
struct GemmGrid {
  std::int64_t tiles_per_block;
  std::int64_t panels_per_block;
  std::int64_t row_blocks;
  std::int64_t panel_blocks;
};

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) noexcept { return (a + b - 1) / b; }

inline GemmGrid make_gemm_grid(const GemmKernel& kernel, const GemmProblem& p,
                               const GemmBlocking& blocking) noexcept {
  GemmGrid grid{};
  const std::int64_t panels = panel_count(p.n);
  const std::int64_t rows_per_tile = (std::max)(std::int64_t{1}, p.tiles.base);
  grid.tiles_per_block = (std::max)(std::int64_t{1}, blocking.row_block / rows_per_tile);
  const std::int64_t block_rows =
      (std::min)(p.tiles.rows, grid.tiles_per_block * (p.tiles.base + 1));
  const std::int64_t by_cache =
      blocking.weight_block_bytes / (std::max)(std::int64_t{1}, p.panel_bytes);
  const std::int64_t macs_per_panel =
      (std::max)(std::int64_t{1}, block_rows * kPanelOutputs * p.k_padded);
  const std::int64_t by_work = ceil_div(blocking.min_task_macs, macs_per_panel);
  const std::int64_t blocks_of_rows = ceil_div(p.tiles.tiles, grid.tiles_per_block);
  const std::int64_t by_tasks = ceil_div(panels * blocks_of_rows, blocking.min_tasks);
  std::int64_t per_block = (std::max)((std::min)(by_cache, by_tasks), by_work);
  per_block =
      ceil_div((std::max)(std::int64_t{1}, per_block), kernel.max_panels) * kernel.max_panels;
  // Equal blocks: 17 panels become 9 + 8, not 16 + 1.
  const std::int64_t blocks = ceil_div(panels, per_block);
  per_block = ceil_div(ceil_div(panels, blocks), kernel.max_panels) * kernel.max_panels;
  grid.panels_per_block = per_block;
  grid.row_blocks = ceil_div(p.tiles.tiles, grid.tiles_per_block);
  grid.panel_blocks = ceil_div(panels, per_block);
  return grid;
}

inline GemmTileArgs tile_args(const GemmProblem& p, std::int64_t tile, std::int64_t panel,
                              int panels, float* out) noexcept {
  const std::int64_t first_row = p.tiles.first_row(tile);
  const std::int64_t panel_scales = p.weight_groups * kPanelOutputs;
  GemmTileArgs a{};
  a.rows = p.tiles.rows_in(tile);
  a.panels = panels;
  a.k_padded = p.k_padded;
  a.inner_group = p.inner_group;
  a.inner_groups = p.inner_groups;
  a.inner_per_weight = p.inner_per_weight;
  a.inner_per_activation = p.inner_per_activation;
  a.weights = p.weights + panel * p.panel_bytes;
  a.panel_bytes = p.panel_bytes;
  a.weight_scales = p.weight_scales + panel * panel_scales;
  a.weight_offsets =
      p.weight_offsets == nullptr ? nullptr : p.weight_offsets + panel * panel_scales;
  a.panel_scales = panel_scales;
  a.out = out;
  if (p.float_activations) {
    a.activations = static_cast<const float*>(p.activations) + first_row * p.k_padded;
    return a;
  }
  a.activations = static_cast<const std::int8_t*>(p.activations) + first_row * p.k_padded;
  a.code_sums = p.code_sums + first_row * p.inner_groups;
  a.activation_scales = p.activation_scales + first_row * p.activation_groups;
  return a;
}

// Y's lines on their way while the sums are computed: the rows lie row_stride apart, often a page
// and always in few cache sets, so that stores without this wait for memory (12 % of M = 512, N =
// 4096).
RRS_FORCE_INLINE void prefetch_output(const GemmOutput& out, std::int64_t row, int rows,
                                      std::int64_t first, int panels) noexcept {
#if defined(__GNUC__) || defined(__clang__)
  const std::int64_t size = out.type == ElementType::kF32 ? 4 : 2;
  const auto* y = static_cast<const char*>(out.y) + (row * out.row_stride + first) * size;
  const std::int64_t bytes = panels * kPanelOutputs * size;
  for (int r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(y + i, 1);
    y += out.row_stride * size;
  }
#endif
}

// One tile: sums, then its rows to Y.
inline void run_tile(const GemmKernels& kernels, const GemmKernel& kernel, const GemmProblem& p,
                     std::int64_t tile, std::int64_t panel, int panels) noexcept {
  alignas(64) float acc[kMaxTileOutputs];
  const GemmTileArgs a = tile_args(p, tile, panel, panels, acc);
  prefetch_output(p.output, p.tiles.first_row(tile), a.rows, panel * kPanelOutputs, panels);
  kernel.tile(a);
  const std::int64_t first_row = p.tiles.first_row(tile);
  const std::int64_t first = panel * kPanelOutputs;
  const std::int64_t count = (std::min)(std::int64_t{panels} * kPanelOutputs, p.n - first);
  const bool low_rank = p.low_rank.rank > 0;
  if (low_rank) {
    const std::int64_t stride = low_rank_columns(p.low_rank.rank);
    low_rank_up(kernels, p.low_rank, p.low_rank_u + first_row * stride, p.token_scales + first_row,
                panel, a);
  }
  for (int r = 0; r < a.rows; ++r) {
    const bool scaled = low_rank || p.token_scales == nullptr;
    const float token_scale = scaled ? 1.0f : p.token_scales[first_row + r];
    store_row(kernels, p.output, acc + r * panels * kPanelOutputs, first_row + r, first, count,
              token_scale);
  }
}

// Task body, copied by value into no one: it lives on the caller's stack until the executor
// returns.
struct GemmTask {
  const GemmKernels* kernels;
  const GemmKernel* kernel;
  const GemmProblem* problem;
  GemmGrid grid;

  RRS_MEMBER void operator()(std::int64_t index) const noexcept {
    const GemmProblem& p = *problem;
    const std::int64_t panels = panel_count(p.n);
    const std::int64_t first_tile = index % grid.row_blocks * grid.tiles_per_block;
    const std::int64_t last_tile = (std::min)(first_tile + grid.tiles_per_block, p.tiles.tiles);
    const std::int64_t first_panel = index / grid.row_blocks * grid.panels_per_block;
    const std::int64_t last_panel = (std::min)(first_panel + grid.panels_per_block, panels);
    for (std::int64_t tile = first_tile; tile < last_tile; ++tile) {
      for (std::int64_t panel = first_panel; panel < last_panel; panel += kernel->max_panels) {
        const auto count =
            static_cast<int>((std::min)(std::int64_t{kernel->max_panels}, last_panel - panel));
        run_tile(*kernels, *kernel, p, tile, panel, count);
      }
    }
  }
};

}  // namespace detail

// Runs the whole problem. `kernel` is one of table.gemm; problem.tiles were made with its max_rows.
template <class Executor>
void run_gemm(const KernelTable& table, const GemmKernel& kernel, const GemmProblem& problem,
              const Executor& executor, const GemmBlocking& blocking = GemmBlocking{}) noexcept {
  if (problem.tiles.rows <= 0 || problem.n <= 0) return;
  const detail::GemmGrid grid = detail::make_gemm_grid(kernel, problem, blocking);
  const detail::GemmTask task{&table.gemm, &kernel, &problem, grid};
  const std::int64_t tasks = grid.row_blocks * grid.panel_blocks;
  if (tasks == 1) {
    task(0);  // no executor call: small layers cost no hand-over
    return;
  }
  detail::run_tasks(executor, tasks, task);
}

RRS_FUNCTIONS_END
