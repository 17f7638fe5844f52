// ModelSource over a Hugging Face folder.

#include <algorithm>
#include <array>
#include <set>
#include <stdexcept>

#include "../support/json_strict.hpp"
#include "hf_folder.hpp"
#include "model_source.hpp"

namespace rrs_llm {
namespace {

using nlohmann::json;
using rrs_examples::Dtype;
using rrs_examples::quoted_name;
using rrs_examples::Tensor;

constexpr std::uint64_t kLargestSize = std::uint64_t{1} << 26;

struct NamePair {
  std::string_view canonical;
  std::string_view file;
};

constexpr std::array<NamePair, 15> kLayerNames{{{"attn_norm", "input_layernorm.weight"},
                                                {"attn_q", "self_attn.q_proj.weight"},
                                                {"attn_k", "self_attn.k_proj.weight"},
                                                {"attn_v", "self_attn.v_proj.weight"},
                                                {"attn_q.bias", "self_attn.q_proj.bias"},
                                                {"attn_k.bias", "self_attn.k_proj.bias"},
                                                {"attn_v.bias", "self_attn.v_proj.bias"},
                                                {"attn_q_norm", "self_attn.q_norm.weight"},
                                                {"attn_k_norm", "self_attn.k_norm.weight"},
                                                {"attn_output", "self_attn.o_proj.weight"},
                                                {"attn_output.bias", "self_attn.o_proj.bias"},
                                                {"ffn_norm", "post_attention_layernorm.weight"},
                                                {"ffn_gate", "mlp.gate_proj.weight"},
                                                {"ffn_up", "mlp.up_proj.weight"},
                                                {"ffn_down", "mlp.down_proj.weight"}}};

// Empty for a name that is not canonical.
std::string file_name(std::string_view canonical) {
  if (canonical == "token_embd") return "model.embed_tokens.weight";
  if (canonical == "output_norm") return "model.norm.weight";
  if (canonical == "output") return "lm_head.weight";
  if (canonical.substr(0, 4) != "blk.") return {};
  const std::size_t dot = canonical.find('.', 4);
  if (dot == std::string_view::npos) return {};
  for (const NamePair& pair : kLayerNames) {
    if (canonical.substr(dot + 1) != pair.canonical) continue;
    return "model.layers." + std::string(canonical.substr(4, dot - 4)) + "." +
           std::string(pair.file);
  }
  return {};
}

// Typed access to config.json; absent and null are the same.
class Config {
 public:
  explicit Config(const rrs_examples::MappedFile& file)
      : path_(file.path()), root_(rrs_examples::parse_json_strict(file.text(), path_)) {
    if (!root_.is_object()) fail("", "not a JSON object");
  }

  [[noreturn]] void fail(const std::string& field, const std::string& problem) const {
    throw std::runtime_error(path_ + ": field '" + field + "': " + problem);
  }

  const json* find(const char* key) const { return find(root_, key); }
  static const json* find(const json& object, const char* key) {
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? nullptr : &*found;
  }

  std::size_t size(const char* key) const {
    const json* value = find(key);
    if (value == nullptr) fail(key, "missing");
    if (!value->is_number_unsigned() || value->get<std::uint64_t>() > kLargestSize) {
      fail(key, quoted_name(value->dump()) + " is not an integer from 0 to " +
                    std::to_string(kLargestSize));
    }
    return value->get<std::size_t>();
  }
  std::size_t size_or(const char* key, std::size_t otherwise) const {
    return find(key) == nullptr ? otherwise : size(key);
  }

  double number(const json& object, const char* key) const {
    const json* value = find(object, key);
    if (value == nullptr || !value->is_number()) fail(key, "missing or not a number");
    return value->get<double>();
  }
  double number_or(const json& object, const char* key, double otherwise) const {
    return find(object, key) == nullptr ? otherwise : number(object, key);
  }

  bool flag(const char* key, bool otherwise) const {
    const json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) fail(key, "not true or false");
    return value->get<bool>();
  }

  std::string string_or(const json& object, const char* key, const char* otherwise) const {
    const json* value = find(object, key);
    if (value == nullptr) return otherwise;
    if (!value->is_string()) fail(key, "not a string");
    return value->get<std::string>();
  }

  // One id or a list of ids.
  std::vector<TokenId> ids(const char* key) const {
    std::vector<TokenId> result;
    const json* value = find(key);
    if (value == nullptr) return result;
    for (const json& id : value->is_array() ? *value : json::array({*value})) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= kMaxVocabulary) {
        fail(key, quoted_name(id.dump()) + " is not a token id");
      }
      result.push_back(static_cast<TokenId>(id.get<std::uint64_t>()));
    }
    return result;
  }

  const json& root() const noexcept { return root_; }

 private:
  std::string path_;
  json root_;
};

