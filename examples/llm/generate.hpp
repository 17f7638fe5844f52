#pragma once
// Text generation: prefill the prompt, then one token after the other.
//
// From: an Engine and a prompt; to: a callback that gets each token as it is chosen. Greedy at
// temperature 0; else sampled from the most likely tokens whose probabilities reach `top_p`, with a
// seeded generator of our own, so that a seed gives the same text everywhere. Stops after `tokens`,
// at an end token, or at the model's context.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "engine.hpp"

namespace rrs_llm {

struct GenerateOptions {
  std::size_t tokens = 64;
  double temperature = 0.0;
  double top_p = 0.95;
  std::uint64_t seed = 1;
};

struct GenerateResult {
  std::vector<TokenId> tokens;  // without the end token
  bool ended = false;           // at an end token
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;
  std::size_t decoded = 0;       // forward passes after the prompt
  double prefill_outside = 0.0;  // share of time outside the linears
  double decode_outside = 0.0;
  std::int64_t kv_bytes = 0;
};

GenerateResult generate(Engine* engine, const std::vector<TokenId>& prompt,
                        const GenerateOptions& options,
                        const std::function<void(TokenId)>& on_token);

// One token of a row of logits; `random` in [0, 1).
TokenId choose_token(const float* logits, std::size_t vocab, const GenerateOptions& options,
                     double random);

}  // namespace rrs_llm
