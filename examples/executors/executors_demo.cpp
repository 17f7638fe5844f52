// The same layer through every executor that this build has: outputs must be bit-identical. Prints
// what an empty call costs.
//
//   executors_demo [threads]
//
// from: the adapters beside this file.  to: a table on stdout; exit 1 when an output differs.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "executors/openmp_executor.hpp"
#include "executors/persistent_pool.hpp"
#include "executors/std_thread_executor.hpp"
#include "rrs/rrs.hpp"
#ifdef RRS_EXAMPLE_TBB
#include "executors/tbb_executor.hpp"
#endif

namespace {

constexpr int kRows = 128, kOutputs = 1024, kInputs = 1024;

struct Layer {
  rrs::Scheme scheme = rrs::presets::rrs();
  std::vector<float> x;
  rrs::PreparedWeight weight;
  std::vector<float> expected;  // of the serial executor
};

double microseconds_now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::micro>(now).count();
}

// Median of calls with one empty task per thread.
template <class Executor>
double empty_call(const Executor& executor, int threads, int calls) {
  std::vector<double> times;
  for (int i = 0; i < calls; ++i) {
    const double start = microseconds_now();
    executor(threads, [](std::int64_t) noexcept {});
    times.push_back(microseconds_now() - start);
  }
  std::nth_element(times.begin(), times.begin() + calls / 2, times.end());
  return times[static_cast<std::size_t>(calls / 2)];
}

template <class Executor>
std::vector<float> run(const Layer& layer, const Executor& executor, double* us) {
  std::vector<float> y(std::size_t{kRows} * kOutputs);
  rrs::Workspace workspace(rrs::workspace_bytes(kRows, kInputs, layer.scheme));
  const rrs::MatrixView<const float> x(layer.x.data(), kRows, kInputs);
  *us = 1e30;
  for (int i = 0; i < 5; ++i) {  // the best of five, the first one wakes threads
    const double start = microseconds_now();
    const rrs::Status status = rrs::linear(
        x, layer.weight, rrs::MatrixView<float>(y.data(), kRows, kOutputs), workspace, executor);
    *us = (std::min)(*us, microseconds_now() - start);
    if (!status) std::fprintf(stderr, "%s\n", status.message().c_str());
  }
  return y;
}

// One line of the table; false when the output differs.
template <class Executor>
bool show(const char* name, const Layer& layer, const Executor& executor, int threads, int calls) {
  double layer_us = 0.0;
  const std::vector<float> y = run(layer, executor, &layer_us);
  const bool same = std::memcmp(y.data(), layer.expected.data(), y.size() * sizeof(float)) == 0;
  std::printf("%-18s %10.2f us %10.0f us   %s\n", name, empty_call(executor, threads, calls),
              layer_us, same ? "identical" : "DIFFERS");
  return same;
}

bool make_layer(Layer* layer) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> w(std::size_t{kOutputs} * kInputs);
  layer->x.resize(std::size_t{kRows} * kInputs);
  for (float& value : w) value = normal(random);
  for (float& value : layer->x) value = normal(random);
  auto weight =
      rrs::prepare_weight(rrs::MatrixView<const float>(w.data(), kOutputs, kInputs), layer->scheme);
  if (!weight) return std::fprintf(stderr, "%s\n", weight.status().message().c_str()), false;
  layer->weight = std::move(*weight);
  double us = 0.0;
  layer->expected = run(*layer, rrs::SerialExecutor{}, &us);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  rrs_examples::PersistentPool pool(argc > 1 ? std::atoi(argv[1]) : 0);
  const int threads = pool.threads();
  Layer layer;
  if (!make_layer(&layer)) return 1;
  std::printf("%d threads; layer %d x %d x %d\n%-18s %13s %13s\n", threads, kRows, kOutputs,
              kInputs, "executor", "empty call", "layer");
  bool same = show("serial", layer, rrs::SerialExecutor{}, threads, 2000);
  same &= show("persistent pool", layer, pool.executor(), threads, 2000);
#ifdef _OPENMP
  same &= show("OpenMP", layer, rrs_examples::OpenMpExecutor(threads), threads, 2000);
#endif
#ifdef RRS_EXAMPLE_TBB
  tbb::task_arena arena(threads);
  same &= show("oneTBB", layer, rrs_examples::TbbExecutor(arena), threads, 2000);
#endif
  same &= show("std::thread", layer, rrs_examples::StdThreadExecutor(threads), threads, 200);
  return same ? 0 : 1;
}
