// The results: plain data between measure.hpp and the three outputs (table, json, svg).
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "layer_report/methods.hpp"
#include "layer_report/metrics.hpp"

namespace layer_report {

inline constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

// One method on one layer. NaN: undefined, or not timed.
struct Record {
  Method method;
  Errors errors;
  double bits_per_weight = kNotMeasured;
  double prepare_ms = kNotMeasured;
  double gemm_ms = kNotMeasured;
  std::string kernel;
};

// Per channel, over tokens: the largest and the median magnitude.
struct ChannelMagnitudes {
  std::vector<float> largest;
  std::vector<float> median;
};

struct LayerReport {
  std::string name;
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t spike = 0;   // the row left out of `victims`
  double spike_max = 0.0;   // its max|x|
  double median_max = 0.0;  // median over tokens of max|x|
  bool calibrated = false;  // SmoothQuant had calibration tokens of its own
  double float_ms = kNotMeasured;
  std::vector<Record> records;
  std::vector<std::string> notes;  // methods that do not exist for this shape, and why
  // For the scheme `rrs`; the last in steps of the code: within [-8, 7].
  ChannelMagnitudes before, rotated, smoothed;
};

struct Report {
  std::string file;
  std::string machine;        // CPU, level, compiler, threads
  std::string float_product;  // what the float baseline is
  int rounds = 0;
  std::vector<LayerReport> layers;
};

// Eigen's product / (prep + gemm); NaN when one was not timed.
inline double speed(const LayerReport& layer, const Record& record) {
  return layer.float_ms / (record.prepare_ms + record.gemm_ms);
}

}  // namespace layer_report
