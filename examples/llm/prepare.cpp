#include "prepare.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <utility>

#include "rrs/calibrate/aser.hpp"
#include "rrs/calibrate/gptq.hpp"
#include "rrs/calibrate/hessian_basis.hpp"
#include "rrs/calibrate/smoothquant.hpp"
#include "rrs/calibrate/smoothquant_search.hpp"
#include "rrs/calibrate/zigzag.hpp"
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
  if (!blocks || blocks->type == GgufType::kQ8_0) {
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

std::string channels_text(const InputChannels& c) {
  return std::to_string(rrs::hash_bytes(c.divisor.data(), c.divisor.size() * sizeof(float))) + "|" +
         std::to_string(
             rrs::hash_bytes(c.permutation.data(), c.permutation.size() * sizeof(std::int32_t)));
}

// All that a weight depends on. The calibration (which stands behind a prefix or not) where its
// statistics enter the weight itself; those of its input's channels are in `channels`.
std::string store_key(const std::string& name, const LinearPlan& plan,
                      const InputChannels& channels, const Calibration* calibration) {
  if (plan.kind == LinearKind::kNative) return name + "|native";
  const bool calibrated = plan.weight.solver != Solver::kRtn || plan.weight.aser.on();
  return name + "|" + describe_weight(plan.scheme) + describe(plan.weight) + "|" +
         channels_text(channels) +
         (calibrated ? "|" + std::to_string(calibration->identity) : std::string());
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

LinearMaker::LinearMaker(const ModelSource& model, const Method& method,
                         const PrepareOptions& options, const ThreadPool& pool)
    : model_(model), method_(method), options_(options), pool_(pool) {
  if (!method.needs_calibration()) return;
  if (options.calibration == nullptr) {
    throw std::runtime_error("method " + method.name + " needs a calibration text");
  }
  if (method.needs_hessians() && options.calibration->file == nullptr) {
    throw std::runtime_error("method " + method.name + " needs a calibration with Hessians");
  }
  if (method.needs_rows() && options.calibration->samples.empty()) {
    throw std::runtime_error("method " + method.name + " needs a calibration with rows");
  }
  if (options.calibration->layers.size() != model.config().layers) {
    throw std::runtime_error("calibration: has " +
                             std::to_string(options.calibration->layers.size()) +
                             " layers, the model " + std::to_string(model.config().layers));
  }
}

LinearMaker::~LinearMaker() = default;

LinearMaker::Tensor LinearMaker::read(const std::string& name) const {
  const TensorInfo info = *model_.info(name);
  Tensor t{model_.read(name), {}};
  t.view = rrs::MatrixView<const float>(t.values.data(), static_cast<std::int64_t>(info.rows),
                                        static_cast<std::int64_t>(info.columns));
  return t;
}

std::vector<float> LinearMaker::search_divisor(std::size_t layer, std::size_t input,
                                               const LinearPlan& plan) const {
  std::vector<Tensor> tensors;
  std::vector<rrs::MatrixView<const float>> weights;
  std::string names;
  for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
    if (input_of(l) != input) continue;
    names += (names.empty() ? "" : ", ") + linear_name(layer, l);
    tensors.push_back(read(linear_name(layer, l)));
    weights.push_back(tensors.back().view);
  }
  const std::vector<float>& rows = options_.calibration->samples[layer][input];
  const std::int64_t k = weights.front().cols;
  const rrs::MatrixView<const float> x(rows.data(), static_cast<std::int64_t>(rows.size()) / k, k);
  const rrs::Result<rrs::AlphaSearch> found =
      rrs::search_smoothquant_alpha(x, weights, options_.calibration->input(layer, input).maxima,
                                    packable(plan.scheme), {}, pool_);
  if (!found) fail(names + ": alpha", found.status());
  if (options_.note) {
    double error = found->errors.front();
    for (const double e : found->errors) error = (std::min)(error, e);
    char text[80];
    std::snprintf(text, sizeof text, ": alpha %.2f, relative output error %.4f",
                  static_cast<double>(found->alpha), std::sqrt(error / found->norm));
    options_.note(names + text);
  }
  return found->divisor;
}

std::vector<float> LinearMaker::make_divisor(std::size_t layer, std::size_t input,
                                             const LinearPlan& plan) const {
  if (plan.weight.alpha_search) return search_divisor(layer, input, plan);
  std::vector<float> weights;
  for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
    if (input_of(l) != input) continue;
    const std::string name = linear_name(layer, l);
    const rrs::Status status = rrs::update_channel_maxima(read(name).view, &weights);
    if (!status) fail(name, status);
  }
  rrs::Result<std::vector<float>> scales = rrs::smoothquant_scales(
      options_.calibration->input(layer, input).maxima, weights, plan.scheme.smoothquant_alpha);
  if (!scales) fail(linear_name(layer, input), scales.status());
  return std::move(*scales);
}

