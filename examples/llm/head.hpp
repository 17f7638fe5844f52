#pragma once
// The output head: logits[t, o] = sum_k hidden[t, k] W[o, k], W f32 [vocabulary][hidden].
//
// From: the matrix of a model; to: panels of 16 outputs for float_kernels. A matrix that the file
// stores as Q8_0 is kept so, int8 codes with one scale per 32 inputs: scale * code is exact in f32
// (11 and 8 bits), so the logits are those of the f32 matrix, bit for bit, from 0.28 of its bytes.
// At one row that is nearly all of the head's time; many rows expand a few panels at a time.
// Order and bits: panel_product's. Thread safety: const members may run concurrently.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "float_kernels.hpp"
#include "model_source.hpp"

namespace rrs_llm {

class Head {
 public:
  Head() = default;
  // The matrix `name` of the model. Throws std::runtime_error where the model's file is bad.
  Head(const ModelSource& source, const std::string& name);

  bool empty() const noexcept { return panels_ == 0; }
  std::int64_t panels() const noexcept { return panels_; }
  std::int64_t bytes() const noexcept;

  // Outputs of panels [first, last) of `rows` rows [rows][hidden] into `y`, whose rows have
  // y_stride floats, at least 16 panels(). May throw std::bad_alloc.
  void product(const float* hidden, std::int64_t rows, std::int64_t first, std::int64_t last,
               float* y, std::int64_t y_stride) const;

 private:
  void read_floats(const ModelSource& source, const std::string& name);
  void read_q8(const RawBlocks& blocks);

  std::int64_t panels_ = 0;
  std::int64_t width_ = 0;
  std::vector<float> floats_;       // [panel][k][16], or
  std::vector<std::int8_t> codes_;  // [panel][k][16] and
  std::vector<float> scales_;       // [panel][k / 32][16]
};

}  // namespace rrs_llm
