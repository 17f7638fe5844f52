#pragma once
// The linears of a method, made from a model file: read, (divide, permute), rotate, quantize, pack.
//
// From: ModelSource, Method, Calibration (calibration.hpp); to: Engine, and the writer of quantized
// files. One tensor is in memory as f32 at a time. Methods whose weights agree (the activation side
// may differ) share them through a WeightStore.

#include <array>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "calibration.hpp"
#include "engine.hpp"
#include "method.hpp"
#include "model_source.hpp"
#include "quantized_stream.hpp"
#include "rrs/core/view.hpp"
#include "rrs/pipeline/weight_view.hpp"

RRS_TYPES_BEGIN
struct AserSmoothing;  // rrs/calibrate/aser.hpp, which needs Eigen: seconds for each file
struct HessianFactor;  // rrs/calibrate/hessian_factor.hpp, likewise
RRS_TYPES_END

namespace rrs_llm {

class WeightStore {
 public:
  std::shared_ptr<const rrs::PreparedWeight> find(const std::string& key) const;
  void put(const std::string& key, std::shared_ptr<const rrs::PreparedWeight> weight);

 private:
  std::map<std::string, std::shared_ptr<const rrs::PreparedWeight>> weights_;
};

struct PrepareOptions {
  const Calibration* calibration = nullptr;  // for methods that need one
  EngineFactory engine;                      // for GPTAQ, which runs the layers as it goes
  LayerSource float_layer;                   // for GPTAQ
  std::shared_ptr<const Prefix> prefix;      // for the writer of quantized files
  WeightStore* store = nullptr;
  std::function<void(std::size_t done, std::size_t all)> progress;
  // For the writer of quantized files: where finished linears are kept, so that a killed run can go
  // on; empty: nowhere. `resume`: take those that are there.
  std::string unfinished;
  bool resume = false;
  std::function<void(const std::string& line)> warn;  // damping that had to be raised
  std::function<void(const std::string& line)> note;  // alphas that were found
};

// Whether the norm before a linear does its division.
inline bool comes_divided(const LinearPlan& plan, std::size_t linear) noexcept {
  return plan.weight.fold && follows_norm(input_of(linear));
}

// Makes linears one by one; what linears of one input share is made once while they come in order.
class LinearMaker {
 public:
  // Throws when the method needs a calibration and options have none. All four must outlive it.
  LinearMaker(const ModelSource& model, const Method& method, const PrepareOptions& options,
              const ThreadPool& pool);
  ~LinearMaker();

  std::unique_ptr<Linear> make(std::size_t layer, std::size_t linear);
  // SmoothQuant's divisors and the zigzag permutation of a linear's input.
  const InputChannels& channels(std::size_t layer, std::size_t linear);
  // The Hessian of a linear's input in the basis in which its weight is quantized; and factored.
  const std::vector<double>& hessian(std::size_t layer, std::size_t linear);
  const rrs::HessianFactor& factor(std::size_t layer, std::size_t linear);

 private:
  struct Tensor {
    std::vector<float> values;
    rrs::MatrixView<const float> view;
  };
  Tensor read(const std::string& name) const;
  // W in its basis, [N][K].
  std::vector<float> in_basis(std::size_t layer, std::size_t linear, const Tensor& w,
                              const rrs::Scheme& scheme);
  // Means over the calibration tokens, and over all weights of an input: which channels stand out.
  rrs::AserSmoothing smoothing(std::size_t layer, std::size_t input, std::int64_t outliers) const;
  // With the low-rank branch that rebuilds what `base` lost of `w`.
  rrs::Result<rrs::PreparedWeight> reconstruct(std::size_t layer, std::size_t linear,
                                               const Tensor& w, const rrs::WeightView& base,
                                               const LinearPlan& plan);
  InputChannels make_channels(std::size_t layer, std::size_t linear, const LinearPlan& plan) const;
  std::vector<float> make_divisor(std::size_t layer, std::size_t input,
                                  const LinearPlan& plan) const;
  // With the alpha of least output error on the calibration's rows.
  std::vector<float> search_divisor(std::size_t layer, std::size_t input,
                                    const LinearPlan& plan) const;
  InputChannels running_channels(std::size_t layer, std::size_t linear, const LinearPlan& plan);
  std::shared_ptr<const rrs::PreparedWeight> pack(std::size_t layer, std::size_t linear,
                                                  const LinearPlan& plan);
  rrs::Result<rrs::PreparedWeight> solve(std::size_t layer, std::size_t linear, const Tensor& w,
                                         const rrs::Scheme& scheme, const WeightPlan& how);
  void use_stream(std::size_t layer, std::size_t linear, std::vector<double>* hessian);
  void tell_stream(std::size_t layer, std::size_t linear, const LinearPlan& plan,
                   const std::shared_ptr<const rrs::PreparedWeight>& weight);

  const ModelSource& model_;
  const Method& method_;
  const PrepareOptions& options_;
  const ThreadPool& pool_;
  std::string channels_key_;
  InputChannels channels_;
  std::vector<std::int32_t> outliers_;  // of channels_: kept out of the quantized weight
  std::string hessian_key_;
  std::vector<double> hessian_;
  std::string factor_key_;
  std::unique_ptr<rrs::HessianFactor> factor_;
  std::vector<double> correction_;           // GPTAQ's, beside the factor
  std::unique_ptr<QuantizedStream> stream_;  // GPTAQ's
  std::vector<double> difference_;
};

// Reads the float linears of a layer from the model, which must outlive it.
LayerSource float_layers(const ModelSource& model);

// One layer's linears, with the branches of those that share an input made known to each other.
LayerLinears assemble_layer(std::array<std::unique_ptr<Linear>, kLinearsPerLayer> made);

LinearStack prepare_linears(const ModelSource& model, const Method& method,
                            const PrepareOptions& options, const ThreadPool& pool);

}  // namespace rrs_llm
