// Medians and their spread.
//
// A result is the median over rounds. Its spread is half of the distance between the quartiles,
// relative to the median: half of the rounds lie within about that much of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace rrs_bench {

struct Summary {
  double median = std::numeric_limits<double>::quiet_NaN();
  double spread = 0.0;  // relative
};

// Quantile q in [0, 1] of sorted values, linear between neighbours.
inline double quantile(const std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<std::size_t>(std::floor(at));
  const std::size_t high = std::min(low + 1, sorted.size() - 1);
  const double part = at - static_cast<double>(low);
  return sorted[low] + part * (sorted[high] - sorted[low]);
}

inline Summary summarize(std::vector<double> values) {
  Summary s;
  if (values.empty()) return s;
  std::sort(values.begin(), values.end());
  s.median = quantile(values, 0.5);
  s.spread = 0.5 * (quantile(values, 0.75) - quantile(values, 0.25)) / std::fabs(s.median);
  return s;
}

// Median of a[i] / b[i]: both were measured in round i, one right after the other, so that what
// slows the machine for a while slows both.
inline Summary summarize_ratio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) ratios.push_back(a[i] / b[i]);
  return summarize(ratios);
}

}  // namespace rrs_bench
