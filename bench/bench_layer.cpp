// One layer, all stages: how long it takes, fused and in separate stages, and the share of each.
//
//   bench_layer --benchmark_filter='layer/rrs_g128/M:512'
//
// layer/...     smooth_rotate_quantize and gemm, as a user calls them
// separate/...  the same with ActivationOptions::fused off
// stages/...    the separate stages with a clock between them: load + rotate, smooth + quantize,
// pack,
//               gemm. The clock is the time stamp counter, about 10 ns per stage and row.
// Counters: ns per element of X of the preparation (or stage), its share of the layer, GMAC/s.
// 16-bit activations have no quantization: their extremes count as rotation.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "support/checked.hpp"
#include "support/data.hpp"
#include "support/layer.hpp"
#include "support/machine.hpp"
#include "support/staged_activation.hpp"
#include "support/statistics.hpp"

namespace rrs_bench {
namespace {

constexpr const char* kPresets[] = {"rrs",       "rrs_g128",  "rrs_w4a8",
                                    "rrs_w4a16", "rrs_whole", "quarot"};
constexpr std::int64_t kRows[] = {1, 8, 128, 512};
constexpr Shape kShapes[] = {{4096, 4096}, {4096, 11008}, {576, 1536}};

const FloatWeight& float_weight(Shape shape) {
  static std::unique_ptr<FloatWeight> last;  // benchmarks of a shape follow one another
  if (last == nullptr || last->shape.k != shape.k || last->shape.n != shape.n) {
    last = std::make_unique<FloatWeight>(shape);
  }
  return *last;
}

const rrs::PreparedWeight& prepared_weight(const std::string& preset, Shape shape) {
  static std::map<std::tuple<std::string, std::int64_t, std::int64_t>, rrs::PreparedWeight> all;
  const auto key = std::make_tuple(preset, shape.k, shape.n);
  auto found = all.find(key);
  if (found == all.end()) {
    const rrs::Result<rrs::Scheme> scheme = rrs::presets::by_name(preset.c_str());
    check(scheme.status());
    found = all.emplace(key, prepare(float_weight(shape).view(), *scheme)).first;
  }
  return found->second;
}

struct Case {
  std::string preset;
  std::int64_t m;
  Shape shape;
};

void count_work(benchmark::State& state, const Case& c) {
  const double macs = static_cast<double>(c.m * c.shape.k * c.shape.n);
  state.counters["GMAC/s"] =
      benchmark::Counter(1e-9 * macs, benchmark::Counter::kIsIterationInvariantRate);
}

void run_layer(benchmark::State& state, const Case& c, bool fused) {
  const rrs::PreparedWeight& weight = prepared_weight(c.preset, c.shape);
  const std::vector<float> x = outlier_activations(c.m, c.shape.k, 3);
  Layer layer(weight, weight.scheme(), c.m);
  layer.options().fused = fused;
  double preparation = 0.0, all = 0.0;
  for (auto _ : state) {
    const Seconds start = now();
    layer.prepare_activation(x.data());
    preparation += since(start).cpu;
    layer.multiply();
    all += since(start).cpu;
    benchmark::ClobberMemory();
  }
  const double elements = static_cast<double>(c.m * c.shape.k);
  count_work(state, c);
  state.counters["prepare_ns/element"] =
      1e9 * preparation / (elements * static_cast<double>(state.iterations()));
  state.counters["prepare_%"] = 100.0 * preparation / all;
  state.SetLabel(rrs::explain(weight.scheme(), c.m, c.shape.n, c.shape.k).kernel);
}

// Ticks of every iteration: their median is not moved by the few in which the thread was preempted.
struct StageSeries {
  std::vector<double> rotate, quantize, pack, gemm;

  void add(const StageTicks& t) {
    rotate.push_back(static_cast<double>(t.rotate));
    quantize.push_back(static_cast<double>(t.quantize));
    pack.push_back(static_cast<double>(t.pack));
    gemm.push_back(static_cast<double>(t.gemm));
  }
};

void count_stages(benchmark::State& state, const Case& c, const StageSeries& series) {
  const double rotate = summarize(series.rotate).median;
  const double quantize = summarize(series.quantize).median;
  const double pack = summarize(series.pack).median;
  const double gemm = summarize(series.gemm).median;
  const double all = rotate + quantize + pack + gemm;
  const double ns = 1e9 / ticks_per_second() / static_cast<double>(c.m * c.shape.k);
  state.counters["rotate_ns/element"] = rotate * ns;
  state.counters["quantize_ns/element"] = quantize * ns;
  state.counters["pack_ns/element"] = pack * ns;
  state.counters["rotate_%"] = 100.0 * rotate / all;
  state.counters["quantize_%"] = 100.0 * quantize / all;
  state.counters["pack_%"] = 100.0 * pack / all;
  state.counters["gemm_%"] = 100.0 * gemm / all;
}

void run_stages(benchmark::State& state, const Case& c) {
  const rrs::PreparedWeight& weight = prepared_weight(c.preset, c.shape);
  const std::vector<float> x = outlier_activations(c.m, c.shape.k, 3);
  Layer layer(weight, weight.scheme(), c.m);
  layer.options().fused = false;
  layer.prepare_activation(x.data());  // describes the workspace that the stages then fill again
  StageSeries series;
  for (auto _ : state) {
    StageTicks ticks = run_staged_activation(layer, x.data());
    const std::uint64_t start = read_ticks();
    layer.multiply();
    ticks.gemm = read_ticks() - start;
    series.add(ticks);
    benchmark::ClobberMemory();
  }
  count_work(state, c);
  count_stages(state, c, series);
}

void register_case(const Case& c) {
  const std::string name = "/" + c.preset + "/M:" + std::to_string(c.m) +
                           "/K:" + std::to_string(c.shape.k) + "/N:" + std::to_string(c.shape.n);
  const auto add = [&](const char* kind, auto body) {
    benchmark::RegisterBenchmark((kind + name).c_str(), body)->Unit(benchmark::kMicrosecond);
  };
  add("layer", [c](benchmark::State& state) { run_layer(state, c, true); });
  add("separate", [c](benchmark::State& state) { run_layer(state, c, false); });
  add("stages", [c](benchmark::State& state) { run_stages(state, c); });
}

}  // namespace
}  // namespace rrs_bench

int main(int argc, char** argv) {
  for (const rrs_bench::Shape& shape : rrs_bench::kShapes) {
    for (const char* preset : rrs_bench::kPresets) {
      for (const std::int64_t m : rrs_bench::kRows) {
        rrs_bench::register_case({preset, m, shape});
      }
    }
  }
  benchmark::AddCustomContext("cpu", rrs_bench::cpu_model());
  benchmark::AddCustomContext("compiler", rrs_bench::compiler());
  benchmark::AddCustomContext("level", rrs_bench::active_level());
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
