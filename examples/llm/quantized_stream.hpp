#pragma once
// The calibration windows a second time, through the layers as they are quantized: what GPTAQ
// needs.
//
//   H = X_q^T X_q,   D = (X_fp - X_q)^T X_q      [K][K], in the model's basis
//   X_fp: the float model's input of a linear, X_q: what its quantized predecessors make of it
// From: LinearMaker, in the order of the model: statistics of an input, then the linears that read
// it; to: gptaq_correction and factor_hessian. Products are summed in f32 over
// rrs::kGramTokens tokens, then in double, in one order for any number of threads.

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "calibration.hpp"
#include "engine.hpp"

namespace rrs_llm {

struct StreamStatistics {
  std::vector<double> hessian;
  std::vector<double> difference;
};

// An engine with those linears and a 16-bit cache.
using EngineFactory = std::function<std::unique_ptr<Engine>(LinearStack)>;

class QuantizedStream {
 public:
  // `float_layer` is asked for each layer once, in their order.
  QuantizedStream(EngineFactory factory, LayerSource float_layer, std::size_t layers,
                  const std::vector<std::vector<TokenId>>& windows);

  // Inputs are asked for in the order of the model; those in between are passed through.
  StreamStatistics statistics(std::size_t layer, std::size_t input);
  // The quantized linear at this place; what is never set stays float.
  void set_linear(std::size_t layer, std::size_t linear, std::shared_ptr<const Linear> with);

 private:
  void enter_layer(std::size_t layer);
  void leave_layer();

  Engine& quantized();

  EngineFactory factory_;
  LayerSource float_layer_;
  // As set; else float in this layer, none in others: one layer of float linears is in memory.
  LinearStack linears_;
  std::unique_ptr<Engine> fp_;
  std::unique_ptr<Engine> quantized_;  // null: to be made of linears_
  std::size_t layer_ = 0;
  std::int64_t rows_ = 0;
  std::vector<std::vector<float>> float_states_, quantized_states_;  // [window][rows * hidden]
  std::vector<std::array<std::vector<float>, kInputsPerLayer>> float_inputs_;  // of this layer
};

}  // namespace rrs_llm
