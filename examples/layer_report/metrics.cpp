#include "layer_report/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace layer_report {
namespace {

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();

double ratio(double squared_error, double squared_norm) {
  const double r = std::sqrt(squared_error / squared_norm);
  return std::isfinite(r) ? r : kUndefined;
}

}  // namespace

std::vector<double> float64_product(const Layer& layer) {
  const std::int64_t m = layer.m(), n = layer.n(), k = layer.k();
  std::vector<double> y(static_cast<std::size_t>(m * n));
  for (std::int64_t t = 0; t < m; ++t) {
    for (std::int64_t o = 0; o < n; ++o) {
      y[static_cast<std::size_t>(t * n + o)] = dot_f64(layer.input.row(t), layer.weight.row(o), k);
    }
  }
  return y;
}

std::int64_t spike_row(const Matrix& input) {
  std::int64_t spike = 0;
  float largest = -1.0f;
  for (std::int64_t t = 0; t < input.rows; ++t) {
    for (std::int64_t i = 0; i < input.cols; ++i) {
      const float magnitude = std::fabs(input.row(t)[i]);
      if (magnitude > largest) largest = magnitude, spike = t;
    }
  }
  return spike;
}

double median(std::vector<double> values) {
  if (values.empty()) return kUndefined;
  for (const double v : values) {
    if (std::isnan(v)) return kUndefined;
  }
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  if (values.size() % 2 != 0) return values[middle];
  return 0.5 * (values[middle - 1] + values[middle]);
}

Errors measure_errors(const std::vector<float>& y, const std::vector<double>& reference,
                      std::int64_t m, std::int64_t n, std::int64_t spike) {
  std::vector<double> tokens;
  double all_error = 0.0, all_norm = 0.0, victim_error = 0.0, victim_norm = 0.0;
  for (std::int64_t t = 0; t < m; ++t) {
    double error = 0.0, norm = 0.0;
    for (std::int64_t o = 0; o < n; ++o) {
      const auto i = static_cast<std::size_t>(t * n + o);
      const double d = static_cast<double>(y[i]) - reference[i];
      error += d * d;
      norm += reference[i] * reference[i];
    }
    all_error += error;
    all_norm += norm;
    if (t != spike) victim_error += error, victim_norm += norm;
    if (norm > 0.0) tokens.push_back(ratio(error, norm));
  }
  Errors errors;
  errors.median = median(tokens);
  errors.all = ratio(all_error, all_norm);
  errors.victims = ratio(victim_error, victim_norm);
  // max_element would pass over NaN; the median has already found it.
  errors.worst =
      std::isnan(errors.median) ? kUndefined : *std::max_element(tokens.begin(), tokens.end());
  return errors;
}

}  // namespace layer_report