InputChannels LinearMaker::make_channels(std::size_t layer, std::size_t linear,
                                         const LinearPlan& plan) const {
  InputChannels c;
  const std::size_t input = input_of(linear);
  if (plan.scheme.smoothquant_alpha > 0.0f) c.divisor = make_divisor(layer, input, plan);
  const std::string name = linear_name(layer, linear);
  if (plan.weight.aser.smoothed() > 0 && !c.divisor.empty()) {
    throw std::runtime_error(name + ": ASER's smoothing does not go with SmoothQuant: outliers=0");
  }
  if (plan.weight.aser.smoothed() > 0) {
    c.divisor = smoothing(layer, input, plan.weight.aser.smoothed()).divisor;
  }
  if (plan.kind == LinearKind::kSimulatedRs && !c.divisor.empty()) {
    throw std::runtime_error(name + ": a simulated linear takes no divisor");
  }
  if (plan.weight.fold && c.divisor.empty()) {
    throw std::runtime_error(name + ": fold: there is no divisor to fold: alpha=A makes one");
  }
  if (!plan.weight.zigzag) return c;
  if (plan.scheme.rotation.kind != rrs::RotationKind::kBlock) {
    throw std::runtime_error(name +
                             ": zigzag deals channels to rotation blocks: it needs "
                             "rotation block:N");
  }
  rrs::Result<std::vector<std::int32_t>> p = rrs::zigzag_permutation(
      options_.calibration->input(layer, input).relative, plan.scheme.rotation.block);
  if (!p) fail(name + ": zigzag", p.status());
  c.permutation = std::move(*p);
  return c;
}

const InputChannels& LinearMaker::channels(std::size_t layer, std::size_t linear) {
  const LinearPlan plan = method_.plan(layer, linear);
  const std::string key = std::to_string(layer) + "|" + std::to_string(input_of(linear)) + "|" +
                          describe_weight(plan.scheme) + (plan.weight.zigzag ? "|zigzag" : "") +
                          "|" + std::to_string(plan.weight.aser.smoothed()) + "|" +
                          std::to_string(plan.scheme.smoothquant_alpha) +
                          (plan.weight.alpha_search ? describe(plan.scheme) : "");
  if (key != channels_key_) {
    channels_ = make_channels(layer, linear, plan);
    outliers_.clear();
    if (const int f = plan.weight.aser.smoothed(); f > 0) {
      outliers_ = smoothing(layer, input_of(linear), f).outliers;
    }
    channels_key_ = key;
  }
  return channels_;
}

// As the linear runs: what the norm before it divides by is only named.
InputChannels LinearMaker::running_channels(std::size_t layer, std::size_t linear,
                                            const LinearPlan& plan) {
  InputChannels c = channels(layer, linear);
  c.folded = comes_divided(plan, linear);
  return c;
}

