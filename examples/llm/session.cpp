#include "session.hpp"

#include <chrono>
#include <stdexcept>
#include <thread>
#include <utility>

#include "../support/mapped_file.hpp"
#include "progress.hpp"
#include "quantized_file.hpp"
#include "recipe.hpp"

namespace rrs_llm {
namespace {

// Shipped: see examples/data/README.md.
constexpr const char* kCalibrationText = RRS_LLM_DATA "/wiki.valid.txt";

// Of every input, for SmoothQuant's search: 50 MB for SmolLM2, 380 MB for a model of 7B.
constexpr std::size_t kSampleRows = 128;

int thread_count(int asked) {
  if (asked != 0) return asked;
  const unsigned found = std::thread::hardware_concurrency();
  return found == 0 ? 1 : static_cast<int>(found);
}

// Only what an option asked for is refused: a preset's group may exceed a small head, which is then
// one group.
void check_kv(const KvChoice& kv, const ModelConfig& config) {
  if (!kv.group) return;
  const std::string option = "--kv-group " + describe_kv_group(*kv.group);
  if (!kv.quantizes()) {
    throw std::runtime_error(option +
                             ": a KV cache of 16 bits has no groups: that needs --kv 8 or " +
                             "4, or --kv-value-bits 8 or 4");
  }
  if (*kv.group > static_cast<int>(config.head_size)) {
    throw std::runtime_error(option + ": exceeds the model's head size " +
                             std::to_string(config.head_size) + "; head is one scale per head");
  }
}

std::string prefix_text(const std::shared_ptr<const Prefix>& prefix) {
  return prefix == nullptr ? "" : "; prefix tokens " + tokens_text(prefix->tokens);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

std::string calibration_path(const SessionOptions& options) {
  return options.calibration.empty() ? kCalibrationText : options.calibration;
}

StoreFactory store_factory(const rrs::KvScheme& scheme) {
  if (scheme.bits == 16 && rrs::kv_v_bits(scheme) == 16) {
    return [](const AttentionShape& shape) { return make_f16_store(shape); };
  }
  return [scheme](const AttentionShape& shape) { return make_quantized_store(shape, scheme); };
}

Session::Session(const SessionOptions& options)
    : options_(options),
      model_(open_model(options.model)),
      pool_(std::make_unique<ThreadPool>(thread_count(options.threads))) {
  check_kv(options.kv, model_->config());
}

std::shared_ptr<const ModelParts> Session::parts() {
  if (parts_ == nullptr) parts_ = std::make_shared<const ModelParts>(*model_);
  return parts_;
}

std::shared_ptr<const ModelParts> Session::parts_of_layers() {
  if (parts_ != nullptr) return parts_;
  if (headless_parts_ == nullptr) {
    headless_parts_ = std::make_shared<const ModelParts>(*model_, false);
    model_->release_pages();
  }
  return headless_parts_;
}

LayerSource Session::float_layer_source() {
  if (float_linears_.empty()) return float_layers(*model_);
  return [all = float_linears_](std::size_t layer) { return all[layer]; };
}

std::vector<TokenId> Session::tokens_of_file(const std::string& path) const {
  const rrs_examples::MappedFile file(path);
  EncodeOptions encode;
  encode.prepend_bos = model_->config().add_bos;
  Progress progress("tokenizing", "bytes");
  encode.progress = progress.counter();
  try {
    return model_->tokenizer().encode(file.text(), encode);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
}

const LinearStack& Session::float_linears() {
  if (float_linears_.empty()) {
    Progress progress("reading", "linears");
    PrepareOptions options;
    options.progress = progress.counter();
    float_linears_ = prepare_linears(*model_, make_method("fp", {}), options, *pool_);
  }
  return float_linears_;
}

const std::vector<TokenId>& Session::calibration_tokens() {
  if (!options_.calibration.empty() || spare_tokens_.empty()) {
    if (calibration_tokens_.empty()) {
      calibration_tokens_ = tokens_of_file(calibration_path(options_));
    }
    return calibration_tokens_;
  }
  return spare_tokens_;
}

void Session::use_calibration_tokens(std::vector<TokenId> tokens) {
  calibrations_.clear();
  spare_tokens_ = tokens;
  calibration_tokens_ = std::move(tokens);
}

std::unique_ptr<Engine> Session::make_engine(LinearStack linears, const rrs::KvScheme& kv,
                                             const std::shared_ptr<const Prefix>& prefix) {
  auto engine = std::make_unique<Engine>(parts(), std::move(linears), store_factory(kv), *pool_);
  engine->set_prefix(prefix);
  return engine;
}

std::unique_ptr<Engine> Session::float_engine(const std::shared_ptr<const Prefix>& prefix) {
  return make_engine(float_linears(), make_method("fp", {}).kv(16), prefix);
}

const Calibration& Session::calibration(const Method& method) {
  const std::shared_ptr<const Prefix> prefixed = prefix(method);
  const std::vector<TokenId> key = prefix_tokens(prefixed.get());
  bool hessians = method.needs_hessians(), rows = method.needs_rows();
  const auto kept = calibrations_.find(key);
  if (kept != calibrations_.end()) {
    const bool has_hessians = kept->second.file != nullptr,
               has_rows = !kept->second.samples.empty();
    if ((!hessians || has_hessians) && (!rows || has_rows)) return kept->second;
    hessians = hessians || has_hessians;  // what an earlier method needed is kept
    rows = rows || has_rows;
  }
  const std::vector<TokenId>& tokens = calibration_tokens();
  CalibrationOptions options;
  options.windows = options_.calibration_windows;
  options.context = (std::min)(options.context, model_->config().context - key.size());
  if (!spare_tokens_.empty()) {
    options.context = (std::min)(options.context, tokens.size());
  }
  options.hessians = hessians;
  options.sample_rows = rows ? kSampleRows : 0;
  options.file = options_.statistics;
  options.resume = options_.resume;
  calibration_starts(tokens, options);  // refuses bad texts before anything is read or written
  // Layer by layer from the file, unless something has read the whole model already.
  options.float_layer = float_layer_source();
  Engine engine(parts_of_layers(), LinearStack(model_->config().layers),
                store_factory(make_method("fp", {}).kv(16)), *pool_);
  engine.set_prefix(prefixed);
  Progress progress("calibrating", "tokens x layers");
  options.progress = progress.counter();
  const auto start = std::chrono::steady_clock::now();
  Calibration& made = calibrations_[key] = calibrate(&engine, tokens, options);
  calibration_seconds_[key] = seconds_since(start);
  calibrating_ += calibration_seconds_[key];
  return made;
}

double Session::calibration_seconds(const Method& method) {
  if (!method.needs_calibration()) return 0.0;
  const auto at = calibration_seconds_.find(prefix_tokens(prefix(method).get()));
  return at == calibration_seconds_.end() ? 0.0 : at->second;
}

void Session::give_calibration(const Method& method, PrepareOptions* options) {
  if (!method.needs_calibration()) return;
  options->calibration = &calibration(method);
  if (!method.needs_stream()) return;
  options->float_layer = float_layer_source();
  options->engine = [this, kept = prefix(method)](LinearStack linears) {
    auto engine = std::make_unique<Engine>(parts_of_layers(), std::move(linears),
                                           store_factory(make_method("fp", {}).kv(16)), *pool_);
    engine->set_prefix(kept);
    return engine;
  };
}

PrepareOptions Session::prepare_options(const Method& method) {
  PrepareOptions options;
  options.store = &store_;
  options.prefix = prefix(method);
  // Searches prepare a linear several times.
  options.warn = [this, name = method.name](const std::string& line) {
    if (told_.insert(name + ": " + line).second) say_beside_progress(name + ": " + line);
  };
  give_calibration(method, &options);
  return options;
}

Contestant Session::prepare(const Method& asked, const KvChoice& choice) {
  check_recipe_model(asked, *model_);
  check_patterns(asked, model_->config().layers);
  const auto start = std::chrono::steady_clock::now();
  const double calibrated = calibrating_;
  Resolved resolved = resolve_linears(asked);
  const Method& method = resolved.method;
  PrepareOptions options = prepare_options(method);
  Progress progress("preparing " + method.name, "linears");
  options.progress = progress.counter();
  const rrs::KvScheme kv = method.kv(choice);
  Contestant c;
  c.method = method.name;
  c.scheme = describe(method) + "; " + describe(kv) + prefix_text(options.prefix);
  if (options.calibration != nullptr) c.calibration = options.calibration->text();
  c.kv_bits = kv.bits;
  c.kv_value_bits = rrs::kv_v_bits(kv);
  const bool is_fp = method.kind == LinearKind::kFloat;
  LinearStack linears = std::move(resolved.linears);
  if (is_fp) linears = float_linears();
  if (linears.empty()) linears = prepare_linears(*model_, method, options, *pool_);
  c.engine = make_engine(std::move(linears), kv, options.prefix);
  c.calibration_seconds = calibration_seconds(method);
  c.prepare_seconds = seconds_since(start) - (calibrating_ - calibrated);
  return c;
}

Contestant Session::open(const std::string& weights) {
  const auto start = std::chrono::steady_clock::now();
  Progress progress("opening " + weights, "linears");
  QuantizedFile file = open_quantized(weights, *model_, progress.counter());
  const rrs::KvScheme kv = file.method.kv(options_.kv);
  Contestant c;
  c.method = file.method.name;
  c.scheme = file.description + "; " + describe(kv) + prefix_text(file.prefix);
  c.calibration = file.calibration;
  c.kv_bits = kv.bits;
  c.kv_value_bits = rrs::kv_v_bits(kv);
  c.engine = make_engine(std::move(file.linears), kv, file.prefix);
  c.prepare_seconds = seconds_since(start);
  return c;
}

}  // namespace rrs_llm
