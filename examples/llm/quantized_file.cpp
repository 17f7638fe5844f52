#include "quantized_file.hpp"

#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "../support/quoted_name.hpp"
#include "../support/safetensors.hpp"
#include "prefix_file.hpp"
#include "record_file.hpp"
#include "recipe.hpp"
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

// The prefix comes first, then the linears.
std::vector<TensorSpec> file_layout(const ModelSource& model, const Method& method,
                                    const Prefix* prefix) {
  std::vector<TensorSpec> specs =
      prefix == nullptr ? std::vector<TensorSpec>{} : prefix_specs(*prefix, model.config());
  for (std::size_t layer = 0; layer < model.config().layers; ++layer) {
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      const LinearPlan plan = method.plan(layer, l);
      if (plan.kind == LinearKind::kFloat) continue;  // read from the model
      const std::string name = linear_name(layer, l);
      const TensorInfo info = *model.info(name);
      const std::int64_t bytes =
          rrs::detail::kWeightHeaderBytes + stored_layout(model, name, plan).total_bytes;
      specs.push_back({name + ".rrs", Dtype::kU8, {static_cast<std::size_t>(bytes)}});
      const StoredChannels beside = stored_channels(plan);
      if (beside.divisor) {
        specs.push_back({name + ".divisor", Dtype::kF32, {info.columns}});
      }
      if (beside.permutation) {
        specs.push_back({name + ".permutation", Dtype::kI32, {info.columns}});
      }
    }
  }
  return specs;
}

// What the file holds of one linear.
struct LinearBytes {
  std::vector<std::byte> weight;
  InputChannels channels;
};

LinearBytes bytes_of(const Linear& linear, const std::string& name) {
  rrs::WeightView view = *linear.packed();
  // The divisor is stored too where the norm takes it, and checked against the weight.
  if (linear.channels()->folded) {
    view.channels_fingerprint = rrs::channels_fingerprint(linear.channels()->of_weight(), view.k);
  }
  LinearBytes b{std::vector<std::byte>(rrs::serialized_bytes(view)), *linear.channels()};
  const rrs::Status status = rrs::serialize_weight(view, b.weight.data(), b.weight.size());
  if (!status) throw std::runtime_error(name + ": " + status.message());
  return b;
}

void write_linear(const LinearBytes& b, const std::string& name, SafetensorsWriter* writer) {
  writer->write(name + ".rrs", b.weight.data(), b.weight.size());
  const std::vector<float>& divisor = b.channels.divisor;
  if (!divisor.empty()) {
    writer->write(name + ".divisor", divisor.data(), divisor.size() * sizeof(float));
  }
  const std::vector<std::int32_t>& permutation = b.channels.permutation;
  if (!permutation.empty()) {
    writer->write(name + ".permutation", permutation.data(),
                  permutation.size() * sizeof(std::int32_t));
  }
}

// Finished linears beside a file that is not complete, one record each: a later run takes them.
class UnfinishedLinears {
 public:
  UnfinishedLinears(std::string path, std::uint64_t identity, bool resume)
      : log_(std::move(path), identity, resume) {}

  std::optional<LinearBytes> next(const std::string& name) {
    if (taken_ == log_.records().size()) return std::nullopt;
    const std::string& record = log_.records()[taken_++];
    LinearBytes b;
    std::size_t at = 0;
    const auto get = [&](auto* values) {
      std::uint64_t count = 0;
      std::memcpy(&count, record.data() + at, sizeof count);
      values->resize(count);
      if (count > 0)
        std::memcpy(values->data(), record.data() + at + 8, count * sizeof(values->front()));
      at += 8 + count * sizeof(values->front());
    };
    std::vector<char> text;
    get(&text);
    if (std::string(text.begin(), text.end()) != name) fail(log_.path(), "linears out of order");
    get(&b.weight);
    get(&b.channels.divisor);
    get(&b.channels.permutation);
    return b;
  }

  void append(const LinearBytes& b, const std::string& name) {
    std::string record;
    const auto put = [&](const auto& values) {
      const std::uint64_t count = values.size();
      record.append(reinterpret_cast<const char*>(&count), sizeof count);
      record.append(reinterpret_cast<const char*>(values.data()), count * sizeof(values[0]));
    };
    put(name);
    put(b.weight);
    put(b.channels.divisor);
    put(b.channels.permutation);
    log_.append(record);
    taken_ = log_.records().size();
  }

 private:
  RecordFile log_;
  std::size_t taken_ = 0;
};