rrs::AserSmoothing LinearMaker::smoothing(std::size_t layer, std::size_t input,
                                          std::int64_t outliers) const {
  const rrs::InputStatistics& x = options_.calibration->input(layer, input);
  const std::size_t k = x.sums.size();
  std::vector<double> mean_x(k), mean_w(k, 0.0);
  for (std::size_t j = 0; j < k; ++j) mean_x[j] = x.sums[j] / static_cast<double>(x.tokens);
  double rows = 0.0;
  for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
    if (input_of(l) != input) continue;
    const Tensor w = read(linear_name(layer, l));
    rows += static_cast<double>(w.view.rows);
    for (std::size_t i = 0; i < w.values.size(); ++i) {
      mean_w[i % k] += std::abs(static_cast<double>(w.values[i]));
    }
  }
  for (double& m : mean_w) m /= rows;
  rrs::Result<rrs::AserSmoothing> made = rrs::aser_smoothing(mean_x, mean_w, outliers);
  if (!made) fail("layer " + std::to_string(layer) + ": aser", made.status());
  return std::move(*made);
}

const std::vector<double>& LinearMaker::hessian(std::size_t layer, std::size_t linear) {
  const InputChannels& in = channels(layer, linear);
  if (hessian_key_ == channels_key_) return hessian_;
  const std::string name = linear_name(layer, linear);
  hessian_ = options_.calibration->hessian(layer, input_of(linear));
  const rrs::Status status = rrs::change_basis(
      packable(method_.plan(layer, linear).scheme), in.view(),
      static_cast<std::int64_t>(model_.info(name)->columns), true, &hessian_, pool_);
  if (!status) fail(name, status);
  hessian_key_ = channels_key_;
  return hessian_;
}

const rrs::HessianFactor& LinearMaker::factor(std::size_t layer, std::size_t linear) {
  const LinearPlan plan = method_.plan(layer, linear);
  const InputChannels& in = channels(layer, linear);
  const std::string key = channels_key_ + describe(plan.weight);
  if (key == factor_key_) return *factor_;
  const std::string name = linear_name(layer, linear);
  const auto k = static_cast<std::int64_t>(model_.info(name)->columns);
  const bool gptaq = plan.weight.solver == Solver::kGptaq;
  std::vector<double> h;
  if (gptaq) {
    use_stream(layer, linear, &h);
    const rrs::Status status =
        rrs::change_basis(packable(plan.scheme), in.view(), k, true, &h, pool_);
    if (!status) fail(name, status);
  } else {
    h = hessian(layer, linear);
  }
  rrs::HessianOptions options;
  options.damping = plan.weight.damping;
  options.act_order = plan.weight.act_order;
  rrs::Result<rrs::HessianFactor> made = rrs::factor_hessian(h, k, options);
  if (!made) fail(name, made.status());
  factor_ = std::make_unique<rrs::HessianFactor>(std::move(*made));
  factor_key_ = key;
  correction_.clear();
  if (gptaq) {
    if (const rrs::Status s =
            rrs::change_basis(packable(plan.scheme), in.view(), k, false, &difference_, pool_);
        !s) {
      fail(name, s);
    }
    rrs::Result<std::vector<double>> p =
        rrs::gptaq_correction(difference_, *factor_, rrs::kGptaqAlpha, pool_);
    if (!p) fail(name, p.status());
    correction_ = std::move(*p);
  }
  if (options_.warn && factor_->damping > plan.weight.damping) {
    options_.warn(name + ": damping raised to " + std::to_string(factor_->damping));
  }
  return *factor_;
}

// H of the quantized stream; D is left in difference_.
void LinearMaker::use_stream(std::size_t layer, std::size_t linear, std::vector<double>* hessian) {
  if (stream_ == nullptr) {
    if (!options_.engine) throw std::runtime_error("method " + method_.name + " needs an engine");
    stream_ =
        std::make_unique<QuantizedStream>(options_.engine, options_.float_layer,
                                          model_.config().layers, options_.calibration->windows);
  }
  StreamStatistics s = stream_->statistics(layer, input_of(linear));
  *hessian = std::move(s.hessian);
  difference_ = std::move(s.difference);
}

