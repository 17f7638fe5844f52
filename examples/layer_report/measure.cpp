#include "layer_report/measure.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <memory>
#include <numeric>

#include "layer_report/args.hpp"
#include "layer_report/channels.hpp"
#include "layer_report/float_product.hpp"
#include "layer_report/simulate.hpp"
#include "layer_report/smoothquant.hpp"
#include "rrs/rrs.hpp"

namespace layer_report {
namespace {

// Further rounds of a method that has taken this long are left out: large layers, scalar kernels.
constexpr double kTimeBudgetMs = 500.0;

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

[[noreturn]] void fail(const Layer& layer, const Method& method, const rrs::Status& status) {
  throw UserError(layer.name + ", " + method.name + ": " + status.message());
}

void check(const Layer& layer, const Method& method, const rrs::Status& status) {
  // A row that overflows in the rotation is NaN in the output; its errors will be undefined.
  if (!status && status.code != rrs::StatusCode::kNonFinite) fail(layer, method, status);
}

// The scheme whose weights a method uses: simulated methods have real 4-bit weights.
rrs::Scheme weight_scheme(const rrs::Scheme& scheme) {
  rrs::Scheme s = scheme;
  s.simulated = false;
  return s;
}

bool same_weight(const rrs::Scheme& a, const rrs::Scheme& b) {
  return a.rotation.kind == b.rotation.kind && a.rotation.block == b.rotation.block &&
         a.weight.bits == b.weight.bits && a.weight.group == b.weight.group &&
         a.weight.range == b.weight.range && a.weight.scale == b.weight.scale &&
         a.smoothquant_alpha == b.smoothquant_alpha;
}

// A packed weight and the divisor that it was prepared with. Methods that differ in activations
// only share one: the clip search over 80 scales is the slow part of this program.
struct SharedWeight {
  rrs::Scheme scheme;
  std::vector<float> divisor;  // empty: none
  rrs::PreparedWeight weight;

  rrs::LayerChannels channels() const {
    rrs::LayerChannels c;
    if (!divisor.empty()) c.divisor = divisor.data();
    return c;
  }
};

class WeightCache {
 public:
  explicit WeightCache(const Layer& layer) : layer_(layer) {}

  const SharedWeight& get(const Method& method) {
    const rrs::Scheme scheme = weight_scheme(method.scheme);
    for (const auto& weight : weights_) {
      if (same_weight(weight->scheme, scheme)) return *weight;
    }
    auto made = std::make_unique<SharedWeight>();
    made->scheme = scheme;
    if (scheme.smoothquant_alpha > 0.0f) {
      made->divisor = smoothquant_divisor(layer_, scheme.smoothquant_alpha);
    }
    const rrs::MatrixView<const float> w(layer_.weight.values.data(), layer_.n(), layer_.k());
    rrs::WeightOptions options;
    options.channels = made->channels();
    auto prepared = rrs::prepare_weight(w, scheme, options);
    if (!prepared) fail(layer_, method, prepared.status());
    made->weight = std::move(*prepared);
    weights_.push_back(std::move(made));
    return *weights_.back();
  }

 private:
  const Layer& layer_;
  std::vector<std::unique_ptr<SharedWeight>> weights_;
};

// One method on one layer: its weight, its workspace (shared with all others) and its times.
class Runner {
 public:
  Runner(const Layer& layer, const Method& method, const SharedWeight& weight)
      : layer_(layer), method_(method), weight_(weight) {}

  // One call into y; appends its two times.
  void run(rrs::Workspace* workspace, std::vector<float>* y) {
    const rrs::MatrixView<const float> x(layer_.input.values.data(), layer_.m(), layer_.k());
    const rrs::MatrixView<float> out(y->data(), layer_.m(), layer_.n());
    rrs::ActivationOptions options;
    options.channels = weight_.channels();
    rrs::PreparedActivation activation;
    const auto start = Clock::now();
    const rrs::Status prepared = rrs::smooth_rotate_quantize(
        x, method_.scheme, *workspace, activation, rrs::SerialExecutor{}, options);
    prepare_ms_.push_back(ms_since(start));
    check(layer_, method_, prepared);
    const auto middle = Clock::now();
    const rrs::Status multiplied = rrs::gemm(activation, weight_.weight.view(), out);
    gemm_ms_.push_back(ms_since(middle));
    check(layer_, method_, multiplied);
  }

  // Forgets the first, cold call.
  void start_timing() {
    prepare_ms_.clear();
    gemm_ms_.clear();
  }

  double spent_ms() const {
    return std::accumulate(prepare_ms_.begin(), prepare_ms_.end(), 0.0) +
           std::accumulate(gemm_ms_.begin(), gemm_ms_.end(), 0.0);
  }

  void store(Record* record) const {
    record->prepare_ms = median(prepare_ms_);
    record->gemm_ms = median(gemm_ms_);
  }

