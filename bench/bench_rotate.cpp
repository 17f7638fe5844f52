// Rotation of one row, per level, against a copy of the same row in the same buffers.
//
// Counter per_element: time of one element; the copy runs as rotate/memcpy. Compare medians of
// interleaved repetitions:
//   bench_rotate --benchmark_enable_random_interleaving=true --benchmark_repetitions=9
//                --benchmark_report_aggregates_only=true
#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "rrs/core/dispatch.hpp"
#include "rrs/rotate/rotate_row.hpp"

namespace {

using rrs::Rotation;
using rrs::RotationKind;

// n floats on a 64-byte boundary.
struct Row {
  explicit Row(std::int64_t n) : memory(static_cast<std::size_t>(n) + 16) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    data = memory.data() + (64 - address % 64) % 64 / sizeof(float);
    for (std::int64_t i = 0; i < n; ++i) data[i] = static_cast<float>(i * 37 % 101) - 50.0f;
  }
  std::vector<float> memory;
  float* data;
};

void per_element(benchmark::State& state, std::int64_t k) {
  using benchmark::Counter;
  state.counters["per_element"] =
      Counter(static_cast<double>(k), Counter::kIsIterationInvariantRate | Counter::kInvert);
  state.SetBytesProcessed(state.iterations() * k * 4);
}

void bench_rotate(benchmark::State& state, rrs::Isa isa, Rotation rotation, std::int64_t k) {
  const rrs::KernelTable& table = *rrs::kTables[static_cast<int>(isa)];
  rrs::RotationPlan plan = rrs::plan_rotation(rotation, k);
  Row tables(static_cast<std::int64_t>(rrs::rotation_tables_bytes(plan) / sizeof(float)));
  rrs::build_rotation_tables(&plan, tables.data);
  Row x(k), scratch(rrs::rotation_scratch_floats(plan));
  for (auto _ : state) {
    benchmark::DoNotOptimize(rrs::rotate_row_any(table, plan, x.data, scratch.data));
    benchmark::ClobberMemory();
  }
  per_element(state, k);
  if (rotation.kind == RotationKind::kFull) state.SetLabel(rrs::describe(plan.full));
}

void bench_memcpy(benchmark::State& state, std::int64_t k) {
  Row x(k), y(k);
  for (auto _ : state) {
    std::memcpy(y.data, x.data, static_cast<std::size_t>(k) * sizeof(float));
    benchmark::DoNotOptimize(y.data);
    benchmark::ClobberMemory();
  }
  per_element(state, k);
}

void bench_tables(benchmark::State& state, std::int64_t k) {
  rrs::RotationPlan plan = rrs::plan_rotation(Rotation{RotationKind::kFull, 32, false, 0}, k);
  Row tables(static_cast<std::int64_t>(rrs::rotation_tables_bytes(plan) / sizeof(float)));
  for (auto _ : state) {
    plan = rrs::plan_rotation(plan.rotation, k);
    rrs::build_rotation_tables(&plan, tables.data);
    benchmark::ClobberMemory();
  }
}

void add(rrs::Isa isa, const Rotation& rotation, std::int64_t k) {
  const std::string kind =
      rotation.kind == RotationKind::kFull ? "full" : "block" + std::to_string(rotation.block);
  const std::string name = "rotate/" + kind + (rotation.random_signs ? "_signs/" : "/") +
                           std::to_string(k) + "/" + rrs::kIsaNames[static_cast<int>(isa)];
  benchmark::RegisterBenchmark(name.c_str(), bench_rotate, isa, rotation, k);
}

}  // namespace

int main(int argc, char** argv) {
  for (const std::int64_t k : {2048, 4096, 14336}) {
    benchmark::RegisterBenchmark(("rotate/memcpy/" + std::to_string(k)).c_str(), bench_memcpy, k);
  }
  for (const std::int64_t k : {576, 11008, 14336, 29568}) {
    benchmark::RegisterBenchmark(("rotate/tables/" + std::to_string(k)).c_str(), bench_tables, k);
  }
  for (int i = 0; i <= static_cast<int>(rrs::Isa::kAvx512); ++i) {  // VNNI adds nothing here
    const auto isa = static_cast<rrs::Isa>(i);
    if (!rrs::isa_supported(isa)) continue;
    for (const int block : {16, 32, 64, 128, 256}) {
      add(isa, Rotation{RotationKind::kBlock, block, false, 0}, 4096);
    }
    add(isa, Rotation{RotationKind::kBlock, 32, true, 1}, 4096);
    for (const std::int64_t k :
         {576, 896, 1536, 2048, 4096, 4864, 8192, 11008, 13696, 14336, 28672, 29568, 32768}) {
      add(isa, Rotation{RotationKind::kFull, 32, false, 0}, k);
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
