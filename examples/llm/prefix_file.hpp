#pragma once
// The tensors of a prefix in a quantized file: prefix.tokens, prefix.k, prefix.v.
//
// From: Prefix; to: Prefix. An internal header of quantized_file.cpp. Reading checks dtypes, shapes
// against the model, values (prefix.hpp) and the hash in the file's metadata `prefix`; throws
// naming file and tensor.

#include <memory>
#include <string>
#include <vector>

#include "../support/safetensors.hpp"
#include "prefix.hpp"

namespace rrs_llm {

std::vector<rrs_examples::TensorSpec> prefix_specs(const Prefix& prefix, const ModelConfig& config);
// The next tensors of the writer.
void write_prefix(const Prefix& prefix, rrs_examples::SafetensorsWriter* writer);
// Of tokens and values: the metadata `prefix`.
std::string prefix_hash(const Prefix& prefix);
std::shared_ptr<const Prefix> read_prefix(const rrs_examples::Safetensors& file,
                                          const ModelConfig& config);

}  // namespace rrs_llm