 private:
  const Layer& layer_;
  const Method& method_;
  const SharedWeight& weight_;
  std::vector<double> prepare_ms_;
  std::vector<double> gemm_ms_;
};

void describe_layer(const Layer& layer, LayerReport* report) {
  report->name = layer.name;
  report->m = layer.m();
  report->n = layer.n();
  report->k = layer.k();
  report->calibrated = layer.calibration.rows > 0;
  report->spike = spike_row(layer.input);
  std::vector<double> largest;
  for (std::int64_t t = 0; t < layer.m(); ++t) {
    double row = 0.0;
    for (std::int64_t i = 0; i < layer.k(); ++i) {
      row = (std::max)(row, std::fabs(static_cast<double>(layer.input.row(t)[i])));
    }
    largest.push_back(row);
  }
  report->spike_max = *std::max_element(largest.begin(), largest.end());
  report->median_max = median(largest);
}

// Workspace for the neediest method; methods that this shape rules out are noted and dropped.
std::vector<Method> usable_methods(const Layer& layer, const std::vector<Method>& methods,
                                   std::size_t* workspace, LayerReport* report) {
  std::vector<Method> usable;
  for (const Method& method : methods) {
    const rrs::Scheme scheme = weight_scheme(method.scheme);
    const rrs::Status status = rrs::validate(scheme, layer.k());
    if (!status) {
      report->notes.push_back(method.name + ": " + status.message());
      continue;
    }
    usable.push_back(method);
    *workspace =
        (std::max)(*workspace, rrs::workspace_bytes(layer.m(), layer.k(), scheme, layer.n()));
  }
  return usable;
}

Record make_record(const Layer& layer, const Method& method, const SharedWeight& shared) {
  Record record;
  record.method = method;
  record.bits_per_weight = shared.weight.bits_per_weight();
  if (!shared.divisor.empty()) record.bits_per_weight += 32.0 / static_cast<double>(layer.n());
  record.kernel = "reference";
  if (method.scheme.simulated) return record;
  const auto explanation = rrs::explain(method.scheme, layer.m(), layer.n(), layer.k());
  check(layer, method, explanation.status);
  record.kernel = explanation.kernel;
  return record;
}

void time_rounds(const Layer& layer, int rounds, std::vector<Runner>* runners,
                 rrs::Workspace* workspace, std::vector<float>* y, LayerReport* report) {
  for (Runner& runner : *runners) runner.start_timing();
  std::vector<double> float_ms;
  for (int round = 0; round < rounds; ++round) {
    const auto start = Clock::now();
    eigen_product(layer, y);
    float_ms.push_back(ms_since(start));
    for (Runner& runner : *runners) {
      if (runner.spent_ms() < kTimeBudgetMs) runner.run(workspace, y);
    }
  }
  report->float_ms = median(float_ms);
}

}  // namespace

LayerReport measure_layer(const Layer& layer, const std::vector<Method>& methods, int rounds) {
  LayerReport report;
  describe_layer(layer, &report);
  measure_channels(layer, &report);
  std::size_t bytes = 0;
  const std::vector<Method> usable = usable_methods(layer, methods, &bytes, &report);
  rrs::Workspace workspace(bytes);
  const std::vector<double> reference = float64_product(layer);
  std::vector<float> y(reference.size());
  WeightCache weights(layer);
  std::vector<Runner> runners;
  std::vector<std::size_t> timed;  // record of each runner
  for (const Method& method : usable) {
    const SharedWeight& weight = weights.get(method);
    Record record = make_record(layer, method, weight);
    if (method.scheme.simulated) {
      y = simulate_rs(layer, weight.weight.view());
    } else {
      runners.emplace_back(layer, method, weight);
      runners.back().run(&workspace, &y);
      timed.push_back(report.records.size());
    }
    record.errors = measure_errors(y, reference, layer.m(), layer.n(), report.spike);
    report.records.push_back(record);
  }
  time_rounds(layer, rounds, &runners, &workspace, &y, &report);
  for (std::size_t i = 0; i < runners.size(); ++i) runners[i].store(&report.records[timed[i]]);
  return report;
}

Report describe_run(const std::string& file, int rounds) {
  Report report;
  report.file = file;
  report.machine = machine_text();
  report.float_product = eigen_text();
  report.rounds = rounds;
  return report;
}

std::string machine_text() {
  std::string cpu = "unknown CPU";
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const std::size_t colon = line.find(": ");
    if (line.rfind("model name", 0) != 0 || colon == std::string::npos) continue;
    cpu = line.substr(colon + 2);
    break;
  }
  const rrs::KernelTable* table = nullptr;
  const rrs::Status status = rrs::select_kernels(std::nullopt, &table);
  if (!status) throw UserError(status.message());
#if defined(__clang__)
  const std::string compiler =
      "clang++ " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__);
#else
  const std::string compiler =
      "g++ " + std::to_string(__GNUC__) + "." + std::to_string(__GNUC_MINOR__);
#endif
#if defined(__OPTIMIZE__)
  const std::string build = "optimised";
#else
  const std::string build = "NOT OPTIMISED, times mean nothing";
#endif
  return cpu + "; kernels " + table->name + "; " + compiler + " (" + build + "); one thread";
}

}  // namespace layer_report
