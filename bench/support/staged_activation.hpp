// The activation lane in separate stages, with a clock between them.
//
// Calls the same functions in the same order as pipeline/activation.hpp does without its fused
// path, on one thread, and adds up the time of each stage. It looks inside the library
// (rrs::detail, rrs::internal), since the public surface has no call per stage on purpose.
#pragma once

#include <cstdint>

#include "rrs/rrs.hpp"
#include "support/checked.hpp"
#include "support/clock.hpp"
#include "support/layer.hpp"

namespace rrs_bench {

// Time stamp counter: a clock that costs about 20 cycles.
inline std::uint64_t read_ticks() noexcept { return __builtin_ia32_rdtsc(); }

// Measured once, over 50 ms of wall time.
inline double ticks_per_second() {
  static const double rate = [] {
    const double start = now().wall;
    const std::uint64_t first = read_ticks();
    while (now().wall - start < 0.05) {
    }
    return static_cast<double>(read_ticks() - first) / (now().wall - start);
  }();
  return rate;
}

struct StageTicks {
  std::uint64_t rotate = 0;    // load, convert, rotate
  std::uint64_t quantize = 0;  // extremes, scales, codes, sums
  std::uint64_t pack = 0;      // tiles of codes, scales and sums
  std::uint64_t gemm = 0;
};

namespace detail {

// Adds what has passed since the last call.
class StageClock {
 public:
  StageClock() : last_(read_ticks()) {}
  void add_to(std::uint64_t* stage) {
    const std::uint64_t t = read_ticks();
    *stage += t - last_;
    last_ = t;
  }

 private:
  std::uint64_t last_;
};

inline bool quantize_rotated_row(const rrs::internal::ActivationJob& job,
                                 const rrs::internal::ActivationSlot& slot, std::int64_t t,
                                 int row_in_tile) {
  rrs::QuantizeRowArgs args = rrs::detail::quantize_args(job, slot, row_in_tile);
  args.x = slot.row;
  args.extremes = rrs::detail::row_extremes(job, slot, slot.row);
  return rrs::quantize_row(job.table->quantize, args, &job.token_scales[t]);
}

// A wide window was rotated and measured before; the other kinds do everything here.
inline void stage_row(const rrs::internal::ActivationJob& job,
                      const rrs::internal::ActivationSlot& slot, std::int64_t t, int row_in_tile,
                      StageClock* clock, StageTicks* ticks) {
  bool finite = true;
  if (job.wide) {
    finite = rrs::detail::quantize_window_row(job, slot, t, row_in_tile);
    clock->add_to(&ticks->quantize);
  } else if (job.out->is_float()) {
    finite = rrs::detail::float_row(job, slot, t, row_in_tile);
    clock->add_to(&ticks->rotate);
  } else {
    rrs::detail::load_rotated_row(job, slot, t, slot.row);
    clock->add_to(&ticks->rotate);
    finite = quantize_rotated_row(job, slot, t, row_in_tile);
    clock->add_to(&ticks->quantize);
  }
  if (!finite) stop("non-finite row");
}

inline StageTicks stage_rows(const rrs::internal::ActivationJob& job) {
  StageTicks ticks;
  StageClock clock;
  const rrs::internal::ActivationSlot slot = rrs::detail::slot_at(job, 0);
  for (std::int64_t t = 0; job.wide && t < job.x.rows; ++t) {
    rrs::detail::rotate_window_row(job, slot, t);
    clock.add_to(&ticks.rotate);
    rrs::detail::measure_window_row(job, t);
    clock.add_to(&ticks.quantize);
  }
  if (job.wide) rrs::detail::scale_windows(job);
  const int max_rows = rrs::select_gemm_kernel(*job.table, *job.scheme).max_rows;
  const rrs::RowTiles tiles = rrs::make_row_tiles(job.x.rows, max_rows);
  for (std::int64_t i = 0; i < tiles.tiles; ++i) {
    const int rows = tiles.rows_in(i);
    clock.add_to(&ticks.quantize);
    for (int r = 0; r < rows; ++r) {
      stage_row(job, slot, tiles.first_row(i) + r, r, &clock, &ticks);
    }
    rrs::detail::pack_tile(job, slot, tiles.first_row(i), rows);
    clock.add_to(&ticks.pack);
  }
  return ticks;
}

}  // namespace detail

// Prepares X into the workspace of `layer`, whose activation must have been prepared before.
inline StageTicks run_staged_activation(Layer& layer, const float* x) {
  const rrs::PreparedActivation& prepared = layer.activation();
  rrs::PreparedActivation out = prepared;
  rrs::ActivationOptions options;
  rrs::internal::ActivationJob job;
  job.table = prepared.table;
  job.scheme = &layer.scheme();
  job.options = &options;
  job.x = rrs::erase(rrs::MatrixView<const float>(x, prepared.m, prepared.k));
  job.rotation = rrs::plan_rotation(job.scheme->rotation, prepared.k);
  job.plan = rrs::detail::plan_workspace(prepared.m, prepared.k, 0, *job.scheme, job.rotation);
  job.memory = layer.workspace().data();
  rrs::build_rotation_tables(&job.rotation, job.at<std::byte>(job.plan.tables));
  job.out = &out;
  job.wide = rrs::detail::is_wide(*job.scheme);
  job.token_scales = job.at<float>(job.plan.token_scales);
  return detail::stage_rows(job);
}

}  // namespace rrs_bench
