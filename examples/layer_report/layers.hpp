// Loading: a safetensors file -> layers with checked shapes and finite values.
//
// from: support/safetensors.hpp.  to: measure.hpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace layer_report {

// Row-major f32.
struct Matrix {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<float> values;

  const float* row(std::int64_t i) const { return values.data() + i * cols; }
};

struct Layer {
  std::string name;
  Matrix weight;       // [N, K]
  Matrix input;        // [M, K]
  Matrix calibration;  // [C, K]; no rows when the file has none

  std::int64_t m() const { return input.rows; }
  std::int64_t n() const { return weight.rows; }
  std::int64_t k() const { return weight.cols; }
};

// All layers, in file order. Throws UserError naming the file, the tensor, the value and the limit.
std::vector<Layer> load_layers(const std::string& path);

}  // namespace layer_report
