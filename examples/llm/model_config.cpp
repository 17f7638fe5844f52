#include "model_config.hpp"

#include <cmath>
#include <stdexcept>

namespace rrs_llm {
namespace {

constexpr std::size_t kMaxLayers = 4096;
constexpr std::size_t kMaxWidth = std::size_t{1} << 20;
constexpr std::size_t kMaxContext = std::size_t{1} << 26;
constexpr std::size_t kMaxVocab = std::size_t{1} << 24;
constexpr double kTwoPi = 6.283185307179586;

struct Checker {
  const std::string& source;

  void require(bool ok, const std::string& problem) const {
    if (!ok) throw std::runtime_error(source + ": " + problem);
  }

  void range(const char* field, std::size_t value, std::size_t limit) const {
    require(value >= 1 && value <= limit, std::string("field '") + field +
                                              "': " + std::to_string(value) + " is not 1 to " +
                                              std::to_string(limit));
  }

  void positive(const char* field, double value) const {
    require(std::isfinite(value) && value > 0.0, std::string("field '") + field +
                                                     "': " + std::to_string(value) +
                                                     " is not positive and finite");
  }
};

void add_layer(const ModelConfig& c, std::size_t layer, std::vector<ExpectedTensor>* list) {
  const std::string prefix = "blk." + std::to_string(layer) + ".";
  const auto add = [&](const char* name, std::size_t rows, std::size_t columns) {
    list->push_back({prefix + name, rows, columns});
  };
  const std::size_t q_rows = c.heads * c.head_size;
  const std::size_t kv_rows = c.kv_heads * c.head_size;
  add("attn_norm", 1, c.hidden);
  add("attn_q", q_rows, c.hidden);
  add("attn_k", kv_rows, c.hidden);
  add("attn_v", kv_rows, c.hidden);
  if (c.qkv_bias) {
    add("attn_q.bias", 1, q_rows);
    add("attn_k.bias", 1, kv_rows);
    add("attn_v.bias", 1, kv_rows);
  }
  if (c.qk_norm) {
    add("attn_q_norm", 1, c.head_size);
    add("attn_k_norm", 1, c.head_size);
  }
  add("attn_output", c.hidden, q_rows);
  if (c.output_bias) add("attn_output.bias", 1, c.hidden);
  add("ffn_norm", 1, c.hidden);
  add("ffn_gate", c.ffn, c.hidden);
  add("ffn_up", c.ffn, c.hidden);
  add("ffn_down", c.hidden, c.ffn);
}

}  // namespace

const char* architecture_name(Architecture architecture) noexcept {
  switch (architecture) {
    case Architecture::kLlama: return "llama";
    case Architecture::kQwen2: return "qwen2";
    case Architecture::kQwen3: break;
  }
  return "qwen3";
}

std::optional<Architecture> find_architecture(const std::string& name) {
  for (const auto a : {Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3}) {
    if (name == architecture_name(a)) return a;
  }
  return std::nullopt;
}

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config) {
  std::vector<ExpectedTensor> list{{"token_embd", config.vocab, config.hidden}};
  for (std::size_t layer = 0; layer < config.layers; ++layer) add_layer(config, layer, &list);
  list.push_back({"output_norm", 1, config.hidden});
  if (!config.tied_head) list.push_back({"output", config.vocab, config.hidden});
  return list;
}

void check_config(const ModelConfig& config, const std::string& source) {
  const Checker check{source};
  check.range("layers", config.layers, kMaxLayers);
  check.range("hidden size", config.hidden, kMaxWidth);
  check.range("ffn size", config.ffn, kMaxWidth);
  check.range("heads", config.heads, kMaxWidth);
  check.range("kv heads", config.kv_heads, config.heads);
  check.range("head size", config.head_size, kMaxWidth);
  check.range("vocabulary", config.vocab, kMaxVocab);
  check.range("context", config.context, kMaxContext);
  std::vector<TokenId> ids = config.ends;
  if (config.bos) ids.push_back(*config.bos);
  for (const TokenId id : ids) {
    check.require(id >= 0 && static_cast<std::size_t>(id) < config.vocab,
                  "field 'bos or eos token': id " + std::to_string(id) + " is not below " +
                      std::to_string(config.vocab));
  }
  check.require(config.heads % config.kv_heads == 0,
                "field 'kv heads': " + std::to_string(config.kv_heads) + " does not divide " +
                    std::to_string(config.heads) + " heads");
  check.require(config.head_size % 2 == 0,
                "field 'head size': " + std::to_string(config.head_size) + " is odd");
  check.positive("rope base", config.rope_base);
  check.positive("rms epsilon", config.rms_epsilon);
  for (const float divisor : config.rope_divisors) {
    check.positive("rope divisor", static_cast<double>(divisor));
  }
  check.require(config.rope_divisors.empty() || config.rope_divisors.size() == config.head_size / 2,
                "field 'rope divisors': " + std::to_string(config.rope_divisors.size()) +
                    " values, not " + std::to_string(config.head_size / 2));
}

std::vector<float> llama3_divisors(const Llama3Scaling& scaling, double rope_base,
                                   std::size_t head_size) {
  std::vector<float> divisors;
  for (std::size_t i = 0; i < head_size / 2; ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(head_size);
    const double wavelength = kTwoPi * std::pow(rope_base, exponent);
    // Turns of this pair within the original context.
    const double turns = scaling.original_context / wavelength;
    double divisor = 1.0;
    if (turns < scaling.low_frequency) {
      divisor = scaling.factor;
    } else if (turns <= scaling.high_frequency) {
      const double ramp =
          (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency);
      divisor = 1.0 / ((1.0 - ramp) / scaling.factor + ramp);
    }
    divisors.push_back(static_cast<float>(divisor));
  }
  return divisors;
}

}  // namespace rrs_llm
