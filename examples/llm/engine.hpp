#pragma once
// The forward pass: token ids to hidden states to logits.
//
// From: ModelParts (what every method shares) and LinearStack (the seven linears of each layer);
// to: perplexity, generate, calibration. One Engine is one method; one Sequence is one growing
// text. Everything outside the linears is float in one written order (float_kernels.hpp): with
// linears whose window is one token, logits do not depend on how the tokens are cut into calls.
// Linears whose input comes divided (InputChannels::folded) get it so: this engine's norms, not the
// model's, have the divisor in their gains.

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attention.hpp"
#include "head.hpp"
#include "linear.hpp"
#include "model_source.hpp"
#include "prefix.hpp"
#include "rope.hpp"
#include "thread_pool.hpp"

namespace rrs_llm {

// The seven linears of a layer; q, k and v share an input, so do gate and up.
enum LinearIndex { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr std::size_t kLinearsPerLayer = 7;
inline constexpr std::array<const char*, kLinearsPerLayer> kLinearNames{
    "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};

std::string linear_name(std::size_t layer, std::size_t linear);  // "blk.3.ffn_up"

// Embedding, norms, biases and the head; read once, shared by every method.
struct ModelParts {
  // Without the head, an engine has no logits: for calibration, which needs none of its megabytes.
  explicit ModelParts(const ModelSource& model, bool with_head = true);

  const ModelSource& source;
  ModelConfig config;
  struct Layer {
    std::vector<float> attn_norm, ffn_norm;
    std::vector<float> q_norm, k_norm;                      // empty unless qk_norm
    std::array<std::vector<float>, kLinearsPerLayer> bias;  // empty where there is none
  };
  std::vector<Layer> layers;
  std::vector<float> output_norm;
  Head head;
};

// Shared: engines that differ in the KV cache only have the same linears.
using LayerLinears = std::array<std::shared_ptr<const Linear>, kLinearsPerLayer>;
using LinearStack = std::vector<LayerLinears>;
// Linears of a layer, made when they are asked for.
using LayerSource = std::function<LayerLinears(std::size_t layer)>;

// Where the time of the last calls went, in seconds.
struct EngineTimes {
  double linears = 0.0;
  double attention = 0.0;
  double head = 0.0;
  double total = 0.0;
};

// What an engine has done with one linear, counted where it is called.
struct LinearRuns {
  std::int64_t calls = 0;
  std::int64_t rows = 0;             // of all calls
  std::vector<std::string> kernels;  // that ran, each once: a prompt and one token may differ
  std::string kernel() const;        // all of them, with commas
};

class Sequence {
 public:
  std::int64_t length() const noexcept { return length_; }  // the prefix included
  std::int64_t kv_bytes() const noexcept;

 private:
  friend class Engine;
  std::vector<std::unique_ptr<KvStore>> stores_;
  std::int64_t length_ = 0;
};

using StoreFactory = std::function<std::unique_ptr<KvStore>(const AttentionShape&)>;

class Engine {
 public:
  Engine(std::shared_ptr<const ModelParts> parts, LinearStack linears, StoreFactory stores,
         const ThreadPool& pool);

  // With a prefix every sequence starts behind its tokens: their keys and values are in its cache,
  // its positions follow theirs. Throws when the prefix does not fit the model. nullptr: none.
  void set_prefix(std::shared_ptr<const Prefix> prefix);
  const std::shared_ptr<const Prefix>& prefix() const noexcept { return prefix_; }

  Sequence start() const;
  // Appends the tokens and returns their final hidden states [tokens][hidden], normed for the head;
  // valid until the next call.
  const float* forward(const std::vector<TokenId>& tokens, Sequence* sequence);
  // For calibration, which takes many texts through one layer after another: hidden states x
  // [rows][hidden] of a new sequence before the first layer, and through one layer, in place.
  void embed_tokens(const std::vector<TokenId>& tokens, float* x);
  void run_layer(std::size_t layer, std::int64_t rows, float* x);
  // The same for a whole new sequence from the middle: `residual` [rows][hidden] is what enters
  // layer `first`, as observe_layers showed it. Layers before `first` do not run.
  const float* forward_from(std::size_t first, const float* residual, std::int64_t rows);
  // logits [rows][padded vocabulary] of hidden rows; logits_stride() floats per row.
  void logits(const float* hidden, std::int64_t rows, float* out);
  std::int64_t logits_stride() const noexcept;

  const ModelConfig& config() const noexcept { return parts_->config; }
  const ModelParts& parts() const noexcept { return *parts_; }
  const ThreadPool& pool() const noexcept { return pool_; }
  const LinearStack& linears() const noexcept { return linears_; }
  // Another linear at this place from the next call on; it must have the same shape. nullptr: none,
  // and a pass through it throws.
  void set_linear(std::size_t layer, std::size_t linear, std::shared_ptr<const Linear> with);
  // Since reset_runs. Not while the engine runs.
  const LinearRuns& runs(std::size_t layer, std::size_t linear) const {
    return runs_[layer][linear];
  }
  void reset_runs() { runs_.assign(linears_.size(), {}); }
  // How often an input was prepared for integer kernels, since the engine was made.
  std::size_t preparations() const noexcept { return input_.preparations(); }
  const EngineTimes& times() const noexcept { return times_; }
  void reset_times() noexcept { times_ = EngineTimes{}; }

  // Called with the input of every linear before it runs (q stands for q, k, v; gate for gate, up).
  using Observer = std::function<void(std::size_t layer, std::size_t linear, const float* x,
                                      std::int64_t rows, std::int64_t cols)>;
  void observe(Observer observer) { observer_ = std::move(observer); }
  // Called with the residual stream [rows][hidden] that enters every layer.
  using LayerObserver = std::function<void(std::size_t layer, const float* x, std::int64_t rows)>;
  void observe_layers(LayerObserver observer) { layer_observer_ = std::move(observer); }
  // Called with K (after RoPE) and V of a call's tokens, [rows][kv_heads * head_size].
  using KvObserver =
      std::function<void(std::size_t layer, const float* k, const float* v, std::int64_t rows)>;
  void observe_kv(KvObserver observer) { kv_observer_ = std::move(observer); }
  // Called after every layer of a call of `rows` tokens: for progress lines.
  using LayerWatch = std::function<void(std::int64_t rows)>;
  void watch(LayerWatch watch) { watch_ = std::move(watch); }
  // Only that many layers run, for probes: no hidden state of the last layer then. 0: all.
  void limit_layers(std::size_t layers) noexcept { layer_limit_ = layers; }

 private:
  struct Buffers {
    std::vector<float> x, normed, q, k, v, mixed, gate, up;
  };
  void embed(const std::vector<TokenId>& tokens);
  void reserve_rows(std::size_t rows);
  const float* run_layers(std::size_t first, Sequence* sequence);
  // The gain of the norm before these linears, with the divisors in it that they leave to it.
  // Throws unless all of them leave the same.
  const std::vector<float>& gain_before(std::size_t layer, std::size_t first_linear,
                                        std::size_t last_linear, const std::vector<float>& gain,
                                        std::vector<float>* folded) const;
  void fold_norms(std::size_t layer);
  const Linear& linear_at(std::size_t layer,
                          std::size_t linear) const;  // throws when there is none
  void norm_rows(const float* x, const std::vector<float>& gain, std::int64_t rows, float* y) const;
  void apply(std::size_t layer, std::size_t linear, float* y, bool accumulate);
  void set_input(std::size_t layer, std::size_t linear, const float* x, std::int64_t cols);
  void attention_block(std::size_t layer, KvStore* store, std::int64_t position);
  void ffn_block(std::size_t layer);
  void position_heads(std::size_t layer, std::int64_t position);

  std::shared_ptr<const ModelParts> parts_;
  LinearStack linears_;
  // Per layer, made when it first runs with its linears: gains of the two norms.
  struct FoldedNorms {
    bool known = false;
    const std::vector<float>* attn = nullptr;  // the model's own, or of_attn
    const std::vector<float>* ffn = nullptr;
    std::vector<float> of_attn, of_ffn;
  };
  std::vector<FoldedNorms> norms_;
  StoreFactory stores_;
  const ThreadPool& pool_;
  Rope rope_;
  InputCache input_;
  Buffers b_;
  std::int64_t rows_ = 0;
  EngineTimes times_;
  std::vector<std::array<LinearRuns, kLinearsPerLayer>> runs_;
  Observer observer_;
  LayerObserver layer_observer_;
  KvObserver kv_observer_;
  LayerWatch watch_;
  std::size_t layer_limit_ = 0;
  std::shared_ptr<const Prefix> prefix_;
  std::vector<std::unique_ptr<KvStore>> prefix_stores_;  // per layer; sequences fork them
};

}  // namespace rrs_llm