Architecture read_architecture(const Config& config) {
  const std::string type = config.string_or(config.root(), "model_type", "");
  if (type == "mistral") return Architecture::kLlama;  // the same network
  const auto architecture = find_architecture(type);
  if (!architecture) {
    config.fail("model_type",
                quoted_name(type) + " is not supported (llama, mistral, qwen2 and qwen3 are)");
  }
  return *architecture;
}

void refuse_variants(const Config& config) {
  const std::string activation = config.string_or(config.root(), "hidden_act", "silu");
  if (activation != "silu") {
    config.fail("hidden_act", quoted_name(activation) + " is not supported");
  }
  if (config.flag("mlp_bias", false)) config.fail("mlp_bias", "true is not supported");
  if (config.number_or(config.root(), "partial_rotary_factor", 1.0) != 1.0) {
    config.fail("partial_rotary_factor", "not supported");
  }
  if (config.find("quantization_config") != nullptr) {
    config.fail("quantization_config", "quantized weights are not supported in this format");
  }
}

void read_rope(const Config& config, ModelConfig* result) {
  // Newer files keep base and scaling together.
  const json* scaling = config.find("rope_parameters");
  if (scaling == nullptr) scaling = config.find("rope_scaling");
  result->rope_base = config.number_or(config.root(), "rope_theta", 10000.0);
  if (scaling == nullptr) return;
  if (!scaling->is_object()) config.fail("rope_scaling", "not an object");
  result->rope_base = config.number_or(*scaling, "rope_theta", result->rope_base);
  const std::string older = config.string_or(*scaling, "type", "default");
  const std::string type = config.string_or(*scaling, "rope_type", older.c_str());
  if (type == "linear") {
    result->rope_scaling = RopeScaling::kLinear;
    result->rope_divisors.assign(result->head_size / 2,
                                 static_cast<float>(config.number(*scaling, "factor")));
  } else if (type == "llama3") {
    Llama3Scaling llama3;
    llama3.factor = config.number(*scaling, "factor");
    llama3.low_frequency = config.number(*scaling, "low_freq_factor");
    llama3.high_frequency = config.number(*scaling, "high_freq_factor");
    llama3.original_context = config.number(*scaling, "original_max_position_embeddings");
    result->rope_scaling = RopeScaling::kLlama3;
    result->rope_divisors = llama3_divisors(llama3, result->rope_base, result->head_size);
  } else if (type != "default") {
    config.fail("rope_scaling", quoted_name(type) + " is not supported");
  }
}

void read_sizes(const Config& config, ModelConfig* result) {
  result->layers = config.size("num_hidden_layers");
  result->hidden = config.size("hidden_size");
  result->ffn = config.size("intermediate_size");
  result->heads = config.size("num_attention_heads");
  result->kv_heads = config.size_or("num_key_value_heads", result->heads);
  if (result->heads == 0) config.fail("num_attention_heads", "0 heads");
  result->head_size = config.size_or("head_dim", result->hidden / result->heads);
  result->vocab = config.size("vocab_size");
  result->context = config.size("max_position_embeddings");
  if (config.flag("use_sliding_window", true)) {
    const std::size_t window = config.size_or("sliding_window", 0);
    if (window != 0) result->context = std::min(result->context, window);
  }
}

void read_token_ids(const Config& config, const HfFolder& folder, const Tokenizer& tokenizer,
                    ModelConfig* result) {
  result->add_bos = tokenizer.add_bos();
  result->bos = tokenizer.bos();
  const auto bos = config.ids("bos_token_id");
  if (!result->bos && !bos.empty()) result->bos = bos.front();
  std::vector<TokenId> ends = tokenizer.ends();
  const auto add = [&ends](const std::vector<TokenId>& more) {
    ends.insert(ends.end(), more.begin(), more.end());
  };
  add(config.ids("eos_token_id"));
  if (const auto* generation = folder.generation_config()) {
    add(Config(*generation).ids("eos_token_id"));
  }
  for (const TokenId id : ends) {
    auto& list = result->ends;
    if (std::find(list.begin(), list.end(), id) == list.end()) list.push_back(id);
  }
}

