#include "engine.hpp"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <utility>

#include "float_kernels.hpp"
#include "rrs/calibrate/smoothquant.hpp"

namespace rrs_llm {
namespace {

class Stopwatch {
 public:
  explicit Stopwatch(double* sum) : sum_(sum) {}
  ~Stopwatch() {
    *sum_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double* sum_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

std::int64_t size_of(std::size_t n) noexcept { return static_cast<std::int64_t>(n); }

}  // namespace

std::string linear_name(std::size_t layer, std::size_t linear) {
  return "blk." + std::to_string(layer) + "." + kLinearNames[linear];
}

ModelParts::ModelParts(const ModelSource& model, bool with_head)
    : source(model), config(model.config()) {
  for (std::size_t i = 0; i < config.layers; ++i) {
    const std::string prefix = "blk." + std::to_string(i) + ".";
    Layer layer;
    layer.attn_norm = source.read(prefix + "attn_norm");
    layer.ffn_norm = source.read(prefix + "ffn_norm");
    if (config.qk_norm) {
      layer.q_norm = source.read(prefix + "attn_q_norm");
      layer.k_norm = source.read(prefix + "attn_k_norm");
    }
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      const bool has = l <= kV ? config.qkv_bias : (l == kO && config.output_bias);
      if (has) layer.bias[l] = source.read(linear_name(i, l) + ".bias");
    }
    layers.push_back(std::move(layer));
  }
  output_norm = source.read("output_norm");
  if (with_head) head = Head(source, config.tied_head ? "token_embd" : "output");
}

std::int64_t Sequence::kv_bytes() const noexcept {
  std::int64_t bytes = 0;
  for (const auto& store : stores_) bytes += store->bytes();
  return bytes;
}

Engine::Engine(std::shared_ptr<const ModelParts> parts, LinearStack linears, StoreFactory stores,
               const ThreadPool& pool)
    : parts_(std::move(parts)),
      linears_(std::move(linears)),
      stores_(std::move(stores)),
      pool_(pool),
      rope_(parts_->config) {
  if (linears_.size() != parts_->config.layers) {
    throw std::runtime_error("linears: there are " + std::to_string(linears_.size()) +
                             " layers of them, not " + std::to_string(parts_->config.layers));
  }
  norms_.resize(linears_.size());
  reset_runs();
}

const Linear& Engine::linear_at(std::size_t layer, std::size_t linear) const {
  const Linear* found = linears_[layer][linear].get();
  if (found == nullptr) {
    throw std::runtime_error(linear_name(layer, linear) + ": the engine has no such linear now");
  }
  return *found;
}

const std::vector<float>& Engine::gain_before(std::size_t layer, std::size_t first_linear,
                                              std::size_t last_linear,
                                              const std::vector<float>& gain,
                                              std::vector<float>* folded) const {
  const auto divisor = [&](std::size_t l) -> const std::vector<float>* {
    const InputChannels* c = linear_at(layer, l).channels();
    return c != nullptr && c->folded ? &c->divisor : nullptr;
  };
  const std::vector<float>* first = divisor(first_linear);
  for (std::size_t l = first_linear + 1; l <= last_linear; ++l) {
    const std::vector<float>* other = divisor(l);
    if ((first == nullptr) == (other == nullptr) && (first == nullptr || *first == *other))
      continue;
    throw std::runtime_error(linear_name(layer, l) + ": leaves another divisor to the norm than " +
                             linear_name(layer, first_linear) + ", whose input it shares");
  }
  if (first == nullptr) return gain;
  rrs::Result<std::vector<float>> made = rrs::fold_into_norm(gain, *first);
  if (!made)
    throw std::runtime_error(linear_name(layer, first_linear) + ": " + made.status().message());
  *folded = std::move(*made);
  return *folded;
}

void Engine::fold_norms(std::size_t layer) {
  FoldedNorms& n = norms_[layer];
  if (n.known) return;
  const ModelParts::Layer& parts = parts_->layers[layer];
  n.attn = &gain_before(layer, kQ, kV, parts.attn_norm, &n.of_attn);
  n.ffn = &gain_before(layer, kGate, kUp, parts.ffn_norm, &n.of_ffn);
  n.known = true;
}

void Engine::set_prefix(std::shared_ptr<const Prefix> prefix) {
  std::vector<std::unique_ptr<KvStore>> stores;
  if (prefix != nullptr) {
    check_prefix(*prefix, config());
    const AttentionShape shape(config());
    const std::int64_t tokens = size_of(prefix->tokens.size());
    for (const Prefix::Layer& layer : prefix->layers) {
      stores.push_back(stores_(shape));
      stores.back()->append_exact(layer.k.data(), layer.v.data(), tokens);
    }
  }
  prefix_ = std::move(prefix);
  prefix_stores_ = std::move(stores);
}

Sequence Engine::start() const {
  Sequence sequence;
  const AttentionShape shape(config());
  for (std::size_t i = 0; i < config().layers; ++i) {
    sequence.stores_.push_back(prefix_ == nullptr ? stores_(shape) : prefix_stores_[i]->fork());
  }
  if (prefix_ != nullptr) sequence.length_ = size_of(prefix_->tokens.size());
  return sequence;
}

std::int64_t Engine::logits_stride() const noexcept { return padded16(size_of(config().vocab)); }

std::string LinearRuns::kernel() const {
  std::string all;
  for (const std::string& name : kernels) all += (all.empty() ? "" : ", ") + name;
  return all;
}

void Engine::embed(const std::vector<TokenId>& tokens) {
  const std::size_t hidden = config().hidden;
  b_.x.resize(tokens.size() * hidden);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    if (tokens[t] < 0 || static_cast<std::size_t>(tokens[t]) >= config().vocab) {
      throw std::runtime_error("token " + std::to_string(tokens[t]) + " is not below " +
                               std::to_string(config().vocab));
    }
    parts_->source.read_rows("token_embd", static_cast<std::size_t>(tokens[t]), 1,
                             b_.x.data() + t * hidden);
  }
}

void Engine::norm_rows(const float* x, const std::vector<float>& gain, std::int64_t rows,
                       float* y) const {
  const FloatKernels& kernels = float_kernels();
  const std::int64_t n = size_of(gain.size());
  const auto epsilon = static_cast<float>(config().rms_epsilon);
  const Ranges ranges = split(rows, 16, pool_.threads());
  pool_(ranges.tasks, [&](std::int64_t task) noexcept {
    for (std::int64_t t = ranges.first(task); t < ranges.last(task); ++t) {
      kernels.rms_norm(x + t * n, gain.data(), n, epsilon, y + t * n);
    }
  });
}

void Engine::set_input(std::size_t layer, std::size_t linear, const float* x, std::int64_t cols) {
  if (observer_) observer_(layer, linear, x, rows_, cols);
  input_.set(x, rows_, cols);
}

void Engine::apply(std::size_t layer, std::size_t linear, float* y, bool accumulate) {
  const Stopwatch watch(&times_.linears);
  const std::vector<float>& bias = parts_->layers[layer].bias[linear];
  const ModelConfig& c = config();
  const std::size_t widths[kLinearsPerLayer] = {c.heads * c.head_size,
                                                c.kv_heads * c.head_size,
                                                c.kv_heads * c.head_size,
                                                c.hidden,
                                                c.ffn,
                                                c.ffn,
                                                c.hidden};
  LinearOutput out;
  out.y = y;
  out.stride = size_of(widths[linear]);
  out.bias = bias.empty() ? nullptr : bias.data();
  out.accumulate = accumulate;
  const char* kernel = linear_at(layer, linear).apply(input_, out, pool_);
  LinearRuns& runs = runs_[layer][linear];
  ++runs.calls;
  runs.rows += rows_;
  // Copies: a linear that is replaced takes its kernel's name with it.
  const auto& seen = runs.kernels;
  if (std::find(seen.begin(), seen.end(), kernel) == seen.end()) runs.kernels.push_back(kernel);
}

void Engine::position_heads(std::size_t layer, std::int64_t position) {
  const FloatKernels& kernels = float_kernels();
  const ModelParts::Layer& parts = parts_->layers[layer];
  const std::int64_t size = size_of(config().head_size);
  const auto epsilon = static_cast<float>(config().rms_epsilon);
  const auto one = [&](float* row, std::int64_t heads, const std::vector<float>& gain,
                       std::int64_t at) {
    for (std::int64_t h = 0; !gain.empty() && h < heads; ++h) {
      kernels.rms_norm(row + h * size, gain.data(), size, epsilon, row + h * size);
    }
    rope_.apply(row, heads, at);
  };
  const std::int64_t heads = size_of(config().heads), kv_heads = size_of(config().kv_heads);
  const Ranges ranges = split(rows_, 16, pool_.threads());
  pool_(ranges.tasks, [&](std::int64_t task) noexcept {
    for (std::int64_t t = ranges.first(task); t < ranges.last(task); ++t) {
      one(b_.q.data() + t * heads * size, heads, parts.q_norm, position + t);
      one(b_.k.data() + t * kv_heads * size, kv_heads, parts.k_norm, position + t);
    }
  });
}

void Engine::attention_block(std::size_t layer, KvStore* store, std::int64_t position) {
  const ModelConfig& c = config();
  fold_norms(layer);
  norm_rows(b_.x.data(), *norms_[layer].attn, rows_, b_.normed.data());
  set_input(layer, kQ, b_.normed.data(), size_of(c.hidden));
  apply(layer, kQ, b_.q.data(), false);
  apply(layer, kK, b_.k.data(), false);
  apply(layer, kV, b_.v.data(), false);
  {
    const Stopwatch watch(&times_.attention);
    position_heads(layer, position);
    if (kv_observer_) kv_observer_(layer, b_.k.data(), b_.v.data(), rows_);
    store->append(b_.k.data(), b_.v.data(), rows_);
    store->attend(b_.q.data(), rows_, b_.mixed.data(), pool_);
  }
  set_input(layer, kO, b_.mixed.data(), size_of(c.heads * c.head_size));
  apply(layer, kO, b_.x.data(), true);
}

void Engine::ffn_block(std::size_t layer) {
  const ModelConfig& c = config();
  norm_rows(b_.x.data(), *norms_[layer].ffn, rows_, b_.normed.data());
  set_input(layer, kGate, b_.normed.data(), size_of(c.hidden));
  apply(layer, kGate, b_.gate.data(), false);
  apply(layer, kUp, b_.up.data(), false);
  const FloatKernels& kernels = float_kernels();
  const std::int64_t ffn = size_of(c.ffn);
  const Ranges ranges = split(rows_, 4, pool_.threads());
  pool_(ranges.tasks, [&](std::int64_t task) noexcept {
    for (std::int64_t t = ranges.first(task); t < ranges.last(task); ++t) {
      kernels.silu_product(b_.gate.data() + t * ffn, b_.up.data() + t * ffn, ffn);
    }
  });
  set_input(layer, kDown, b_.gate.data(), ffn);
  apply(layer, kDown, b_.x.data(), true);
}

void Engine::reserve_rows(std::size_t rows) {
  const ModelConfig& c = config();
  rows_ = size_of(rows);
  b_.x.resize(rows * c.hidden);
  b_.normed.resize(rows * c.hidden);
  b_.q.resize(rows * c.heads * c.head_size);
  b_.mixed.resize(rows * c.heads * c.head_size);
  b_.k.resize(rows * c.kv_heads * c.head_size);
  b_.v.resize(rows * c.kv_heads * c.head_size);
  b_.gate.resize(rows * c.ffn);
  b_.up.resize(rows * c.ffn);
}

void Engine::embed_tokens(const std::vector<TokenId>& tokens, float* x) {
  embed(tokens);
  std::copy(b_.x.begin(), b_.x.end(), x);
}

void Engine::run_layer(std::size_t layer, std::int64_t rows, float* x) {
  Sequence sequence = start();
  rope_.reserve(sequence.length_ + rows);
  reserve_rows(static_cast<std::size_t>(rows));
  std::copy(x, x + b_.x.size(), b_.x.begin());
  attention_block(layer, sequence.stores_[layer].get(), sequence.length_);
  ffn_block(layer);
  std::copy(b_.x.begin(), b_.x.end(), x);
}

const float* Engine::run_layers(std::size_t first, Sequence* sequence) {
  const std::size_t all = config().layers;
  const std::size_t end = layer_limit_ == 0 ? all : (std::min)(layer_limit_, all);
  for (std::size_t layer = first; layer < end; ++layer) {
    if (layer_observer_) layer_observer_(layer, b_.x.data(), rows_);
    attention_block(layer, sequence->stores_[layer].get(), sequence->length_);
    ffn_block(layer);
    if (watch_) watch_(rows_);
  }
  sequence->length_ += rows_;
  norm_rows(b_.x.data(), parts_->output_norm, rows_, b_.normed.data());
  return b_.normed.data();
}

const float* Engine::forward(const std::vector<TokenId>& tokens, Sequence* sequence) {
  const Stopwatch watch(&times_.total);
  const ModelConfig& c = config();
  const std::size_t rows = tokens.size();
  const std::size_t end = static_cast<std::size_t>(sequence->length_) + rows;
  if (rows == 0 || end > c.context) {
    const std::string prefix =
        prefix_ == nullptr ? ""
                           : ", of which a prefix takes " + std::to_string(prefix_->tokens.size());
    throw std::runtime_error("tokens: " + std::to_string(end) + " in the sequence are not 1 to " +
                             std::to_string(c.context) + " (the model's context" + prefix + ")");
  }
  rope_.reserve(size_of(end));
  embed(tokens);
  reserve_rows(rows);
  return run_layers(0, sequence);
}

const float* Engine::forward_from(std::size_t first, const float* residual, std::int64_t rows) {
  const Stopwatch watch(&times_.total);
  const ModelConfig& c = config();
  if (first >= c.layers || rows < 1 || rows > size_of(c.context)) {
    throw std::runtime_error("forward_from: layer " + std::to_string(first) + " with " +
                             std::to_string(rows) + " rows, of " + std::to_string(c.layers) +
                             " layers and at most " + std::to_string(c.context) + " rows");
  }
  rope_.reserve(rows);
  const auto count = static_cast<std::size_t>(rows);
  b_.x.assign(residual, residual + count * c.hidden);
  reserve_rows(count);
  Sequence sequence = start();
  return run_layers(first, &sequence);
}

void Engine::set_linear(std::size_t layer, std::size_t linear, std::shared_ptr<const Linear> with) {
  linears_.at(layer).at(linear) = std::move(with);
  norms_[layer].known = false;
}

void Engine::logits(const float* hidden, std::int64_t rows, float* out) {
  const Stopwatch watch(&times_.head);
  if (parts_->head.empty()) throw std::runtime_error("logits: this engine has no head");
  const Ranges ranges = split(parts_->head.panels(), 8, pool_.threads());
  pool_(ranges.tasks, [&](std::int64_t task) {
    parts_->head.product(hidden, rows, ranges.first(task), ranges.last(task), out, logits_stride());
  });
}

}  // namespace rrs_llm
