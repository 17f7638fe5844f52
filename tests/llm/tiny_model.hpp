#pragma once
// Tiny random models written as a GGUF file and as a Hugging Face folder, with a tiny tokenizer.
//
// Both files of one TinyModel hold the same network: for llama the GGUF's q and k rows are put in
// interleaved RoPE order, as that format has them. Consumers: tests of the sources and the engine.

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "../../examples/llm/byte_level.hpp"
#include "../../examples/llm/model_config.hpp"
#include "../../examples/support/half.hpp"
#include "../../examples/support/safetensors.hpp"
#include "test_files.hpp"

namespace rrs_llm_test {

// 256 byte tokens, then merged tokens, then three special ones.
struct TinyVocabulary {
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;  // GGUF's numbers
  std::vector<std::pair<std::string, std::string>> merges;
  std::uint32_t bos = 0, end = 0;
};

inline std::string spell(const std::string& bytes) {
  std::string text;
  for (const char c : bytes) text += rrs_llm::byte_characters()[static_cast<unsigned char>(c)];
  return text;
}

inline TinyVocabulary tiny_vocabulary() {
  TinyVocabulary v;
  for (const std::string& character : rrs_llm::byte_characters()) v.tokens.push_back(character);
  const std::vector<std::pair<const char*, const char*>> merges{
      {" ", "t"}, {"h", "e"},  {" t", "he"}, {"l", "l"}, {"he", "ll"}, {"hell", "o"}, {" ", " "},
      {"1", "2"}, {"12", "3"}, {"'", "s"},   {"a", "b"}, {"b", "c"},   {"(", "he"}};
  for (const auto& [left, right] : merges) {
    v.merges.emplace_back(spell(left), spell(right));
    v.tokens.push_back(v.merges.back().first + v.merges.back().second);
  }
  v.types.assign(v.tokens.size(), 1);
  v.bos = static_cast<std::uint32_t>(v.tokens.size());
  v.end = v.bos + 1;
  for (const auto& [text, type] : {std::pair{"<s>", 3}, {"<end>", 3}, {"<tool>", 4}}) {
    v.tokens.emplace_back(text);
    v.types.push_back(type);
  }
  return v;
}

inline void put_vocabulary(const TinyVocabulary& v, const std::string& pre, GgufBuilder* b) {
  b->string("tokenizer.ggml.model", "gpt2");
  b->string("tokenizer.ggml.pre", pre);
  b->strings("tokenizer.ggml.tokens", v.tokens);
  b->ints("tokenizer.ggml.token_type", v.types);
  std::vector<std::string> merges;
  for (const auto& [left, right] : v.merges) merges.push_back(left + " " + right);
  b->strings("tokenizer.ggml.merges", merges);
  b->u32("tokenizer.ggml.bos_token_id", v.bos);
  b->u32("tokenizer.ggml.eos_token_id", v.end);
}

inline std::string json_string(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

inline const char* const kSmollmPreJson =
    R"({"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},)"
    R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":true}]})";

// `pairs`: merges as two-element lists instead of strings. `extra`: more members of the object.
inline std::string tiny_tokenizer_json(const TinyVocabulary& v, const std::string& pre,
                                       bool pairs = false, const std::string& extra = "") {
  std::string vocabulary, merges, added;
  for (std::size_t i = 0; i < v.tokens.size(); ++i) {
    const std::string id = std::to_string(i);
    if (v.types[i] == 1) {
      vocabulary += (vocabulary.empty() ? "" : ",") + json_string(v.tokens[i]) + ":" + id;
    } else {
      added += (added.empty() ? "" : ",") + std::string("{\"id\":") + id +
               ",\"content\":" + json_string(v.tokens[i]) +
               ",\"special\":" + (v.types[i] == 3 ? "true" : "false") + ",\"lstrip\":false}";
    }
  }
  for (const auto& [left, right] : v.merges) {
    if (!merges.empty()) merges += ",";
    merges += pairs ? "[" + json_string(left) + "," + json_string(right) + "]"
                    : json_string(left + " " + right);
  }
  return "{\"added_tokens\":[" + added + "],\"normalizer\":null,\"pre_tokenizer\":" + pre + extra +
         ",\"model\":{\"type\":\"BPE\",\"vocab\":{" + vocabulary + "},\"merges\":[" + merges +
         "]}}";
}

struct TinyTensor {
  std::string name;  // canonical
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::vector<float> values;  // representable in binary16
};

struct TinyModel {
  rrs_llm::ModelConfig config;
  TinyVocabulary vocabulary = tiny_vocabulary();
  std::vector<TinyTensor> tensors;  // q and k in half-split order

  const TinyTensor& find(const std::string& name) const {
    for (const TinyTensor& t : tensors) {
      if (t.name == name) return t;
    }
    throw std::logic_error("no tensor " + name);
  }
};