// What was made is what later inputs come from.
void LinearMaker::tell_stream(std::size_t layer, std::size_t linear, const LinearPlan& plan,
                              const std::shared_ptr<const rrs::PreparedWeight>& weight) {
  if (stream_ == nullptr) return;
  const std::string name = linear_name(layer, linear);
  if (plan.kind == LinearKind::kSimulatedRs) {
    return stream_->set_linear(layer, linear, make_simulated_rs_linear(name, *weight));
  }
  stream_->set_linear(
      layer, linear,
      make_rrs_linear(name, *weight, plan.scheme, running_channels(layer, linear, plan), weight));
}

std::vector<float> LinearMaker::in_basis(std::size_t layer, std::size_t linear, const Tensor& w,
                                         const rrs::Scheme& scheme) {
  rrs::WeightOptions options;
  options.channels = channels(layer, linear).view();
  std::vector<float> moved(w.values.size());
  const rrs::MatrixView<float> out(moved.data(), w.view.rows, w.view.cols);
  const rrs::Status status = rrs::transform_weight(w.view, scheme, out, options, pool_);
  if (!status) fail(linear_name(layer, linear), status);
  return moved;
}

// GPTQ: the weight in its basis, codes column by column, packed as they are.
rrs::Result<rrs::PreparedWeight> LinearMaker::solve(std::size_t layer, std::size_t linear,
                                                    const Tensor& w, const rrs::Scheme& scheme,
                                                    const WeightPlan& how) {
  const std::vector<float> moved = in_basis(layer, linear, w, scheme);
  const rrs::MatrixView<const float> view(moved.data(), w.view.rows, w.view.cols);
  const rrs::HessianFactor& found = factor(layer, linear);
  rrs::GptqOptions gptq;
  if (how.solver == Solver::kGptaq) gptq.correction = &correction_;
  const rrs::Result<rrs::GptqResult> solved = rrs::gptq(view, found, scheme.weight, gptq, pool_);
  if (!solved) return solved.status();
  const std::int64_t groups = rrs::group_count(w.view.cols, scheme.weight.group);
  return rrs::weight_from_quantized(
      rrs::MatrixView<const std::int8_t>(solved->codes.data(), w.view.rows, w.view.cols),
      rrs::MatrixView<const rrs::f16>(solved->scales.data(), w.view.rows, groups), scheme,
      rrs::channels_fingerprint(channels(layer, linear).view(), w.view.cols));
}

rrs::Result<rrs::PreparedWeight> LinearMaker::reconstruct(std::size_t layer, std::size_t linear,
                                                          const Tensor& w,
                                                          const rrs::WeightView& base,
                                                          const LinearPlan& plan) {
  const std::vector<float> moved = in_basis(layer, linear, w, packable(plan.scheme));
  rrs::AserOptions options;
  options.rank = plan.weight.aser.rank;
  options.share = plan.weight.aser.alpha;
  options.damping = plan.weight.damping;
  options.outliers = plan.weight.aser.smoothed();
  options.bits = plan.weight.aser.bits;
  rrs::Result<rrs::AserWeight> made =
      rrs::aser_weight(base, rrs::MatrixView<const float>(moved.data(), base.n, base.k),
                       hessian(layer, linear), options);
  if (!made) return made.status();
  if (options_.warn && made->factors.damping > options.damping) {
    options_.warn(linear_name(layer, linear) + ": ASER: damping raised to " +
                  std::to_string(made->factors.damping));
  }
  return std::move(made->weight);
}

