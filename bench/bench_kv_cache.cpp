// KV cache: nanoseconds per token and head for scores and weighted sums at 4, 8 and 16 bits, per
// level, against f32 rows (AVX-512 loops), and for append per value.
//
// Counter per_token: time of one token of one head. `context` tokens of 8 heads: 512 fit a cache
// level, 16384 are streamed from memory. Compare medians of interleaved repetitions:
//   bench_kv_cache --benchmark_enable_random_interleaving=true --benchmark_repetitions=9
//                  --benchmark_report_aggregates_only=true
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "rrs/kv_cache/kv_cache.hpp"
#if RRS_X86_64
#include <immintrin.h>
#endif

namespace {

constexpr std::int64_t kHeads = 8;

std::vector<float> wave(std::int64_t n) {
  std::vector<float> x(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) {
    x[static_cast<std::size_t>(i)] = std::sin(static_cast<float>(i % 9973) * 0.37f);
  }
  return x;
}

void per_token(benchmark::State& state, std::int64_t tokens) {
  using benchmark::Counter;
  state.counters["per_token"] = Counter(static_cast<double>(tokens * kHeads),
                                        Counter::kIsIterationInvariantRate | Counter::kInvert);
}

rrs::KvCache filled(int bits, std::int64_t size, std::int64_t context) {
  rrs::KvScheme scheme;
  scheme.bits = bits;
  rrs::Result<rrs::KvCache> cache = rrs::KvCache::create(scheme, kHeads, size);
  const std::vector<float> rows = wave(512 * kHeads * size);
  for (std::int64_t t = 0; t < context; t += 512) {
    if (!cache->append(rows.data(), rows.data(), 512)) std::abort();
  }
  return std::move(*cache);
}

void bench_scores(benchmark::State& state, rrs::Isa isa, int bits, std::int64_t size,
                  std::int64_t context) {
  rrs::ForceIsa force(isa);
  const rrs::KvCache cache = filled(bits, size, context);
  const std::vector<float> q = wave(size);
  std::vector<float> out(static_cast<std::size_t>(context));
  rrs::KvQuery query;
  for (auto _ : state) {
    for (std::int64_t h = 0; h < kHeads; ++h) {
      if (!cache.prepare_query(q.data(), &query)) std::abort();
      if (!cache.scores(query, h, 0, context, out.data())) std::abort();
    }
    benchmark::ClobberMemory();
  }
  per_token(state, context);
}

void bench_accumulate(benchmark::State& state, rrs::Isa isa, int bits, std::int64_t size,
                      std::int64_t context) {
  rrs::ForceIsa force(isa);
  const rrs::KvCache cache = filled(bits, size, context);
  const std::vector<float> p = wave(context);
  std::vector<float> out(static_cast<std::size_t>(size));
  for (auto _ : state) {
    for (std::int64_t h = 0; h < kHeads; ++h) {
      if (!cache.accumulate(p.data(), h, 0, context, out.data())) std::abort();
      if (!cache.finish_output(out.data())) std::abort();
    }
    benchmark::ClobberMemory();
  }
  per_token(state, context);
}

void bench_append(benchmark::State& state, rrs::Isa isa, int bits, std::int64_t size) {
  rrs::ForceIsa force(isa);
  rrs::KvCache cache = filled(bits, size, 512);
  const std::vector<float> rows = wave(64 * kHeads * size);
  for (auto _ : state) {
    if (!cache.append(rows.data(), rows.data(), 64)) std::abort();
    if (!cache.truncate(512)) std::abort();
  }
  using benchmark::Counter;
  state.counters["per_value"] = Counter(static_cast<double>(2 * 64 * kHeads * size),
                                        Counter::kIsIterationInvariantRate | Counter::kInvert);
}

#if RRS_X86_64
RRS_ISA_WARNINGS_PUSH
// The opponent: f32 rows [head][token][size], one dot product or one axpy per token, four or more
// independent sums; size is a multiple of 64.
RRS_TARGET_AVX512 float dot_f32(const float* a, const float* b, std::int64_t n) noexcept {
  __m512 sum_f32x16[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                          _mm512_setzero_ps()};
  for (std::int64_t i = 0; i < n; i += 64) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      sum_f32x16[j] = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + j * 16),
                                      _mm512_loadu_ps(b + i + j * 16), sum_f32x16[j]);
    }
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum_f32x16[0], sum_f32x16[1]),
                                            _mm512_add_ps(sum_f32x16[2], sum_f32x16[3])));
}