inline TinyModel tiny_model(rrs_llm::Architecture architecture, bool tied_head,
                            std::uint32_t seed = 1) {
  TinyModel m;
  auto& c = m.config;
  c.architecture = architecture;
  c.layers = 2;
  c.hidden = 64;
  c.ffn = 96;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_size = architecture == rrs_llm::Architecture::kQwen3 ? 32 : 16;
  c.vocab = m.vocabulary.tokens.size();
  c.context = 128;
  c.rope_base = 10000.0;
  c.rms_epsilon = 1e-5;
  c.tied_head = tied_head;
  c.qkv_bias = architecture == rrs_llm::Architecture::kQwen2;
  c.qk_norm = architecture == rrs_llm::Architecture::kQwen3;
  Random random(seed);
  for (const rrs_llm::ExpectedTensor& e : rrs_llm::expected_tensors(c)) {
    TinyTensor t{e.name, e.rows, e.columns, std::vector<float>(e.rows * e.columns)};
    const bool norm = e.name.find("norm") != std::string::npos;
    for (float& value : t.values) {
      const float real = norm ? 1.0f + 0.25f * random.real() : 0.25f * random.real();
      value = rrs_examples::f16_to_f32(rrs_examples::f32_to_f16(real));
    }
    m.tensors.push_back(std::move(t));
  }
  return m;
}

// Row order of each head from half-split (i, i + size/2) to interleaved (2i, 2i + 1).
inline std::vector<float> interleaved(const TinyTensor& t, std::size_t head_size) {
  std::vector<float> out(t.values.size());
  const bool bias = t.rows == 1;
  const std::size_t width = bias ? 1 : t.columns;
  const std::size_t rows = bias ? t.columns : t.rows;
  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t in_head = row % head_size;
    const std::size_t half = head_size / 2;
    const std::size_t to = row - in_head + 2 * (in_head % half) + in_head / half;
    for (std::size_t k = 0; k < width; ++k) out[to * width + k] = t.values[row * width + k];
  }
  return out;
}

inline bool rotated_rows(const std::string& name) {
  for (const char* part : {".attn_q", ".attn_k", ".attn_q.bias", ".attn_k.bias"}) {
    const std::string suffix = part;
    if (name.size() > suffix.size() &&
        name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0) {
      return true;
    }
  }
  return false;
}

// `special` may write a tensor itself, and then returns true.
inline GgufBuilder tiny_gguf(
    const TinyModel& m,
    const std::function<bool(const TinyTensor&, GgufBuilder*)>& special = nullptr) {
  const auto& c = m.config;
  const std::string name = rrs_llm::architecture_name(c.architecture);
  GgufBuilder b;
  const auto u32 = [&](const char* key, std::size_t value) {
    b.u32(name + "." + key, static_cast<std::uint32_t>(value));
  };
  b.string("general.architecture", name);
  u32("block_count", c.layers);
  u32("embedding_length", c.hidden);
  u32("feed_forward_length", c.ffn);
  u32("attention.head_count", c.heads);
  u32("attention.head_count_kv", c.kv_heads);
  u32("context_length", c.context);
  u32("attention.key_length", c.head_size);
  u32("attention.value_length", c.head_size);
  b.f32(name + ".rope.freq_base", static_cast<float>(c.rope_base));
  b.f32(name + ".attention.layer_norm_rms_epsilon", static_cast<float>(c.rms_epsilon));
  put_vocabulary(m.vocabulary, "smollm", &b);
  b.boolean("tokenizer.ggml.add_bos_token", c.add_bos);
  for (const TinyTensor& t : m.tensors) {
    if (special && special(t, &b)) continue;
    const bool bias = t.name.find(".bias") != std::string::npos;
    const bool permute = c.architecture == rrs_llm::Architecture::kLlama && rotated_rows(t.name);
    std::vector<std::uint64_t> dims{t.columns};
    if (t.rows > 1) dims.push_back(t.rows);
    b.f32_tensor(t.name + (bias ? "" : ".weight"), dims,
                 permute ? interleaved(t, c.head_size) : t.values);
  }
  return b;
}

// For tiny_gguf: linears of the layers as Q4_0 (GGUF's type 2) or Q4_1 (3) blocks of 32 weights:
// scale 2^-5, for Q4_1 a minimum of -2^-2, codes from a hash.
inline std::function<bool(const TinyTensor&, GgufBuilder*)> q4_linears(std::uint32_t type) {
  return [type](const TinyTensor& t, GgufBuilder* builder) {
    if (t.name.rfind("blk.", 0) != 0 || t.rows == 1) return false;
    std::string bytes;
    for (std::size_t block = 0; block < t.rows * t.columns / 32; ++block) {
      bytes += raw(rrs_examples::f32_to_f16(0.03125f));
      if (type == 3) bytes += raw(rrs_examples::f32_to_f16(-0.25f));
      for (std::size_t i = 0; i < 16; ++i) {
        bytes += static_cast<char>((block * 2654435761u + i * 40503u) >> 7 & 0xffu);
      }
    }
    builder->tensor(t.name + ".weight", {t.columns, t.rows}, type, bytes);
    return true;
  };
}