// The method with every rank-share replaced by the rank that it gives: where the bytes of the file
// lie is known before the first is written. Prepares all linears once, to throw them away (kept,
// they would be the whole model); fixed ranks give the same weights.
Method with_ranks(const ModelSource& model, const Method& method, PrepareOptions options,
                  const ThreadPool& pool) {
  const std::size_t all = model.config().layers * kLinearsPerLayer;
  const auto has_share = [&](std::size_t i) {
    const LinearPlan plan = method.plan(i / kLinearsPerLayer, i % kLinearsPerLayer);
    return plan.kind != LinearKind::kFloat && plan.weight.aser.alpha > 0.0;
  };
  std::size_t shares = 0;
  for (std::size_t i = 0; i < all; ++i) shares += has_share(i) ? 1u : 0u;
  if (shares == 0) return method;
  Method known = method;
  options.warn = options.note = nullptr;  // the second time
  LinearMaker maker(model, method, options, pool);
  for (std::size_t i = 0; i < all; ++i) {
    const std::size_t layer = i / kLinearsPerLayer, l = i % kLinearsPerLayer;
    if (has_share(i) || method.needs_stream()) {  // GPTAQ's linears depend on those before them
      const std::unique_ptr<Linear> made = maker.make(layer, l);
      model.release_pages();
      if (has_share(i)) {
        const int outliers = method.plan(layer, l).weight.aser.smoothed();
        const std::string name = linear_name(layer, l);
        known.settings.push_back({name, "rank", std::to_string(made->packed()->low_rank.rank)});
        known.settings.push_back({name, "outliers", std::to_string(outliers)});
      }
    }
    if (options.progress) options.progress(i + 1, 2 * all);
  }
  return known;
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

InputChannels read_channels(const Safetensors& file, const std::string& name, std::size_t columns) {
  InputChannels c;
  const auto check = [&](const Tensor& t, std::size_t count) {
    if (count == columns) return;
    fail(file.path(), "tensor " + quoted_name(t.name) + ": " + std::to_string(count) +
                          " values, not " + std::to_string(columns));
  };
  if (const Tensor* t = file.find(name + ".divisor"); t != nullptr) {
    c.divisor = rrs_examples::to_f32(*t);
    check(*t, c.divisor.size());
  }
  if (const Tensor* t = file.find(name + ".permutation"); t != nullptr) {
    if (t->dtype != Dtype::kI32) fail(file.path(), "tensor " + quoted_name(t->name) + ": not I32");
    check(*t, t->count());
    c.permutation.resize(columns);
    std::memcpy(c.permutation.data(), t->data, t->size);
    for (const std::int32_t i : c.permutation) {
      if (i < 0 || static_cast<std::size_t>(i) >= columns) {
        fail(file.path(), "tensor " + quoted_name(t->name) + ": index " + std::to_string(i) +
                              " is not below " + std::to_string(columns));
      }
    }
  }
  return c;
}

std::unique_ptr<Linear> map_linear(const std::shared_ptr<const Safetensors>& file,
                                   const ModelSource& model, const std::string& name, bool folded) {
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
  InputChannels channels = read_channels(*file, name, info.columns);
  if (rrs::channels_fingerprint(channels.view(), view->k) != view->channels_fingerprint) {
    fail(file->path(), "tensor " + quoted_name(name + ".divisor") +
                           " or .permutation: is not the one the weight was made with");
  }
  channels.folded = folded;
  return make_rrs_linear(name, *view, view->scheme, std::move(channels), file);
}

}  // namespace

rrs::WeightLayout stored_layout(const ModelSource& model, const std::string& name,
                                const LinearPlan& plan) {
  const TensorInfo info = *model.info(name);
  const rrs::Result<rrs::WeightLayout> layout = rrs::weight_layout(
      static_cast<std::int64_t>(info.rows), static_cast<std::int64_t>(info.columns),
      stored_scheme(plan), has_offsets(model, name, plan), plan.weight.aser.rank,
      plan.weight.aser.bits);
  if (!layout) throw std::runtime_error(name + ": " + layout.status().message());
  return *layout;
}

StoredChannels stored_channels(const LinearPlan& plan) noexcept {
  if (plan.kind != LinearKind::kRrs) return {};
  return {plan.scheme.smoothquant_alpha > 0.0f || plan.weight.aser.smoothed() > 0,
          plan.weight.zigzag};
}

void check_writable(const ModelSource& model, const Method& method) {
  check_packable(method);
  check_recipe_model(method, model);
  check_patterns(method, model.config().layers);
  file_layout(model, method, nullptr);
}

