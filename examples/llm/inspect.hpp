#pragma once
// What a model file holds, how a scheme fits it, and where its activations have outliers.
//
// From: ModelSource, and, for outliers, the float model run over windows of a text; to: text.
// Outliers per module input (q stands for q, k, v; up for gate, up): token maximum
// S_t = max_k |x[t,k]|, channel maximum C_k = max_t |x[t,k]|; QFeM's score is the mean over windows
// of max_t S_t / median_t S_t (lower median, the first token included).

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "engine.hpp"
#include "method.hpp"

namespace rrs_llm {

std::string tensors_text(const ModelSource& model);
// Bits per weight of all linears under the method, as the records of `perplexity` have them, and
// whether K divides into its groups.
std::string fit_text(const ModelSource& model, const Method& method);

struct ModuleOutliers {
  std::string module;  // "blk.3.ffn_down"
  double token_max = 0.0;
  double token_median = 0.0;  // of the last window
  double channel_max = 0.0;
  double channel_median = 0.0;
  double score = 0.0;  // QFeM's
};

// `engine`: the float model; its observer is replaced.
// `progress`, which may be empty: tokens times layers, done and of how many.
std::vector<ModuleOutliers> measure_outliers(
    Engine* engine, const std::vector<TokenId>& tokens, std::size_t windows, std::size_t context,
    const std::function<void(double done, double all)>& progress = nullptr);
// The `most` modules of highest score first; 0: all.
std::string outliers_text(std::vector<ModuleOutliers> modules, std::size_t most);

}  // namespace rrs_llm