ModelConfig read_config(const HfFolder& folder, const Tokenizer& tokenizer) {
  const Config config(folder.config());
  ModelConfig result;
  result.architecture = read_architecture(config);
  refuse_variants(config);
  read_sizes(config, &result);
  result.rms_epsilon = config.number_or(config.root(), "rms_norm_eps", 1e-6);
  result.rope_order = RopeOrder::kHalfSplit;
  result.qk_norm = result.architecture == Architecture::kQwen3;
  const bool has_head = folder.find(file_name("output")) != nullptr;
  result.tied_head = config.flag("tie_word_embeddings", !has_head);
  result.qkv_bias = folder.find(file_name("blk.0.attn_q.bias")) != nullptr;
  result.output_bias = folder.find(file_name("blk.0.attn_output.bias")) != nullptr;
  read_token_ids(config, folder, tokenizer, &result);
  check_config(result, folder.config().path());  // before sizes are used
  read_rope(config, &result);
  check_config(result, folder.config().path());
  return result;
}

Tokenizer read_tokenizer(const HfFolder& folder) {
  const auto* config = folder.tokenizer_config();
  if (config != nullptr && config->text().empty()) {  // no text would mean no file
    throw std::runtime_error(config->path() + ": is empty");
  }
  return tokenizer_from_json(folder.tokenizer().text(), folder.tokenizer().path(),
                             config == nullptr ? std::string_view() : config->text(),
                             config == nullptr ? std::string() : config->path());
}

std::size_t columns_of(const Tensor& tensor) {
  return tensor.shape.empty() ? 1 : tensor.shape.back();
}

class HfSource final : public ModelSource {
 public:
  explicit HfSource(const std::string& path)
      : folder_(path),
        architecture_(rrs_llm::read_architecture(Config(folder_.config()))),
        tokenizer_(read_tokenizer(folder_)),
        config_(read_config(folder_, tokenizer_)) {
    check_model(*this);
    check_tensors();
  }

  const std::string& path() const override { return folder_.path(); }
  void release_pages() const noexcept override { folder_.release_pages(); }
  const ModelConfig& config() const override { return config_; }
  const Tokenizer& tokenizer() const override { return tokenizer_; }

  std::optional<TensorInfo> info(std::string_view name) const override {
    const Tensor* tensor = folder_.find(file_name(name));
    if (tensor == nullptr) return std::nullopt;
    const std::size_t columns = columns_of(*tensor);
    return TensorInfo{tensor->name, dtype_name(tensor->dtype),
                      columns == 0 ? 0 : tensor->count() / columns, columns, tensor->size};
  }

  void read_rows(std::string_view name, std::size_t first, std::size_t count,
                 float* out) const override {
    const Tensor* tensor = folder_.find(file_name(name));
    if (tensor == nullptr) fail(name, "missing");
    const std::size_t columns = columns_of(*tensor);
    check_rows(path(), name, columns == 0 ? 0 : tensor->count() / columns, first, count);
    to_f32(*tensor, first * columns, count * columns, out);
  }

  std::optional<RawBlocks> raw_blocks(std::string_view name) const override {
    if (!info(name)) fail(name, "missing");
    return std::nullopt;  // this format has no 4-bit blocks
  }

 private:
  [[noreturn]] void fail(std::string_view name, const std::string& problem) const {
    throw std::runtime_error(path() + ": tensor " + quoted_name(name) + ": " + problem);
  }

  // Readable types only, and no tensor that the engine would leave out: it would compute another
  // model. Exempt: a head that is tied, and old files' RoPE tables.
  void check_tensors() const {
    constexpr std::string_view kRopeTable = "rotary_emb.inv_freq";
    std::set<std::string> used{"lm_head.weight"};
    for (const ExpectedTensor& expected : expected_tensors(config_)) {
      used.insert(file_name(expected.name));
    }
    for (const auto& [name, tensor] : folder_.tensors()) {
      const bool table =
          name.size() > kRopeTable.size() &&
          name.compare(name.size() - kRopeTable.size(), kRopeTable.size(), kRopeTable) == 0;
      if (table || name.compare(0, 6, "__pad.") == 0) continue;
      if (used.count(name) == 0) {
        fail(name, std::string("not part of a ") + architecture_name(config_.architecture) +
                       " model this engine runs");
      }
      const Dtype dtype = tensor->dtype;
      if (dtype != Dtype::kF32 && dtype != Dtype::kF16 && dtype != Dtype::kBf16) {
        fail(name, std::string("dtype ") + dtype_name(dtype) + " is not F32, F16 or BF16");
      }
    }
  }

  HfFolder folder_;
  Architecture architecture_;  // first: an unsupported one is named before anything else fails
  Tokenizer tokenizer_;
  ModelConfig config_;
};

}  // namespace

std::unique_ptr<ModelSource> open_hf_model(const std::string& folder) {
  return std::make_unique<HfSource>(folder);
}

}  // namespace rrs_llm
