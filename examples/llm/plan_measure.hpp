#pragma once
// What one module's precision does to the model's predictions, module by module.
//
//   damage(m, o) = mean over positions of KL( p_clean || p_clean with module m at option o )
//
// From: the linears of uniform methods, one stack per option; to: plan_ladder.hpp. `clean` is the
// stack that all other modules run with: precise activations, the same weights as the rest. So the
// divergence starts at zero and what is measured is this module's activation error alone; against
// the float model it would drown in the error of all weights (and at 4 bits a change of one module
// moves everything a little: differences of two large divergences are mostly noise).
// Cost: a module of layer l re-runs layers l.. only, from the residual stream that the clean model
// had there. In memory: per window [layers][tokens][hidden] floats, and logits of scored positions.

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine.hpp"
#include "prepare.hpp"

namespace rrs_llm {

// Linears that read one input: q, k, v | o | gate, up | down. Index layer * 4 + InputIndex.
struct PlanModule {
  std::size_t layer = 0;
  std::size_t input = 0;
  std::string name;                  // "blk.3.ffn_up": its last linear's
  std::vector<std::size_t> linears;  // in a layer
  double macs = 0.0;                 // per token
  double edges = 0.0;                // sum of N + K: numbers (and MACs) of a branch of rank 1
};
std::vector<PlanModule> plan_modules(const ModelConfig& config);

struct DamageRequest {
  std::shared_ptr<const ModelParts> parts;
  const LinearStack* clean = nullptr;
  std::vector<const LinearStack*> options;
  StoreFactory stores;
  std::vector<std::vector<TokenId>> windows;
  std::size_t position_step = 1;  // every how many positions are scored
  bool per_module = true;         // false: only what every option does uniformly
  std::function<void(std::size_t done, std::size_t all)> progress;
};

struct Damages {
  std::vector<std::vector<double>> mean;   // [module][option]; 0 unless per_module
  std::vector<std::vector<double>> error;  // standard error over windows; 0 with one window
  std::vector<double> uniform;             // [option]: every module at it
};

// Deterministic: the same numbers for any thread count.
Damages measure_damages(const DamageRequest& request, const ThreadPool& pool);

// `count` windows of `length` tokens, spread evenly; fewer from a short text. Throws when the
// tokens do not fill one window, and when the windows hold one token, over and over.
std::vector<std::vector<TokenId>> spread_windows(const std::vector<TokenId>& tokens,
                                                 std::size_t count, std::size_t length);

// Mean and standard error of the mean (0 for one value).
struct MeanError {
  double mean = 0.0;
  double error = 0.0;
};
MeanError mean_error(const std::vector<double>& values);

}  // namespace rrs_llm
