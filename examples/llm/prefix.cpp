#include "prefix.hpp"

#include <stdexcept>

#include "engine.hpp"
#include "rrs/core/types.hpp"

namespace rrs_llm {
namespace {

[[noreturn]] void fail(const std::string& problem) {
  throw std::runtime_error("prefix: " + problem);
}

std::vector<float> rounded(const float* x, std::size_t count) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = rrs::to_f32(rrs::to_f16(x[i]));
  return values;
}

void check_values(const std::vector<float>& values, std::size_t expected, std::size_t layer) {
  if (values.size() != expected) {
    fail("layer " + std::to_string(layer) + ": " + std::to_string(values.size()) +
         " values of K or V, not " + std::to_string(expected));
  }
  for (const float value : values) {
    if (!rrs::is_finite_bits(rrs::float_bits(value))) {
      fail("layer " + std::to_string(layer) + ": a key or value is not finite in 16 bits");
    }
  }
}

}  // namespace

std::vector<TokenId> prefix_tokens(const Prefix* prefix) {
  return prefix == nullptr ? std::vector<TokenId>{} : prefix->tokens;
}

void check_prefix_tokens(const std::vector<TokenId>& tokens, const ModelConfig& config) {
  if (tokens.empty()) fail("has no tokens");
  if (tokens.size() >= config.context) {
    fail(std::to_string(tokens.size()) + " tokens leave none of the model's context of " +
         std::to_string(config.context));
  }
  for (const TokenId token : tokens) {
    if (token < 0 || static_cast<std::size_t>(token) >= config.vocab) {
      fail("token " + std::to_string(token) + " is not below " + std::to_string(config.vocab) +
           " (the vocabulary)");
    }
  }
}

void check_prefix(const Prefix& prefix, const ModelConfig& config) {
  check_prefix_tokens(prefix.tokens, config);
  if (prefix.layers.size() != config.layers) {
    fail("keys and values of " + std::to_string(prefix.layers.size()) + " layers, not " +
         std::to_string(config.layers));
  }
  const std::size_t expected = prefix.tokens.size() * config.kv_heads * config.head_size;
  for (std::size_t i = 0; i < prefix.layers.size(); ++i) {
    check_values(prefix.layers[i].k, expected, i);
    check_values(prefix.layers[i].v, expected, i);
  }
}

Prefix capture_prefix(Engine* fp, const std::vector<TokenId>& tokens) {
  check_prefix_tokens(tokens, fp->config());
  const std::size_t width = fp->config().kv_heads * fp->config().head_size;
  Prefix prefix;
  prefix.tokens = tokens;
  prefix.layers.resize(fp->config().layers);
  fp->set_prefix(nullptr);
  fp->observe_kv([&](std::size_t layer, const float* k, const float* v, std::int64_t rows) {
    const std::size_t count = static_cast<std::size_t>(rows) * width;
    prefix.layers[layer] = Prefix::Layer{rounded(k, count), rounded(v, count)};
  });
  Sequence sequence = fp->start();
  fp->forward(tokens, &sequence);
  fp->observe_kv(nullptr);
  check_prefix(prefix, fp->config());
  return prefix;
}

}  // namespace rrs_llm
