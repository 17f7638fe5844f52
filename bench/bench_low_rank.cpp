// What a low-rank branch costs: the same layer with ranks 0, 16, 32, 64, its elements in 16 or 8
// bits, in interleaved rounds.
//
//   bench_low_rank --m 1,512 --shapes 4096x4096 --presets rrs,quarot --ranks 32,64 --bits 16,8
//
// Every number includes the preparation of activations (with the down-projection) and the GEMM
// (with the up-projection). Overhead: median over rounds of time(rank) / time(0) - 1, with half the
// distance between quartiles. The level is RRS_ISA's.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "support/checked.hpp"
#include "support/data.hpp"
#include "support/flags.hpp"
#include "support/layer.hpp"
#include "support/machine.hpp"
#include "support/rounds.hpp"

namespace rrs_bench {
namespace {

constexpr const char* kUsage =
    "usage: bench_low_rank [--m 1,16,512] [--shapes 4096x4096] (K x N) [--presets rrs,...]\n"
    "  [--ranks 16,32,64] [--bits 16,8] [--rounds 9] [--ms 20]\n";

struct Options {
  std::vector<std::int64_t> m, ranks, bits;
  std::vector<std::string> shapes, presets;
  RoundOptions rounds;
};

Options parse_options(int argc, char** argv) {
  Flags flags(argc, argv, kUsage);
  Options o;
  o.m = flags.integers("m", "1,16,512");
  o.ranks = flags.integers("ranks", "16,32,64");
  o.bits = flags.integers("bits", "16,8");
  o.shapes = split(flags.text("shapes", "4096x4096,576x1536"), ',');
  o.presets = split(flags.text("presets", "rrs,rrs_g128,quarot"), ',');
  o.rounds.rounds = static_cast<int>(flags.integer("rounds", 9));
  o.rounds.min_seconds = 1e-3 * static_cast<double>(flags.integer("ms", 20));
  flags.finish();
  return o;
}

rrs::PreparedWeight with_rank(const rrs::PreparedWeight& base, std::int64_t rank,
                              std::int64_t bits) {
  const std::vector<float> a(static_cast<std::size_t>(base.n() * rank), 0.01f);
  const std::vector<float> b(static_cast<std::size_t>(rank * base.k()), 0.01f);
  rrs::Result<rrs::PreparedWeight> both = rrs::attach_low_rank(
      base, rrs::MatrixView<const float>(a.data(), base.n(), rank),
      rrs::MatrixView<const float>(b.data(), rank, base.k()), static_cast<int>(bits));
  check(both.status());
  return std::move(*both);
}

struct RankedLayer {
  rrs::PreparedWeight weight;
  rrs::LowRankView branch;
  std::unique_ptr<Layer> layer;
};

void measure(const rrs::PreparedWeight& base, const std::string& preset, std::int64_t m,
             const Options& o) {
  const std::vector<float> x = outlier_activations(m, base.k(), 3);
  std::vector<RankedLayer> layers(o.ranks.size() * o.bits.size());
  Layer plain(base, base.scheme(), m);
  std::vector<Contender> contenders = {{"0", [&] { plain.run(x.data()); }}};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    RankedLayer& l = layers[i];
    const std::int64_t rank = o.ranks[i / o.bits.size()], bits = o.bits[i % o.bits.size()];
    l.weight = with_rank(base, rank, bits);
    l.branch = l.weight.view().low_rank;
    l.layer = std::make_unique<Layer>(l.weight, l.weight.scheme(), m);
    l.layer->options().low_rank = &l.branch;
    l.layer->options().low_rank_count = 1;
    char name[64];
    std::snprintf(name, sizeof name, "%3ld in %2ld bits", static_cast<long>(rank),
                  static_cast<long>(bits));
    contenders.push_back({name, [&l, &x] { l.layer->run(x.data()); }});
  }
  const std::vector<Series> series = measure_rounds(contenders, o.rounds);
  for (std::size_t i = 1; i < series.size(); ++i) {
    const Summary ratio = summarize_ratio(series[i].seconds(), series[0].seconds());
    std::printf("%-10s M %4ld  K %5ld  N %5ld  rank %s  %10.1f us -> %10.1f us  %+6.1f %% (%.1f)\n",
                preset.c_str(), static_cast<long>(m), static_cast<long>(base.k()),
                static_cast<long>(base.n()), contenders[i].name.c_str(),
                1e6 * summarize(series[0].seconds()).median,
                1e6 * summarize(series[i].seconds()).median, 100.0 * (ratio.median - 1.0),
                100.0 * ratio.spread * ratio.median);
  }
}

void run(const Options& o) {
  std::printf("%s, level %s, one thread\n", cpu_model().c_str(), active_level().c_str());
  for (const std::string& text : o.shapes) {
    long long k = 0, n = 0;
    if (std::sscanf(text.c_str(), "%lldx%lld", &k, &n) != 2) stop("--shapes must be KxN");
    const FloatWeight weight(Shape{k, n});
    for (const std::string& preset : o.presets) {
      const rrs::Result<rrs::Scheme> scheme = rrs::presets::by_name(preset.c_str());
      check(scheme.status());
      const rrs::PreparedWeight base = prepare(weight.view(), *scheme);
      for (const std::int64_t m : o.m) measure(base, preset, m, o);
    }
  }
}

}  // namespace
}  // namespace rrs_bench

int main(int argc, char** argv) {
  rrs_bench::run(rrs_bench::parse_options(argc, argv));
  return 0;
}
