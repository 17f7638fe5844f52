// Errors of a layer's output against the float64 product of the unquantized operands.
#pragma once

#include <cstdint>
#include <vector>

#include "layer_report/layers.hpp"

namespace layer_report {

// Relative errors; NaN where undefined (a reference of norm zero, or a non-finite output).
struct Errors {
  double median = 0.0;   // over tokens of ||dy|| / ||y||
  double all = 0.0;      // ||dY|| / ||Y||
  double victims = 0.0;  // the same without the spike row
  double worst = 0.0;    // largest ||dy|| / ||y||
};

// a . b in double; four chains, for their latency.
template <class T>
double dot_f64(const T* a, const T* b, std::int64_t k) {
  double sums[4] = {0.0, 0.0, 0.0, 0.0};
  std::int64_t i = 0;
  for (; i + 4 <= k; i += 4) {
    for (int j = 0; j < 4; ++j) {
      sums[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
    }
  }
  for (; i < k; ++i) sums[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Y[M,N] = X W^T, accumulated in double.
std::vector<double> float64_product(const Layer& layer);

// The first row that holds the largest |x|.
std::int64_t spike_row(const Matrix& input);

// y and reference are [m, n]. Tokens whose reference is zero have no relative error and do not
// enter the median and the worst; an even number of tokens has the mean of the middle two as
// median.
Errors measure_errors(const std::vector<float>& y, const std::vector<double>& reference,
                      std::int64_t m, std::int64_t n, std::int64_t spike);

// Mean of the middle two for even counts; NaN when empty or when a value is NaN.
double median(std::vector<double> values);

}  // namespace layer_report
