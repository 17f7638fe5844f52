#include "prefix_file.hpp"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "../support/half.hpp"
#include "rrs/core/hash.hpp"

namespace rrs_llm {
namespace {

using rrs_examples::Dtype;
using rrs_examples::Safetensors;
using rrs_examples::Tensor;

constexpr const char* kTokens = "prefix.tokens";
constexpr const char* kKeys = "prefix.k";
constexpr const char* kValues = "prefix.v";

const Tensor& checked(const Safetensors& file, const char* name, Dtype dtype,
                      const std::vector<std::size_t>& shape) {
  const Tensor& t = file.require(name);
  if (t.dtype == dtype && t.shape == shape) return t;
  std::string text;
  for (const std::size_t n : shape) text += (text.empty() ? "" : ", ") + std::to_string(n);
  throw std::runtime_error(file.path() + ": tensor '" + name + "': is not " +
                           rrs_examples::dtype_name(dtype) + " [" + text + "]");
}

std::vector<TokenId> read_tokens(const Safetensors& file) {
  const Tensor& t = file.require(kTokens);
  checked(file, kTokens, Dtype::kI32, {t.count()});
  std::vector<TokenId> tokens(t.count());
  std::memcpy(tokens.data(), t.data, t.size);
  return tokens;
}

}  // namespace

std::vector<rrs_examples::TensorSpec> prefix_specs(const Prefix& prefix,
                                                   const ModelConfig& config) {
  const std::vector<std::size_t> shape{prefix.layers.size(), prefix.tokens.size(),
                                       config.kv_heads * config.head_size};
  return {{kTokens, Dtype::kI32, {prefix.tokens.size()}},
          {kKeys, Dtype::kF16, shape},
          {kValues, Dtype::kF16, shape}};
}

void write_prefix(const Prefix& prefix, rrs_examples::SafetensorsWriter* writer) {
  writer->write(kTokens, prefix.tokens.data(), prefix.tokens.size() * sizeof(TokenId));
  for (const char* name : {kKeys, kValues}) {
    for (const Prefix::Layer& layer : prefix.layers) {
      const std::vector<float>& values = name == kKeys ? layer.k : layer.v;
      std::vector<std::uint16_t> halves;
      halves.reserve(values.size());
      for (const float value : values) halves.push_back(rrs_examples::f32_to_f16(value));
      writer->write(name, halves.data(), halves.size() * sizeof(std::uint16_t));
    }
  }
}

std::string prefix_hash(const Prefix& prefix) {
  std::uint64_t h = rrs::hash_bytes(prefix.tokens.data(), prefix.tokens.size() * sizeof(TokenId));
  for (const Prefix::Layer& layer : prefix.layers) {
    h = rrs::hash_bytes(layer.k.data(), layer.k.size() * sizeof(float), h);
    h = rrs::hash_bytes(layer.v.data(), layer.v.size() * sizeof(float), h);
  }
  char text[20];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(h));
  return text;
}

std::shared_ptr<const Prefix> read_prefix(const Safetensors& file, const ModelConfig& config) {
  auto prefix = std::make_shared<Prefix>();
  prefix->tokens = read_tokens(file);
  prefix->layers.resize(config.layers);
  const std::size_t width = config.kv_heads * config.head_size;
  const std::size_t count = prefix->tokens.size() * width;
  const std::vector<std::size_t> shape{config.layers, prefix->tokens.size(), width};
  const Tensor& keys = checked(file, kKeys, Dtype::kF16, shape);
  const Tensor& values = checked(file, kValues, Dtype::kF16, shape);
  for (std::size_t i = 0; i < config.layers; ++i) {
    Prefix::Layer& layer = prefix->layers[i];
    layer.k.resize(count);
    layer.v.resize(count);
    rrs_examples::to_f32(keys, i * count, count, layer.k.data());
    rrs_examples::to_f32(values, i * count, count, layer.v.data());
  }
  try {
    check_prefix(*prefix, config);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(file.path() + ": " + error.what());
  }
  const auto hash = file.metadata().find("prefix");
  if (hash == file.metadata().end() || hash->second != prefix_hash(*prefix)) {
    throw std::runtime_error(file.path() + ": metadata 'prefix': " +
                             (hash == file.metadata().end() ? "missing" : "not of the tensors"));
  }
  return prefix;
}

}  // namespace rrs_llm
