#pragma once
// The linears of a method, made from a model file: read, (divide), rotate, quantize, pack.
//
// From: ModelSource, Method, Calibration; to: Engine, and the writer of quantized files. One tensor
// is in memory as f32 at a time. Methods whose weights agree (the activation side may differ) share
// them through a WeightStore.

#include <array>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine.hpp"
#include "method.hpp"
#include "model_source.hpp"
#include "rrs/pipeline/weight_view.hpp"

namespace rrs_llm {

// Inputs of a layer's linears: q, k, v share the first, gate and up the third.
enum InputIndex { kInputQkv, kInputO, kInputGateUp, kInputDown };
inline constexpr std::size_t kInputsPerLayer = 4;
constexpr std::size_t input_of(std::size_t linear) noexcept {
  return linear <= kV    ? kInputQkv
         : linear == kO  ? kInputO
         : linear <= kUp ? kInputGateUp
                         : kInputDown;
}

// max |x| per input channel over the calibration tokens, of the float model.
struct Calibration {
  std::vector<std::array<std::vector<float>, kInputsPerLayer>> maxima;
  std::size_t tokens = 0;
};

// Runs the float model over windows of the tokens. `engine` is the fp one; its observer is
// replaced.
Calibration calibrate(Engine* engine, const std::vector<TokenId>& tokens, std::size_t window,
                      const std::function<void(std::size_t done, std::size_t all)>& progress);

class WeightStore {
 public:
  std::shared_ptr<const rrs::PreparedWeight> find(const std::string& key) const;
  void put(const std::string& key, std::shared_ptr<const rrs::PreparedWeight> weight);

 private:
  std::map<std::string, std::shared_ptr<const rrs::PreparedWeight>> weights_;
};

struct PrepareOptions {
  const Calibration* calibration = nullptr;  // for SmoothQuant
  WeightStore* store = nullptr;
  std::function<void(std::size_t done, std::size_t all)> progress;
};

// SmoothQuant's divisors of one input of one layer; empty when the method has none.
std::vector<float> input_divisor(const ModelSource& model, const Method& method, std::size_t layer,
                                 std::size_t input, const PrepareOptions& options);

std::unique_ptr<Linear> prepare_linear(const ModelSource& model, const Method& method,
                                       std::size_t layer, std::size_t linear,
                                       const std::vector<float>& divisor,
                                       const PrepareOptions& options, const ThreadPool& pool);

LinearStack prepare_linears(const ModelSource& model, const Method& method,
                            const PrepareOptions& options, const ThreadPool& pool);

}  // namespace rrs_llm
