#include "prepare.hpp"

#include <stdexcept>
#include <utility>

#include "rrs/calibrate/smoothquant.hpp"
#include "rrs/core/hash.hpp"
#include "rrs/pipeline/weight.hpp"

namespace rrs_llm {
namespace {

[[noreturn]] void fail(const std::string& name, const rrs::Status& status) {
  throw std::runtime_error(name + ": " + status.message());
}

std::shared_ptr<const rrs::PreparedWeight> keep(const std::string& name,
                                                rrs::Result<rrs::PreparedWeight> made) {
  if (!made) fail(name, made.status());
  return std::make_shared<const rrs::PreparedWeight>(std::move(*made));
}

std::shared_ptr<const rrs::PreparedWeight> native_weight(const ModelSource& model,
                                                         const std::string& name,
                                                         const rrs::Scheme& scheme) {
  const std::optional<RawBlocks> blocks = model.raw_blocks(name);
  if (!blocks) {
    throw std::runtime_error(model.path() + ": tensor " + name + ": type " +
                             model.info(name)->type +
                             ": q4_0-native needs Q4_0 or Q4_1 (GGUF) in every linear");
  }
  const auto n = static_cast<std::int64_t>(blocks->rows);
  const auto k = static_cast<std::int64_t>(blocks->columns);
  return keep(name, blocks->type == GgufType::kQ4_0
                        ? rrs::weight_from_q4_0(blocks->data, n, k, scheme.activation)
                        : rrs::weight_from_q4_1(blocks->data, n, k, scheme.activation));
}

std::shared_ptr<const rrs::PreparedWeight> quantized_weight(const ModelSource& model,
                                                            const std::string& name,
                                                            const rrs::Scheme& scheme,
                                                            const std::vector<float>& divisor,
                                                            const ThreadPool& pool) {
  const TensorInfo info = *model.info(name);
  const std::vector<float> w = model.read(name);
  rrs::WeightOptions options;
  options.channels.divisor = divisor.empty() ? nullptr : divisor.data();
  const rrs::MatrixView<const float> view(w.data(), static_cast<std::int64_t>(info.rows),
                                          static_cast<std::int64_t>(info.columns));
  return keep(name, rrs::prepare_weight(view, scheme, options, pool));
}

std::string store_key(const std::string& name, const LinearPlan& plan,
                      const std::vector<float>& divisor) {
  const bool native = plan.kind == LinearKind::kNative;
  return name + "|" + (native ? "native" : describe_weight(plan.scheme)) + "|" +
         std::to_string(rrs::hash_bytes(divisor.data(), divisor.size() * sizeof(float)));
}

// The simulated preset has no packed form of its own: its weight is that of the same scheme, per
// token.
rrs::Scheme packable(rrs::Scheme scheme) {
  scheme.simulated = false;
  return scheme;
}

}  // namespace

std::shared_ptr<const rrs::PreparedWeight> WeightStore::find(const std::string& key) const {
  const auto at = weights_.find(key);
  return at == weights_.end() ? nullptr : at->second;
}

void WeightStore::put(const std::string& key, std::shared_ptr<const rrs::PreparedWeight> weight) {
  weights_[key] = std::move(weight);
}

Calibration calibrate(Engine* engine, const std::vector<TokenId>& tokens, std::size_t window,
                      const std::function<void(std::size_t, std::size_t)>& progress) {
  if (tokens.empty()) throw std::runtime_error("calibration: the text has no tokens");
  Calibration c;
  c.maxima.resize(engine->config().layers);
  engine->observe([&](std::size_t layer, std::size_t linear, const float* x, std::int64_t rows,
                      std::int64_t cols) {
    const rrs::Status status = rrs::update_channel_maxima(
        rrs::MatrixView<const float>(x, rows, cols), &c.maxima[layer][input_of(linear)]);
    if (!status) fail("calibration, " + linear_name(layer, linear), status);
  });
  for (std::size_t at = 0; at < tokens.size(); at += window) {
    const std::size_t end = (std::min)(at + window, tokens.size());
    Sequence sequence = engine->start();
    engine->forward(std::vector<TokenId>(tokens.begin() + static_cast<std::ptrdiff_t>(at),
                                         tokens.begin() + static_cast<std::ptrdiff_t>(end)),
                    &sequence);
    c.tokens += end - at;
    if (progress) progress(end, tokens.size());
  }
  engine->observe(nullptr);
  return c;
}

std::vector<float> input_divisor(const ModelSource& model, const Method& method, std::size_t layer,
                                 std::size_t input, const PrepareOptions& options) {
  if (!method.needs_calibration()) return {};
  if (options.calibration == nullptr) {
    throw std::runtime_error("method " + method.name + " needs a calibration text");
  }
  std::vector<float> weights;
  for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
    if (input_of(l) != input) continue;
    const std::string name = linear_name(layer, l);
    const TensorInfo info = *model.info(name);
    const std::vector<float> w = model.read(name);
    const rrs::Status status = rrs::update_channel_maxima(
        rrs::MatrixView<const float>(w.data(), static_cast<std::int64_t>(info.rows),
                                     static_cast<std::int64_t>(info.columns)),
        &weights);
    if (!status) fail(name, status);
  }
  rrs::Result<std::vector<float>> scales = rrs::smoothquant_scales(
      options.calibration->maxima[layer][input], weights, method.scheme.smoothquant_alpha);
  if (!scales) fail(linear_name(layer, input), scales.status());
  return std::move(*scales);
}