inline std::string hf_name(const std::string& canonical) {
  static const std::map<std::string, std::string> kNames{
      {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
      {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
      {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
      {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
      {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
      {"ffn_down", "mlp.down_proj"}};
  if (canonical == "token_embd") return "model.embed_tokens.weight";
  if (canonical == "output_norm") return "model.norm.weight";
  if (canonical == "output") return "lm_head.weight";
  const std::size_t dot = canonical.find('.', 4);
  std::string rest = canonical.substr(dot + 1);
  const bool bias = rest.find(".bias") != std::string::npos;
  if (bias) rest.resize(rest.size() - 5);
  return "model.layers." + canonical.substr(4, dot - 4) + "." + kNames.at(rest) +
         (bias ? ".bias" : ".weight");
}

// `extra`: more members of config.json, each preceded by a comma.
inline std::string tiny_config_json(const TinyModel& m, const std::string& extra = "") {
  const auto& c = m.config;
  const auto field = [](const char* key, std::size_t value) {
    return std::string(",\"") + key + "\":" + std::to_string(value);
  };
  return std::string("{\"model_type\":\"") + rrs_llm::architecture_name(c.architecture) + "\"" +
         field("num_hidden_layers", c.layers) + field("hidden_size", c.hidden) +
         field("intermediate_size", c.ffn) + field("num_attention_heads", c.heads) +
         field("num_key_value_heads", c.kv_heads) + field("head_dim", c.head_size) +
         field("vocab_size", c.vocab) + field("max_position_embeddings", c.context) +
         field("bos_token_id", m.vocabulary.bos) + field("eos_token_id", m.vocabulary.end) +
         ",\"rope_theta\":10000.0,\"rms_norm_eps\":1e-05,\"hidden_act\":\"silu\"" +
         ",\"tie_word_embeddings\":" + (c.tied_head ? "true" : "false") + extra + "}";
}

// Writes tensors [first, last) of the model as one safetensors file.
inline void write_tiny_shard(const TinyModel& m, std::size_t first, std::size_t last,
                             const std::string& path, rrs_examples::Dtype dtype) {
  std::vector<std::string> bytes;
  for (std::size_t i = first; i < last; ++i) {
    std::vector<std::uint16_t> halves;
    for (const float v : m.tensors[i].values) halves.push_back(rrs_examples::f32_to_f16(v));
    const bool half = dtype == rrs_examples::Dtype::kF16;
    bytes.push_back(half ? raw_all(halves) : raw_all(m.tensors[i].values));
  }
  std::vector<rrs_examples::Tensor> tensors;
  for (std::size_t i = first; i < last; ++i) {
    const TinyTensor& t = m.tensors[i];
    const bool vector =
        t.name.find("norm") != std::string::npos || t.name.find(".bias") != std::string::npos;
    rrs_examples::Tensor tensor;
    tensor.name = hf_name(t.name);
    tensor.dtype = dtype;
    tensor.shape =
        vector ? std::vector<std::size_t>{t.columns} : std::vector<std::size_t>{t.rows, t.columns};
    tensor.data = reinterpret_cast<const std::byte*>(bytes[i - first].data());
    tensor.size = bytes[i - first].size();
    tensors.push_back(tensor);
  }
  rrs_examples::write_safetensors(path, tensors);
}

// One file when `shards` is 1, else an indexed set.
inline void write_tiny_hf(const TinyModel& m, const TempFolder& folder, std::size_t shards = 1,
                          rrs_examples::Dtype dtype = rrs_examples::Dtype::kF32) {
  folder.write("config.json", tiny_config_json(m));
  folder.write("tokenizer.json", tiny_tokenizer_json(m.vocabulary, kSmollmPreJson));
  if (shards == 1) {
    write_tiny_shard(m, 0, m.tensors.size(), folder.file("model.safetensors"), dtype);
    return;
  }
  std::string map;
  for (std::size_t s = 0; s < shards; ++s) {
    const std::size_t first = m.tensors.size() * s / shards;
    const std::size_t last = m.tensors.size() * (s + 1) / shards;
    const std::string name = "model-" + std::to_string(s) + ".safetensors";
    write_tiny_shard(m, first, last, folder.file(name), dtype);
    for (std::size_t i = first; i < last; ++i) {
      map += (map.empty() ? "" : ",") + json_string(hf_name(m.tensors[i].name)) + ":" +
             json_string(name);
    }
  }
  folder.write("model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
}

}  // namespace rrs_llm_test
