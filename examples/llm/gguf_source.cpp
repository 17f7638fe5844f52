// ModelSource over a GGUF file.

#include <algorithm>
#include <set>
#include <stdexcept>

#include "../support/quoted_name.hpp"
#include "gguf.hpp"
#include "model_source.hpp"

namespace rrs_llm {
namespace {

using rrs_examples::quoted_name;

constexpr std::uint64_t kLargestSize = std::uint64_t{1} << 26;
constexpr const char* kRopeFactors = "rope_freqs.weight";

std::string file_name(std::string_view canonical) {
  constexpr std::string_view kBias = ".bias";
  const bool bias =
      canonical.size() > kBias.size() && canonical.substr(canonical.size() - kBias.size()) == kBias;
  return std::string(canonical) + (bias ? "" : ".weight");
}

[[noreturn]] void fail(const Gguf& file, const std::string& problem) {
  throw std::runtime_error(file.path() + ": " + problem);
}

Architecture read_architecture(const Gguf& file) {
  const std::string name(file.require_string("general.architecture"));
  const auto architecture = find_architecture(name);
  if (!architecture) {
    fail(file, "metadata 'general.architecture': " + quoted_name(name) +
                   " is not supported (llama, qwen2 and qwen3 are)");
  }
  return *architecture;
}

void read_sizes(const Gguf& file, const std::string& prefix, ModelConfig* config) {
  const auto size = [&](const char* key) {
    return static_cast<std::size_t>(file.require_uint(prefix + key, kLargestSize));
  };
  const auto size_or = [&](const char* key, std::size_t otherwise) {
    return static_cast<std::size_t>(file.uint_or(prefix + key, kLargestSize, otherwise));
  };
  config->layers = size("block_count");
  config->hidden = size("embedding_length");
  config->ffn = size("feed_forward_length");
  config->heads = size("attention.head_count");
  config->kv_heads = size_or("attention.head_count_kv", config->heads);
  config->context = size("context_length");
  const std::size_t window = size_or("attention.sliding_window", 0);
  if (window != 0) config->context = std::min(config->context, window);
  if (config->heads == 0) fail(file, "metadata '" + prefix + "attention.head_count': 0 heads");
  config->head_size = size_or("attention.key_length", config->hidden / config->heads);
  for (const char* key : {"attention.value_length", "rope.dimension_count"}) {
    const std::size_t value = size_or(key, config->head_size);
    if (value != config->head_size) {
      fail(file, "metadata '" + prefix + key + "': " + std::to_string(value) +
                     " differs from the head size " + std::to_string(config->head_size) +
                     ", which is not supported");
    }
  }
  if (size_or("expert_count", 0) != 0) {
    fail(file, "metadata '" + prefix + "expert_count': experts are not supported");
  }
}

// LLaMA 3's scaling comes as a tensor of divisors, the linear one as metadata.
void read_rope(const Gguf& file, const std::string& prefix, ModelConfig* config) {
  double factor = file.float_or(prefix + "rope.scale_linear", 1.0);
  const std::string type_key = prefix + "rope.scaling.type";
  const std::string_view type = file.string_or(type_key, "none");
  if (type == "linear") {
    factor = file.require_float(prefix + "rope.scaling.factor");
  } else if (type != "none") {
    fail(file, "metadata '" + type_key + "': " + quoted_name(type) + " is not supported");
  }
  if (factor != 1.0) {
    config->rope_scaling = RopeScaling::kLinear;
    config->rope_divisors.assign(config->head_size / 2, static_cast<float>(factor));
  }
  const GgufTensor* divisors = file.find(kRopeFactors);
  if (divisors == nullptr) return;
  const std::string where = std::string("tensor '") + kRopeFactors + "': ";
  if (factor != 1.0) fail(file, where + "comes together with linear scaling");
  if (divisors->rows != 1 || divisors->columns != config->head_size / 2) {
    fail(file, where + std::to_string(divisors->columns) + " values, not " +
                   std::to_string(config->head_size / 2));
  }
  config->rope_scaling = RopeScaling::kLlama3;
  config->rope_divisors.resize(divisors->columns);
  dequantize_rows(*divisors, 0, 1, config->rope_divisors.data());
}

ModelConfig read_config(const Gguf& file, const Tokenizer& tokenizer) {
  ModelConfig config;
  config.architecture = read_architecture(file);
  const std::string prefix = std::string(architecture_name(config.architecture)) + ".";
  read_sizes(file, prefix, &config);
  const GgufTensor* embedding = file.find("token_embd.weight");
  if (embedding == nullptr) fail(file, "tensor 'token_embd.weight': missing");
  config.vocab = embedding->rows;
  config.rms_epsilon = file.require_float(prefix + "attention.layer_norm_rms_epsilon");
  const bool llama = config.architecture == Architecture::kLlama;
  config.rope_order = llama ? RopeOrder::kInterleaved : RopeOrder::kHalfSplit;
  config.qk_norm = config.architecture == Architecture::kQwen3;
  config.tied_head = file.find("output.weight") == nullptr;
  config.qkv_bias = file.find("blk.0.attn_q.bias") != nullptr;
  config.output_bias = file.find("blk.0.attn_output.bias") != nullptr;
  config.add_bos = tokenizer.add_bos();
  config.bos = tokenizer.bos();
  config.ends = tokenizer.ends();
  config.rope_base = file.float_or(prefix + "rope.freq_base", 10000.0);
  check_config(config, file.path());  // before sizes are used
  read_rope(file, prefix, &config);
  check_config(config, file.path());
  return config;
}

class GgufSource final : public ModelSource {
 public:
  explicit GgufSource(const std::string& path)
      : file_(path),
        architecture_(read_architecture(file_)),
        tokenizer_(tokenizer_from_gguf(file_)),
        config_(read_config(file_, tokenizer_)) {
    check_model(*this);
    check_unused();
  }