std::unique_ptr<Linear> prepare_linear(const ModelSource& model, const Method& method,
                                       std::size_t layer, std::size_t linear,
                                       const std::vector<float>& divisor,
                                       const PrepareOptions& options, const ThreadPool& pool) {
  const LinearPlan plan = method.plan(layer, linear);
  const std::string name = linear_name(layer, linear);
  if (plan.kind == LinearKind::kFloat) {
    const TensorInfo info = *model.info(name);
    return make_float_linear(name, model.read(name), static_cast<std::int64_t>(info.rows),
                             static_cast<std::int64_t>(info.columns));
  }
  const std::string key = store_key(name, plan, divisor);
  std::shared_ptr<const rrs::PreparedWeight> weight;
  if (options.store != nullptr) weight = options.store->find(key);
  if (weight == nullptr) {
    weight = plan.kind == LinearKind::kNative
                 ? native_weight(model, name, plan.scheme)
                 : quantized_weight(model, name, packable(plan.scheme), divisor, pool);
    if (options.store != nullptr) options.store->put(key, weight);
  }
  if (plan.kind == LinearKind::kSimulatedRs) return make_simulated_rs_linear(name, *weight);
  const rrs::WeightView view = *weight;
  rrs::Scheme scheme = plan.scheme;
  scheme.weight = view.scheme.weight;  // of native weights: as the file has them
  return make_rrs_linear(name, view, scheme, divisor, std::move(weight));
}

LinearStack prepare_linears(const ModelSource& model, const Method& method,
                            const PrepareOptions& options, const ThreadPool& pool) {
  const std::size_t layers = model.config().layers;
  LinearStack stack;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    std::array<std::vector<float>, kInputsPerLayer> divisors;
    for (std::size_t i = 0; i < kInputsPerLayer; ++i) {
      divisors[i] = input_divisor(model, method, layer, i, options);
    }
    LayerLinears linears;
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      linears[l] = prepare_linear(model, method, layer, l, divisors[input_of(l)], options, pool);
      if (options.progress) {
        options.progress(layer * kLinearsPerLayer + l + 1, layers * kLinearsPerLayer);
      }
    }
    stack.push_back(std::move(linears));
  }
  return stack;
}

}  // namespace rrs_llm
