// ns per element of the smooth, quantize and pack leaves, of the fused row, and of the leaves at
// both ends (16-bit rows in, rows of results out), at every level that this machine has. One row of
// K = 4096 out of 16 (256 KB of X: L2, as in a layer). Interleaved by Google Benchmark:
// --benchmark_enable_random_interleaving=true --benchmark_repetitions=9, read the medians.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "rrs/core/dispatch.hpp"
#include "rrs/quantize/quantize.hpp"

namespace {

constexpr std::int64_t kInputs = 4096;
constexpr std::int64_t kRows = 16;

// Everything one row needs, for any group.
struct Data {
  std::vector<float> x, work, positive, negative, inverse, scales, floats;
  std::vector<std::int8_t> codes, packed;
  std::vector<std::int32_t> sums;

  Data() {
    x.resize(kRows * kInputs);
    std::uint32_t state = 1;
    for (float& v : x) {
      state = state * 1664525u + 1013904223u;
      v = static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
    }
    work = x;
    positive.resize(kInputs);
    negative.resize(kInputs);
    inverse.assign(kInputs, 7.0f);
    scales.resize(kInputs);
    sums.resize(kInputs);
    codes.assign(kRows * kInputs, 3);
    packed.resize(kRows * kInputs);
    floats.resize(kRows * kInputs);
  }
};

Data& data() {
  static Data d;
  return d;
}

// Body(row) once per iteration; the counter is seconds per element, shown as nanoseconds.
template <class Body>
void run(benchmark::State& state, std::int64_t elements, const Body& body) {
  std::int64_t row = 0;
  for (auto _ : state) {
    body(row);
    row = (row + 1) % kRows;
    benchmark::ClobberMemory();
  }
  state.counters["s/element"] =
      benchmark::Counter(static_cast<double>(elements) * static_cast<double>(state.iterations()),
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void bench_extremes(benchmark::State& state, const rrs::KernelTable* table, int group) {
  Data& d = data();
  run(state, kInputs, [&](std::int64_t row) {
    table->smooth.extremes(d.x.data() + row * kInputs, kInputs, group, d.positive.data(),
                           d.negative.data());
  });
}

void bench_quantize(benchmark::State& state, const rrs::KernelTable* table, int group) {
  Data& d = data();
  run(state, kInputs, [&](std::int64_t row) {
    table->quantize.quantize(d.x.data() + row * kInputs, kInputs, group, d.inverse.data(), 7,
                             d.codes.data() + row * kInputs);
  });
}

void bench_sum_codes(benchmark::State& state, const rrs::KernelTable* table, int group) {
  Data& d = data();
  run(state, kInputs, [&](std::int64_t row) {
    table->quantize.sum_codes(d.codes.data() + row * kInputs, kInputs, group, d.sums.data());
  });
}

void bench_pack(benchmark::State& state, const rrs::KernelTable* table, int rows, int bits) {
  Data& d = data();
  run(state, rows * kInputs, [&](std::int64_t) {
    if (bits == 4) {
      table->pack.codes_a4(d.codes.data(), kInputs, rows, 32, kInputs, d.packed.data());
    } else if (bits == 8) {
      table->pack.codes_a8(d.codes.data(), kInputs, rows, 32, kInputs, d.packed.data());
    } else {
      table->pack.floats(d.x.data(), kInputs, rows, kInputs, d.floats.data());
    }
  });
}

// 16-bit rows, as the ends of a layer read and write them.
struct HalfRows {
  std::vector<rrs::f16> f16 = std::vector<rrs::f16>(kInputs, rrs::f16{0x3c00});
  std::vector<rrs::bf16> bf16 = std::vector<rrs::bf16>(kInputs, rrs::bf16{0x3f80});
};

void bench_load(benchmark::State& state, const rrs::KernelTable* table, bool brain) {
  HalfRows rows;
  run(state, kInputs, [&](std::int64_t) {
    if (brain) {
      table->rotate.bf16_to_f32(rows.bf16.data(), data().work.data(), kInputs);
    } else {
      table->rotate.f16_to_f32(rows.f16.data(), data().work.data(), kInputs);
    }
  });
}

void bench_store(benchmark::State& state, const rrs::KernelTable* table, int kind) {
  HalfRows rows;
  const float* sums = data().x.data();
  run(state, kInputs, [&](std::int64_t) {
    if (kind == 0) {
      table->gemm.store_f32(sums, kInputs, 0.5f, nullptr, false, data().work.data());
    } else if (kind == 1) {
      table->gemm.store_f16(sums, kInputs, 0.5f, nullptr, false, rows.f16.data());
    } else {
      table->gemm.store_bf16(sums, kInputs, 0.5f, nullptr, false, rows.bf16.data());
    }
  });
}

rrs::FusedArgs fused_args(int block, int group) {
  Data& d = data();
  rrs::FusedArgs args{};
  args.x = d.x.data();
  args.k = kInputs;
  args.block = block;
  args.rotation_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
  args.group = group;
  args.inner_group = group;
  args.range = rrs::Range::kFull;
  args.clip = 1.0f;
  args.qmax = 7;
  args.codes = d.codes.data();
  args.scales = d.scales.data();
  args.sums = d.sums.data();
  return args;
}

// A permutation as zigzag makes it: neighbours come from everywhere.
std::vector<std::int32_t> dealt_channels() {
  std::vector<std::int32_t> order(kInputs);
  std::int32_t k = 0;
  for (std::int32_t& from : order) {
    from = k % 32 * static_cast<std::int32_t>(kInputs / 32) + k / 32;
    ++k;
  }
  return order;
}

void bench_fused(benchmark::State& state, const rrs::KernelTable* table, int block, int group,
                 bool permuted) {
  rrs::FusedArgs args = fused_args(block, group);
  const std::vector<std::int32_t> order = dealt_channels();
  args.permutation = permuted ? order.data() : nullptr;
  run(state, kInputs, [&](std::int64_t row) {
    args.x = data().x.data() + row * kInputs;
    benchmark::DoNotOptimize(table->fused.prepare_row(args));
  });
}

// The same result stage by stage: copy, rotate, extremes, scales, codes, sums.
void bench_separate(benchmark::State& state, const rrs::KernelTable* table, int block, int group) {
  Data& d = data();
  int log2_block = 0;
  while ((1 << log2_block) < block) ++log2_block;
  const rrs::FusedArgs f = fused_args(block, group);
  run(state, kInputs, [&](std::int64_t row) {
    std::copy_n(d.x.data() + row * kInputs, kInputs, d.work.data());
    table->rotate.hadamard(d.work.data(), kInputs / block, log2_block, f.rotation_scale);
    table->smooth.extremes(d.work.data(), kInputs, group, d.positive.data(), d.negative.data());
    rrs::QuantizeRowArgs q;
    q.x = d.work.data();
    q.k = kInputs;
    q.extremes = {d.positive.data(), d.negative.data(), rrs::group_count(kInputs, group)};
    q.group = q.inner_group = group;
    q.inverse = d.inverse.data();
    q.codes = f.codes;
    q.scales = f.scales;
    q.sums = f.sums;
    float token = 0.0f;
    benchmark::DoNotOptimize(rrs::quantize_row(table->quantize, q, &token));
  });
}

void register_level(const rrs::KernelTable* table) {
  const std::string level = std::string("/") + table->name;
  const auto add = [&](const std::string& name, auto function, auto... args) {
    benchmark::RegisterBenchmark((name + level).c_str(), function, table, args...);
  };
  for (const int group : {32, 128, rrs::kRowGroup}) {
    const std::string suffix = group == rrs::kRowGroup ? "/row" : "/group" + std::to_string(group);
    add("extremes" + suffix, bench_extremes, group);
    add("quantize" + suffix, bench_quantize, group);
    add("sum_codes" + suffix, bench_sum_codes, group);
  }
  for (const int rows : {1, 6, 12, 16}) {
    add("pack_codes/rows" + std::to_string(rows), bench_pack, rows, 4);
    add("pack_codes8/rows" + std::to_string(rows), bench_pack, rows, 8);
    add("pack_floats/rows" + std::to_string(rows), bench_pack, rows, 16);
  }
  add("load/f16", bench_load, false);
  add("load/bf16", bench_load, true);
  add("store/f32", bench_store, 0);
  add("store/f16", bench_store, 1);
  add("store/bf16", bench_store, 2);
  for (const int size : {32, 64, 128}) {
    const std::string suffix = "/block" + std::to_string(size) + "_group" + std::to_string(size);
    add("separate" + suffix, bench_separate, size, size);
    if (table->fused.supports(fused_args(size, size))) {
      add("fused" + suffix, bench_fused, size, size, false);
      add("fused_permuted" + suffix, bench_fused, size, size, true);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 0; i < rrs::kIsaCount; ++i) {
    if (rrs::isa_supported(static_cast<rrs::Isa>(i))) register_level(rrs::kTables[i]);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