RRS_TARGET_AVX512 void sum_f32(const float* v, const float* p, std::int64_t tokens, std::int64_t n,
                               float* out) noexcept {
  for (std::int64_t i = 0; i < n; i += 64) {
    __m512 sum_f32x16[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sum_f32x16[j] = _mm512_loadu_ps(out + i + j * 16);
    for (std::int64_t t = 0; t < tokens; ++t) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        sum_f32x16[j] = _mm512_fmadd_ps(_mm512_set1_ps(p[t]),
                                        _mm512_loadu_ps(v + t * n + i + j * 16), sum_f32x16[j]);
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) _mm512_storeu_ps(out + i + j * 16, sum_f32x16[j]);
  }
}

RRS_ISA_WARNINGS_POP

void bench_scores_f32(benchmark::State& state, std::int64_t size, std::int64_t context) {
  const std::vector<float> k = wave(kHeads * context * size), q = wave(size);
  std::vector<float> out(static_cast<std::size_t>(context));
  for (auto _ : state) {
    for (std::int64_t h = 0; h < kHeads; ++h) {
      for (std::int64_t t = 0; t < context; ++t) {
        out[static_cast<std::size_t>(t)] =
            dot_f32(q.data(), k.data() + (h * context + t) * size, size);
      }
    }
    benchmark::ClobberMemory();
  }
  per_token(state, context);
}

void bench_accumulate_f32(benchmark::State& state, std::int64_t size, std::int64_t context) {
  const std::vector<float> v = wave(kHeads * context * size), p = wave(context);
  std::vector<float> out(static_cast<std::size_t>(size));
  for (auto _ : state) {
    for (std::int64_t h = 0; h < kHeads; ++h) {
      sum_f32(v.data() + h * context * size, p.data(), context, size, out.data());
    }
    benchmark::ClobberMemory();
  }
  per_token(state, context);
}
#endif

void add_level(rrs::Isa isa, int bits, std::int64_t size, std::int64_t context) {
  const std::string name = std::to_string(bits) + "bits/" + std::to_string(size) + "/" +
                           std::to_string(context) + "/" + rrs::kIsaNames[static_cast<int>(isa)];
  benchmark::RegisterBenchmark(("scores/" + name).c_str(), bench_scores, isa, bits, size, context);
  benchmark::RegisterBenchmark(("accumulate/" + name).c_str(), bench_accumulate, isa, bits, size,
                               context);
}

}  // namespace

int main(int argc, char** argv) {
  for (const std::int64_t size : {64, 128}) {
    for (const std::int64_t context : {512, 16384}) {
#if RRS_X86_64
      if (rrs::isa_supported(rrs::Isa::kAvx512)) {
        const std::string name = "f32/" + std::to_string(size) + "/" + std::to_string(context);
        benchmark::RegisterBenchmark(("scores/" + name).c_str(), bench_scores_f32, size, context);
        benchmark::RegisterBenchmark(("accumulate/" + name).c_str(), bench_accumulate_f32, size,
                                     context);
      }
#endif
      for (int i = 0; i < rrs::kIsaCount; ++i) {
        const auto isa = static_cast<rrs::Isa>(i);
        if (!rrs::isa_supported(isa) || (i == 0 && context > 512)) continue;
        for (const int bits : {4, 8, 16}) add_level(isa, bits, size, context);
      }
    }
    for (const int bits : {4, 8, 16}) {
      for (const rrs::Isa isa : {rrs::Isa::kScalar, rrs::best_isa()}) {
        const std::string name = "append/" + std::to_string(bits) + "bits/" + std::to_string(size) +
                                 "/" + rrs::kIsaNames[static_cast<int>(isa)];
        benchmark::RegisterBenchmark(name.c_str(), bench_append, isa, bits, size);
      }
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
