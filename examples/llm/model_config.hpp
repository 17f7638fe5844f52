#pragma once
// What a model is made of, whichever file format it came in.
//
// Producers: the GGUF and Hugging Face sources; consumer: the engine. Canonical tensor names:
// token_embd, output_norm, output, and per layer blk.N.{attn_norm, attn_q, attn_k, attn_v,
// attn_output, ffn_norm, ffn_gate, ffn_up, ffn_down}; biases append ".bias"; qwen3 adds
// attn_q_norm and attn_k_norm. A matrix has rows = outputs and columns = inputs; a vector is one
// row.

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "bpe.hpp"

namespace rrs_llm {

enum class Architecture { kLlama, kQwen2, kQwen3 };

// Which elements of a head RoPE rotates together, in the order of the file's q and k rows.
enum class RopeOrder {
  kInterleaved,  // (2i, 2i+1): GGUF files of llama
  kHalfSplit,    // (i, i + head_size/2): Hugging Face files, GGUF files of qwen2 and qwen3
};

enum class RopeScaling { kNone, kLinear, kLlama3 };

struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  std::size_t layers = 0;
  std::size_t hidden = 0;
  std::size_t ffn = 0;
  std::size_t heads = 0;
  std::size_t kv_heads = 0;
  std::size_t head_size = 0;
  std::size_t vocab = 0;
  std::size_t context = 0;  // a sliding window caps it: within the window both are the same
  double rope_base = 10000.0;
  RopeOrder rope_order = RopeOrder::kHalfSplit;
  RopeScaling rope_scaling = RopeScaling::kNone;
  // Pair i turns by position / (rope_base^(2i / head_size) * rope_divisors[i]); empty means 1.
  std::vector<float> rope_divisors;
  double rms_epsilon = 1e-5;
  bool tied_head = false;  // `output` is `token_embd`
  bool qkv_bias = false;
  bool output_bias = false;  // of attn_output
  bool qk_norm = false;
  bool add_bos = false;
  std::optional<TokenId> bos;
  std::vector<TokenId> ends;
};

const char* architecture_name(Architecture architecture) noexcept;
// nullopt for an architecture the engine does not have.
std::optional<Architecture> find_architecture(const std::string& name);

struct ExpectedTensor {
  std::string name;  // canonical
  std::size_t rows;
  std::size_t columns;
};

// Every tensor the engine reads, in the order of use.
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config);

// Ranges and relations of the numbers; throws naming `source`, field, value and limit.
void check_config(const ModelConfig& config, const std::string& source);

// LLaMA 3.1's rule: long wavelengths are slowed by `factor`, short ones kept, a ramp between.
struct Llama3Scaling {
  double factor = 8.0;
  double low_frequency = 1.0;
  double high_frequency = 4.0;
  double original_context = 8192.0;
};
std::vector<float> llama3_divisors(const Llama3Scaling& scaling, double rope_base,
                                   std::size_t head_size);

}  // namespace rrs_llm
