#include "quantized_stream.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "rrs/calibrate/allocating_tasks.hpp"
#include "rrs/calibrate/statistics.hpp"

namespace rrs_llm {
namespace {

struct StopLayer {};  // leaves a layer behind the input that was asked for

using RowMajorF32 = rrs::detail::RowMajorF32;
using RowMajorF64 = rrs::detail::RowMajorF64;

// d += (a - b)^T b in tiles of columns; one task writes one tile.
void add_difference(const std::vector<float>& a, const float* b, std::int64_t rows, std::int64_t k,
                    std::vector<double>* d, const ThreadPool& pool) {
  if (d->empty()) d->assign(static_cast<std::size_t>(k * k), 0.0);
  const std::int64_t tiles = (k + rrs::kGramTile - 1) / rrs::kGramTile;
  const Eigen::Map<const RowMajorF32> fp(a.data(), rows, k), q(b, rows, k);
  const RowMajorF32 difference = fp - q;
  Eigen::Map<RowMajorF64> sum(d->data(), k, k);
  const auto add_tile = [&](std::int64_t task) {
    const std::int64_t i = task / tiles * rrs::kGramTile, j = task % tiles * rrs::kGramTile;
    const std::int64_t m = (std::min)(k - i, rrs::kGramTile);
    const std::int64_t n = (std::min)(k - j, rrs::kGramTile);
    RowMajorF32 product(m, n);
    for (std::int64_t t = 0; t < rows; t += rrs::kGramTokens) {
      const std::int64_t count = (std::min)(rows - t, rrs::kGramTokens);
      product.noalias() = difference.block(t, i, count, m).transpose() * q.block(t, j, count, n);
      sum.block(i, j, m, n) += product.cast<double>();
    }
  };
  const rrs::Status status = rrs::detail::run_allocating_tasks(pool, tiles * tiles, add_tile);
  if (!status) throw std::runtime_error("GPTAQ: " + status.message());
}

}  // namespace

QuantizedStream::QuantizedStream(EngineFactory factory, LayerSource float_layer, std::size_t layers,
                                 const std::vector<std::vector<TokenId>>& windows)
    : factory_(std::move(factory)),
      float_layer_(std::move(float_layer)),
      linears_(layers),
      fp_(factory_(linears_)) {
  if (windows.empty()) throw std::runtime_error("GPTAQ: there are no calibration windows");
  rows_ = static_cast<std::int64_t>(windows.front().size());
  for (const std::vector<TokenId>& w : windows) {
    float_states_.emplace_back(w.size() * fp_->config().hidden);
    fp_->embed_tokens(w, float_states_.back().data());
  }
  quantized_states_ = float_states_;
  enter_layer(0);
}

Engine& QuantizedStream::quantized() {
  if (quantized_ == nullptr) quantized_ = factory_(linears_);
  return *quantized_;
}

// The float model's inputs of the layer; its states move behind it.
void QuantizedStream::enter_layer(std::size_t layer) {
  layer_ = layer;
  const LayerLinears floats = float_layer_(layer);
  for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
    fp_->set_linear(layer, l, floats[l]);
    if (linears_[layer][l] == nullptr) linears_[layer][l] = floats[l];
  }
  quantized_.reset();
  float_inputs_.resize(float_states_.size());
  for (std::size_t w = 0; w < float_states_.size(); ++w) {
    fp_->observe(
        [&](std::size_t, std::size_t linear, const float* x, std::int64_t rows, std::int64_t cols) {
          float_inputs_[w][input_of(linear)].assign(x, x + rows * cols);
        });
    fp_->run_layer(layer, rows_, float_states_[w].data());
  }
  fp_->observe(nullptr);
  for (std::size_t l = 0; l < kLinearsPerLayer; ++l) fp_->set_linear(layer, l, nullptr);
}

void QuantizedStream::leave_layer() {
  for (std::vector<float>& states : quantized_states_) {
    quantized().run_layer(layer_, rows_, states.data());
  }
  linears_[layer_] = {};
  quantized_.reset();
}

StreamStatistics QuantizedStream::statistics(std::size_t layer, std::size_t input) {
  if (layer < layer_) throw std::runtime_error("GPTAQ: layers are asked for in their order");
  while (layer > layer_) {
    leave_layer();
    enter_layer(layer_ + 1);
  }
  StreamStatistics s;
  rrs::InputStatistics seen;
  std::vector<float> states;
  Engine& engine = quantized();
  for (std::size_t w = 0; w < quantized_states_.size(); ++w) {
    engine.observe(
        [&](std::size_t, std::size_t linear, const float* x, std::int64_t rows, std::int64_t cols) {
          if (input_of(linear) != input) return;
          const rrs::Status status = rrs::update_statistics(
              rrs::MatrixView<const float>(x, rows, cols), true, &seen, engine.pool());
          if (!status) {
            throw std::runtime_error(linear_name(layer, linear) + ": GPTAQ: " + status.message());
          }
          add_difference(float_inputs_[w][input], x, rows, cols, &s.difference, engine.pool());
          throw StopLayer{};
        });
    states = quantized_states_[w];
    try {
      engine.run_layer(layer, rows_, states.data());
    } catch (const StopLayer&) {
    }
  }
  engine.observe(nullptr);
  s.hessian = std::move(seen.hessian);
  return s;
}

void QuantizedStream::set_linear(std::size_t layer, std::size_t linear,
                                 std::shared_ptr<const Linear> with) {
  linears_[layer][linear] = std::move(with);
  quantized_.reset();
}

}  // namespace rrs_llm