  const std::string& path() const override { return file_.path(); }
  void release_pages() const noexcept override { file_.release_pages(); }
  const ModelConfig& config() const override { return config_; }
  const Tokenizer& tokenizer() const override { return tokenizer_; }

  std::optional<TensorInfo> info(std::string_view name) const override {
    const GgufTensor* tensor = file_.find(file_name(name));
    if (tensor == nullptr) return std::nullopt;
    return TensorInfo{tensor->name, gguf_type_info(tensor->type).name, tensor->rows,
                      tensor->columns, tensor->size};
  }

  void read_rows(std::string_view name, std::size_t first, std::size_t count,
                 float* out) const override {
    const GgufTensor& tensor = require(name);
    check_rows(path(), name, tensor.rows, first, count);
    dequantize_rows(tensor, first, count, out);
  }

  std::optional<RawBlocks> raw_blocks(std::string_view name) const override {
    const GgufTensor& tensor = require(name);
    if (tensor.type != GgufType::kQ4_0 && tensor.type != GgufType::kQ4_1 &&
        tensor.type != GgufType::kQ8_0) {
      return std::nullopt;
    }
    return RawBlocks{tensor.type, tensor.rows, tensor.columns, tensor.row_bytes, tensor.data};
  }

 private:
  const GgufTensor& require(std::string_view name) const {
    const GgufTensor* tensor = file_.find(file_name(name));
    if (tensor == nullptr) fail(file_, "tensor " + quoted_name(name) + ": missing");
    return *tensor;
  }

  // A tensor the engine would not read means a model it would compute wrongly.
  void check_unused() const {
    std::set<std::string> used{kRopeFactors};
    for (const ExpectedTensor& expected : expected_tensors(config_)) {
      used.insert(file_name(expected.name));
    }
    for (const GgufTensor& tensor : file_.tensors()) {
      if (used.count(tensor.name) == 0) {
        fail(file_, "tensor " + quoted_name(tensor.name) + ": not part of a " +
                        architecture_name(config_.architecture) + " model this engine runs");
      }
    }
  }

  Gguf file_;
  Architecture architecture_;  // first: an unsupported one is named before anything else fails
  Tokenizer tokenizer_;
  ModelConfig config_;
};

}  // namespace

std::unique_ptr<ModelSource> open_gguf_model(const std::string& path) {
  return std::make_unique<GgufSource>(path);
}

}  // namespace rrs_llm
