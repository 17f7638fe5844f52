// Oracle of the smooth stage: plain loops in double over the rows themselves, no dispatch.
//
// from: tests and the accuracy programs.  to: comparison with smooth/smooth.hpp.
// RS as published is here too, since it has no integer GEMM: rs_dequantized() gives the activation
// that the published simulation multiplies with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "rrs/core/config.hpp"
#include "rrs/core/scheme.hpp"

RRS_FUNCTIONS_BEGIN

namespace reference {

// No NaN and no infinity among the K values.
inline bool finite_row(const float* x, std::int64_t k) {
  for (std::int64_t i = 0; i < k; ++i) {
    if (!std::isfinite(x[i])) return false;
  }
  return true;
}

// scales[g] = max(floor, max |x|) over the finite rows of x [m][k] and the inputs of group g; 0
// below 2^-100.
inline std::vector<double> window_scales(const float* x, std::int64_t m, std::int64_t k, int group,
                                         double floor) {
  const std::int64_t step = group == kRowGroup ? k : group;
  std::vector<double> scales(static_cast<std::size_t>(group_count(k, group)), floor);
  for (std::int64_t t = 0; t < m; ++t) {
    if (!finite_row(x + t * k, k)) continue;
    for (std::int64_t i = 0; i < k; ++i) {
      double& s = scales[static_cast<std::size_t>(i / step)];
      s = (std::max)(s, std::abs(static_cast<double>(x[t * k + i])));
    }
  }
  for (double& s : scales) s = s < 0x1p-100 ? 0.0 : s;
  return scales;
}

// Number of the window that row t lies in, by definition: sequence first, then rows within it.
inline std::vector<std::int64_t> window_of_rows(const Window& window, std::int64_t m,
                                                const std::vector<std::int64_t>& starts) {
  std::vector<std::int64_t> number(static_cast<std::size_t>(m), 0);
  std::int64_t in_sequence = 0;
  std::int64_t current = -1;
  for (std::int64_t t = 0; t < m; ++t) {
    const bool begins = t == 0 || std::count(starts.begin(), starts.end(), t) > 0;
    in_sequence = begins ? 0 : in_sequence + 1;
    const bool full = window.kind == WindowKind::kOne ||
                      (window.kind == WindowKind::kRows && in_sequence % window.rows == 0);
    if (begins || full) ++current;
    number[static_cast<std::size_t>(t)] = current;
  }
  return number;
}

// Channels by descending maximum, ties by index.
inline std::vector<std::int32_t> sorted_channels(const std::vector<float>& column_max) {
  std::vector<std::int32_t> order(column_max.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return column_max[static_cast<std::size_t>(a)] > column_max[static_cast<std::size_t>(b)];
  });
  return order;
}

// Steps 2 to 4 of the published RS / RRS on an (already rotated) x [m][k]: channel maxima over all
// rows, floored; with group > 1 sorted, block maxima, unsorted; x / s to `bits` per token,
// symmetric, clip 1; times s. group 1 is RS without groups. All rows must be finite.
inline std::vector<double> rs_dequantized(const float* x, std::int64_t m, std::int64_t k, int group,
                                          int bits, double floor = 1e-5) {
  std::vector<double> scale = window_scales(x, m, k, 1, floor);
  if (group > 1) {
    std::vector<std::int32_t> order(scale.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return scale[static_cast<std::size_t>(a)] > scale[static_cast<std::size_t>(b)];
    });
    const std::vector<double> unsorted = scale;
    for (std::size_t i = 0; i < order.size(); ++i) {
      const std::size_t head =
          i / static_cast<std::size_t>(group) * static_cast<std::size_t>(group);
      scale[static_cast<std::size_t>(order[i])] = unsorted[static_cast<std::size_t>(order[head])];
    }
  }
  const double qmax = static_cast<double>(max_code(bits));
  std::vector<double> out(static_cast<std::size_t>(m * k));
  for (std::int64_t t = 0; t < m; ++t) {
    double largest = 0.0;
    for (std::int64_t i = 0; i < k; ++i) {
      const double s = scale[static_cast<std::size_t>(i)];
      if (s > 0.0) largest = (std::max)(largest, std::abs(static_cast<double>(x[t * k + i])) / s);
    }
    const double a = largest / qmax;
    for (std::int64_t i = 0; i < k; ++i) {
      const double s = scale[static_cast<std::size_t>(i)];
      const double q =
          s * a > 0.0 ? std::nearbyint(static_cast<double>(x[t * k + i]) / (s * a)) : 0.0;
      const double clamped = (std::min)((std::max)(q, -qmax - 1.0), qmax);
      out[static_cast<std::size_t>(t * k + i)] = clamped * s * a;
    }
  }
  return out;
}

// Ungrouped RS, simulated: one scale per channel over the window.
inline std::vector<double> rs_ungrouped(const float* x, std::int64_t m, std::int64_t k,
                                        int bits = 4, double floor = 1e-5) {
  return rs_dequantized(x, m, k, 1, bits, floor);
}

}  // namespace reference

RRS_FUNCTIONS_END
