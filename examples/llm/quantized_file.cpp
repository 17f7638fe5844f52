#include "quantized_file.hpp"

#include <cstdio>
#include <map>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "../support/quoted_name.hpp"
#include "../support/safetensors.hpp"
#include "rrs/core/hash.hpp"
#include "rrs/pipeline/weight_file.hpp"

namespace rrs_llm {
namespace {

using rrs_examples::Dtype;
using rrs_examples::quoted_name;
using rrs_examples::Safetensors;
using rrs_examples::SafetensorsWriter;
using rrs_examples::Tensor;
using rrs_examples::TensorSpec;

[[noreturn]] void fail(const std::string& path, const std::string& problem) {
  throw std::runtime_error(path + ": " + problem);
}

std::uint64_t hash_text(const std::string& text, std::uint64_t seed) {
  return rrs::hash_bytes(text.data(), text.size(), seed);
}

// Bytes of the serialized weight, known before it is prepared.
std::size_t serialized_size(std::int64_t n, std::int64_t k, const rrs::WeightScheme& scheme,
                            bool offsets) {
  const rrs::Result<rrs::WeightLayout> layout = rrs::weight_layout(n, k, scheme, offsets);
  if (!layout) throw std::runtime_error(layout.status().message());
  return static_cast<std::size_t>(rrs::detail::kWeightHeaderBytes + layout->total_bytes);
}

bool has_offsets(const ModelSource& model, const std::string& name, const LinearPlan& plan) {
  return plan.kind == LinearKind::kNative && model.raw_blocks(name) &&
         model.raw_blocks(name)->type == GgufType::kQ4_1;
}

rrs::WeightScheme stored_scheme(const LinearPlan& plan) {
  rrs::WeightScheme scheme = plan.scheme.weight;
  if (plan.kind == LinearKind::kNative) {
    scheme.bits = 4;
    scheme.group = 32;
  }
  return scheme;
}

std::vector<TensorSpec> file_layout(const ModelSource& model, const Method& method) {
  std::vector<TensorSpec> specs;
  for (std::size_t layer = 0; layer < model.config().layers; ++layer) {
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      const LinearPlan plan = method.plan(layer, l);
      if (plan.kind == LinearKind::kFloat) continue;  // read from the model
      const std::string name = linear_name(layer, l);
      const TensorInfo info = *model.info(name);
      specs.push_back({name + ".rrs",
                       Dtype::kU8,
                       {serialized_size(static_cast<std::int64_t>(info.rows),
                                        static_cast<std::int64_t>(info.columns),
                                        stored_scheme(plan), has_offsets(model, name, plan))}});
      if (method.needs_calibration()) {
        specs.push_back({name + ".divisor", Dtype::kF32, {info.columns}});
      }
    }
  }
  return specs;
}

void write_linear(const Linear& linear, const std::string& name, SafetensorsWriter* writer) {
  const rrs::WeightView& view = *linear.packed();
  std::vector<std::byte> bytes(rrs::serialized_bytes(view));
  const rrs::Status status = rrs::serialize_weight(view, bytes.data(), bytes.size());
  if (!status) throw std::runtime_error(name + ": " + status.message());
  writer->write(name + ".rrs", bytes.data(), bytes.size());
  if (const std::vector<float>* divisor = linear.divisor(); divisor != nullptr) {
    writer->write(name + ".divisor", divisor->data(), divisor->size() * sizeof(float));
  }
}

void check_packable(const Method& method) {
  if (method.kind == LinearKind::kFloat || method.kind == LinearKind::kSimulatedRs) {
    throw std::runtime_error("method " + method.name + ": has no packed weights to write");
  }
}

// Settings as text that make_method reads back; patterns travel as overrides.
std::string settings_text(const Method& method) {
  std::string text;
  for (const Setting& s : method.settings) {
    text += s.pattern + "\n" + s.key + "\n" + s.value + "\n";
  }
  return text;
}

std::vector<Setting> read_settings(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = (std::min)(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  std::vector<Setting> settings;
  for (std::size_t i = 0; i + 2 < lines.size(); i += 3) {
    settings.push_back(Setting{lines[i], lines[i + 1], lines[i + 2]});
  }
  return settings;
}

std::string metadata_of(const Safetensors& file, const char* key) {
  const auto at = file.metadata().find(key);
  if (at == file.metadata().end()) {
    fail(file.path(), std::string("metadata '") + key + "': missing: not written by `quantize`");
  }
  return at->second;
}

void check_identity(const Safetensors& file, const ModelSource& model) {
  const auto require = [&](const char* key, const std::string& expected, const char* what) {
    const std::string found = metadata_of(file, key);
    if (found != expected) {
      fail(file.path(), std::string("metadata '") + key + "': " + quoted_name(found) + " is not " +
                            quoted_name(expected) + ": " + what);
    }
  };
  require("format", kQuantizedFormat, "another kind of file");
  require("version", kQuantizedVersion, "written by another version");
  require("model", model_fingerprint(model),
          ("made from another model than " + model.path()).c_str());
}

std::unique_ptr<Linear> map_linear(const std::shared_ptr<const Safetensors>& file,
                                   const ModelSource& model, const std::string& name) {
  const Tensor& tensor = file->require(name + ".rrs");
  if (tensor.dtype != Dtype::kU8) {
    fail(file->path(), "tensor " + quoted_name(tensor.name) + ": dtype is not U8");
  }
  const rrs::Result<rrs::WeightView> view = rrs::view_weight(tensor.data, tensor.size);
  if (!view) {
    fail(file->path(), "tensor " + quoted_name(tensor.name) + ": " + view.status().message());
  }
  const TensorInfo info = *model.info(name);
  if (view->n != static_cast<std::int64_t>(info.rows) ||
      view->k != static_cast<std::int64_t>(info.columns)) {
    fail(file->path(), "tensor " + quoted_name(tensor.name) + ": is " + std::to_string(view->n) +
                           " x " + std::to_string(view->k) + ", the model's is " +
                           std::to_string(info.rows) + " x " + std::to_string(info.columns));
  }
  std::vector<float> divisor;
  if (const Tensor* t = file->find(name + ".divisor"); t != nullptr) {
    divisor = rrs_examples::to_f32(*t);
    if (divisor.size() != info.columns) {
      fail(file->path(), "tensor " + quoted_name(t->name) + ": " + std::to_string(divisor.size()) +
                             " values, not " + std::to_string(info.columns));
    }
  }
  rrs::LayerChannels channels;
  channels.divisor = divisor.empty() ? nullptr : divisor.data();
  if (rrs::channels_fingerprint(channels, view->k) != view->channels_fingerprint) {
    fail(file->path(),
         "tensor " + quoted_name(name + ".divisor") + ": is not the one the weight was made with");
  }
  return make_rrs_linear(name, *view, view->scheme, std::move(divisor), file);
}

}  // namespace

std::string model_fingerprint(const ModelSource& model) {
  const ModelConfig& c = model.config();
  std::uint64_t h = hash_text(architecture_name(c.architecture), 1);
  const double numbers[] = {c.rope_base, c.rms_epsilon,
                            c.rope_order == RopeOrder::kInterleaved ? 1.0 : 0.0};
  h = rrs::hash_bytes(numbers, sizeof numbers, h);
  for (const ExpectedTensor& t : expected_tensors(c)) {
    const TensorInfo info = *model.info(t.name);
    h = hash_text(t.name + "|" + info.type + "|" + std::to_string(info.rows) + "x" +
                      std::to_string(info.columns),
                  h);
    std::vector<float> row(info.columns);
    for (const std::size_t r : {std::size_t{0}, info.rows / 2, info.rows - 1}) {
      model.read_rows(t.name, r, 1, row.data());
      h = rrs::hash_bytes(row.data(), row.size() * sizeof(float), h);
    }
  }
  char text[20];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(h));
  return text;
}