std::shared_ptr<const rrs::PreparedWeight> LinearMaker::pack(std::size_t layer, std::size_t linear,
                                                             const LinearPlan& plan) {
  const std::string name = linear_name(layer, linear);
  if (plan.kind == LinearKind::kNative) return native_weight(model_, name, plan.scheme);
  const rrs::Scheme scheme = packable(plan.scheme);
  const Tensor w = read(name);
  rrs::WeightOptions options;
  options.channels = channels(layer, linear).view();
  Tensor rest = w;  // without the columns that only the branch holds
  rest.view.data = rest.values.data();
  for (std::size_t at = 0; at < rest.values.size(); at += static_cast<std::size_t>(w.view.cols)) {
    for (const std::int32_t j : outliers_) rest.values[at + static_cast<std::size_t>(j)] = 0.0f;
  }
  std::shared_ptr<const rrs::PreparedWeight> base =
      keep(name, plan.weight.solver == Solver::kRtn
                     ? rrs::prepare_weight(rest.view, scheme, options, pool_)
                     : solve(layer, linear, rest, scheme, plan.weight));
  if (!plan.weight.aser.on()) return base;
  return keep(name, reconstruct(layer, linear, w, *base, plan));
}

std::unique_ptr<Linear> LinearMaker::make(std::size_t layer, std::size_t linear) {
  const LinearPlan plan = method_.plan(layer, linear);
  const std::string name = linear_name(layer, linear);
  if (plan.kind == LinearKind::kFloat) {
    Tensor w = read(name);
    return make_float_linear(name, std::move(w.values), w.view.rows, w.view.cols);
  }
  const bool native = plan.kind == LinearKind::kNative;
  const InputChannels in = native ? InputChannels{} : running_channels(layer, linear, plan);
  const std::string key = store_key(name, plan, in, options_.calibration);
  // Not GPTAQ's: they depend on all linears before them, which the key does not name.
  WeightStore* store = plan.weight.solver == Solver::kGptaq ? nullptr : options_.store;
  std::shared_ptr<const rrs::PreparedWeight> weight;
  if (store != nullptr) weight = store->find(key);
  if (weight == nullptr) {
    weight = pack(layer, linear, plan);
    if (store != nullptr) store->put(key, weight);
  }
  tell_stream(layer, linear, plan, weight);
  if (plan.kind == LinearKind::kSimulatedRs) return make_simulated_rs_linear(name, *weight);
  const rrs::WeightView view = *weight;
  rrs::Scheme scheme = plan.scheme;
  scheme.weight = view.scheme.weight;  // of native weights: as the file has them
  return make_rrs_linear(name, view, scheme, in, std::move(weight));
}

LayerSource float_layers(const ModelSource& model) {
  return [&model](std::size_t layer) {
    LayerLinears linears;
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      const std::string name = linear_name(layer, l);
      const TensorInfo info = *model.info(name);
      linears[l] = make_float_linear(name, model.read(name), static_cast<std::int64_t>(info.rows),
                                     static_cast<std::int64_t>(info.columns));
      model.release_pages();
    }
    return linears;
  };
}

LayerLinears assemble_layer(std::array<std::unique_ptr<Linear>, kLinearsPerLayer> made) {
  LayerLinears layer;
  for (std::size_t input = 0; input < kInputsPerLayer; ++input) {
    std::vector<Linear*> siblings;
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      if (input_of(l) == input) siblings.push_back(made[l].get());
    }
    share_branches(siblings);
  }
  for (std::size_t l = 0; l < kLinearsPerLayer; ++l) layer[l] = std::move(made[l]);
  return layer;
}

LinearStack prepare_linears(const ModelSource& model, const Method& method,
                            const PrepareOptions& options, const ThreadPool& pool) {
  const std::size_t layers = model.config().layers;
  LinearMaker maker(model, method, options, pool);
  LinearStack stack;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    std::array<std::unique_ptr<Linear>, kLinearsPerLayer> made;
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      made[l] = maker.make(layer, l);
      if (options.progress) {
        options.progress(layer * kLinearsPerLayer + l + 1, layers * kLinearsPerLayer);
      }
    }
    stack.push_back(assemble_layer(std::move(made)));
  }
  return stack;
}

}  // namespace rrs_llm