std::string model_fingerprint(const ModelSource& model) {
  const ModelConfig& c = model.config();
  std::uint64_t h = hash_text(architecture_name(c.architecture), 1);
  const double numbers[] = {c.rope_base, c.rms_epsilon,
                            c.rope_order == RopeOrder::kInterleaved ? 1.0 : 0.0};
  h = rrs::hash_bytes(numbers, sizeof numbers, h);
  const std::size_t sizes[] = {c.heads, c.kv_heads, c.head_size, c.context};
  h = rrs::hash_bytes(sizes, sizeof sizes, h);
  h = rrs::hash_bytes(c.rope_divisors.data(), c.rope_divisors.size() * sizeof(float), h);
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

void write_quantized(const ModelSource& model, const Method& asked, const PrepareOptions& options,
                     const ThreadPool& pool, rrs_examples::AtomicFile out) {
  check_writable(model, asked);
  const Method method = with_ranks(model, asked, options, pool);
  std::map<std::string, std::string> metadata{{"format", kQuantizedFormat},
                                              {"version", kQuantizedVersion},
                                              {"method", method.text},
                                              {"method_name", method.name},
                                              {"description", describe(asked)},
                                              {"settings", settings_text(method)},
                                              {"model", model_fingerprint(model)},
                                              {"model_path", model.path()}};
  if (method.qfep != (options.prefix != nullptr)) {
    throw std::runtime_error("method " + method.name + ": +qfep and a prefix go together");
  }
  if (options.calibration != nullptr) metadata["calibration"] = options.calibration->text();
  if (options.prefix != nullptr) metadata["prefix"] = prefix_hash(*options.prefix);
  SafetensorsWriter writer(std::move(out), file_layout(model, method, options.prefix.get()),
                           metadata);
  if (options.prefix != nullptr) write_prefix(*options.prefix, &writer);
  LinearMaker maker(model, method, options, pool);
  std::unique_ptr<UnfinishedLinears> unfinished;
  if (!options.unfinished.empty()) {
    std::uint64_t identity = options.calibration == nullptr ? 0 : options.calibration->identity;
    for (const auto& [key, value] : metadata) {
      if (key == "model_path") continue;
      identity = hash_text(std::string(key).append("=").append(value), identity);
    }
    unfinished = std::make_unique<UnfinishedLinears>(options.unfinished, identity, options.resume);
  }
  const std::size_t layers = model.config().layers;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      if (method.plan(layer, l).kind != LinearKind::kFloat) {
        const std::string name = linear_name(layer, l);
        std::optional<LinearBytes> bytes;
        if (unfinished != nullptr) bytes = unfinished->next(name);
        if (!bytes) {
          bytes = bytes_of(*maker.make(layer, l), name);
          if (unfinished != nullptr) unfinished->append(*bytes, name);
        }
        write_linear(*bytes, name, &writer);
        model.release_pages();
      }
      if (options.progress) {
        const std::size_t all = layers * kLinearsPerLayer;
        const std::size_t before = method.settings.size() == asked.settings.size() ? 0 : all;
        options.progress(before + layer * kLinearsPerLayer + l + 1, before + all);
      }
    }
  }
  writer.commit();
}

QuantizedFile open_quantized(const std::string& path, const ModelSource& model,
                             const std::function<void(std::size_t, std::size_t)>& progress) {
  const auto file = std::make_shared<const Safetensors>(path);
  check_identity(*file, model);
  QuantizedFile q;
  const std::string text = metadata_of(*file, "method"), settings = metadata_of(*file, "settings");
  try {
    q.method = make_method(text, read_settings(settings));
    check_packable(q.method);
    for (std::size_t l = 0; l < model.config().layers * kLinearsPerLayer; ++l) {
      q.method.plan(l / kLinearsPerLayer, l % kLinearsPerLayer);  // throws for bad settings
    }
  } catch (const std::runtime_error& error) {
    fail(path, std::string("metadata 'method' and 'settings': ") + error.what());
  }
  q.method.name = metadata_of(*file, "method_name");
  q.description = metadata_of(*file, "description");
  if (q.method.needs_calibration()) q.calibration = metadata_of(*file, "calibration");
  if (q.method.qfep) q.prefix = read_prefix(*file, model.config());
  for (std::size_t layer = 0; layer < model.config().layers; ++layer) {
    std::array<std::unique_ptr<Linear>, kLinearsPerLayer> linears;
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      const std::string name = linear_name(layer, l);
      const LinearPlan plan = q.method.plan(layer, l);
      if (plan.kind == LinearKind::kFloat) {
        const TensorInfo info = *model.info(name);
        linears[l] = make_float_linear(name, model.read(name), static_cast<std::int64_t>(info.rows),
                                       static_cast<std::int64_t>(info.columns));
      } else {
        linears[l] = map_linear(file, model, name, comes_divided(plan, l));
      }
      if (progress) {
        progress(layer * kLinearsPerLayer + l + 1, model.config().layers * kLinearsPerLayer);
      }
    }
    q.linears.push_back(assemble_layer(std::move(linears)));
  }
  return q;
}

}  // namespace rrs_llm
