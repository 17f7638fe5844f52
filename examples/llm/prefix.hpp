#pragma once
// A quantization-free prefix (QFeP): tokens whose keys and values stand before every text.
//
// From: the *float* model, which runs the tokens once (capture_prefix), or a quantized file; to:
// Engine::set_prefix. Values are rounded to f16 here, as every cache holds them: an fp engine with
// the prefix gives the logits of one that is fed its tokens, bit for bit. K is after RoPE, so a
// prefix belongs to one model and stands at position 0.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "model_config.hpp"

namespace rrs_llm {

class Engine;

struct Prefix {
  struct Layer {
    std::vector<float> k, v;  // [tokens][kv_heads * head_size], values of f16
  };
  std::vector<TokenId> tokens;
  std::vector<Layer> layers;
};

// Its tokens; none without a prefix.
std::vector<TokenId> prefix_tokens(const Prefix* prefix);

// Tokens: at least one, in the vocabulary, fewer than the model's context. Throws naming the value
// and the limit.
void check_prefix_tokens(const std::vector<TokenId>& tokens, const ModelConfig& config);
// Also layers and sizes.
void check_prefix(const Prefix& prefix, const ModelConfig& config);

// `fp`: the float model; its prefix and KV observer are replaced by none. One forward pass.
Prefix capture_prefix(Engine* fp, const std::vector<TokenId>& tokens);

}  // namespace rrs_llm
