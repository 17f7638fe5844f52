#pragma once
// Prepared linears in a file: written once, then mapped and used in place.
//
//   NAME.rrs      U8   the bytes of rrs::serialize_weight, 64-byte aligned
//   NAME.divisor  F32  SmoothQuant's or ASER's divisors of the linear's input, where there are any
//   NAME.permutation  I32  zigzag's, where there is one
//   prefix.tokens I32, prefix.k and prefix.v F16 [layers, tokens, kv width]: of methods with +qfep
//   metadata      format, version, method, description, model fingerprint
//
// From: `quantize`; to: `perplexity` and `generate` with --weights. A safetensors file that appears
// complete or not at all. Embedding, norms, head and tokenizer stay in the model's own file, which
// must be the one the weights were made from: a fingerprint of its configuration and of rows of
// every tensor is compared. One tensor is in memory at a time while writing.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "../support/atomic_file.hpp"
#include "engine.hpp"
#include "method.hpp"
#include "prepare.hpp"
#include "rrs/pipeline/weight_view.hpp"

namespace rrs_llm {

inline constexpr const char* kQuantizedFormat = "rrs-llm quantized linears";
inline constexpr const char* kQuantizedVersion = "1";

// Not a defence against forgery.
std::string model_fingerprint(const ModelSource& model);

// `text`: the method as make_method takes it, with every setting in it. Throws for fp and for
// simulated methods: they have no packed weights.
// With options.unfinished, finished linears are also kept there until somebody removes it. `out` is
// opened by the caller, before calibration.
void write_quantized(const ModelSource& model, const Method& asked, const PrepareOptions& options,
                     const ThreadPool& pool, rrs_examples::AtomicFile out);

// Where the sections of a linear's packed weight lie, known before it is prepared; without a branch
// whose rank is found while preparing (rank-share). Throws for a shape that cannot be packed.
rrs::WeightLayout stored_layout(const ModelSource& model, const std::string& name,
                                const LinearPlan& plan);

// What is stored beside a linear's packed weight, known beforehand: 4 bytes per input each.
struct StoredChannels {
  bool divisor = false;
  bool permutation = false;
};
StoredChannels stored_channels(const LinearPlan& plan) noexcept;

// Throws what write_quantized would throw before it asks for a calibration: a method that has no
// packed weights, a recipe for another model, a pattern that names nothing, a rank that does not
// fit.
void check_writable(const ModelSource& model, const Method& method);

struct QuantizedFile {
  Method method;
  std::string description;
  std::string calibration;               // Calibration::text; empty where the method needs none
  LinearStack linears;                   // keep the mapping alive
  std::shared_ptr<const Prefix> prefix;  // of methods with +qfep
};

// Throws naming the file and what differs: format, version, model, tensor, shape or checksum.
QuantizedFile open_quantized(const std::string& path, const ModelSource& model,
                             const std::function<void(std::size_t, std::size_t)>& progress = {});

}  // namespace rrs_llm