void write_quantized(const ModelSource& model, const Method& method, const PrepareOptions& options,
                     const ThreadPool& pool, const std::string& out) {
  check_packable(method);
  const std::map<std::string, std::string> metadata{{"format", kQuantizedFormat},
                                                    {"version", kQuantizedVersion},
                                                    {"method", method.text},
                                                    {"method_name", method.name},
                                                    {"description", describe(method)},
                                                    {"settings", settings_text(method)},
                                                    {"model", model_fingerprint(model)},
                                                    {"model_path", model.path()}};
  SafetensorsWriter writer(out, file_layout(model, method), metadata);
  const std::size_t layers = model.config().layers;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      if (method.plan(layer, l).kind != LinearKind::kFloat) {
        const std::vector<float> divisor =
            input_divisor(model, method, layer, input_of(l), options);
        const auto linear = prepare_linear(model, method, layer, l, divisor, options, pool);
        write_linear(*linear, linear_name(layer, l), &writer);
        model.release_pages();
      }
      if (options.progress) {
        options.progress(layer * kLinearsPerLayer + l + 1, layers * kLinearsPerLayer);
      }
    }
  }
  writer.commit();
}

QuantizedFile open_quantized(const std::string& path, const ModelSource& model) {
  const auto file = std::make_shared<const Safetensors>(path);
  check_identity(*file, model);
  QuantizedFile q;
  q.method =
      make_method(metadata_of(*file, "method"), read_settings(metadata_of(*file, "settings")));
  q.method.name = metadata_of(*file, "method_name");
  q.description = metadata_of(*file, "description");
  check_packable(q.method);
  for (std::size_t layer = 0; layer < model.config().layers; ++layer) {
    LayerLinears linears;
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      const std::string name = linear_name(layer, l);
      if (q.method.plan(layer, l).kind == LinearKind::kFloat) {
        const TensorInfo info = *model.info(name);
        linears[l] = make_float_linear(name, model.read(name), static_cast<std::int64_t>(info.rows),
                                       static_cast<std::int64_t>(info.columns));
      } else {
        linears[l] = map_linear(file, model, name);
      }
    }
    q.linears.push_back(std::move(linears));
  }
  return q;
}

}  // namespace rrs_llm
