#include <cstdio>
#include <string>
#include <vector>

#include "bench_peers/parts.hpp"
#include "bench_peers/specs.hpp"
#include "support/flags.hpp"
#include "support/table.hpp"

namespace rrs_bench {
namespace {

constexpr const char* kBuildMethods =
    "rrs,rrs_g64,rrs_g128,rrs_w4a8_g128,rrs_w4a16,smoothquant_w8a8";
constexpr const char* kLevels = "avx2,avxvnni,avx512,avx512vnni,amx";

}  // namespace

// One kernel at a time, so that nothing but the other build's call lies between two of its own.
void run_builds(const PeerOptions& o, JsonRecords* records) {
  const std::string methods = o.methods == "*" ? kBuildMethods : o.methods;
  Table table({"M", "method", "level", "kernel", "ms", "other ms", "other / this", "spread %"});
  RoundOptions once = o.rounds;
  once.rounds = 1;
  for (const std::string& level : split(kLevels, ',')) {
    const PeerSpec here = rrs_spec(level);
    PeerSpec there = here;
    there.program = o.other;
    const Sessions first = start_sessions({here}, o.threads);
    const Sessions second = start_sessions({there}, o.threads);
    for (const std::int64_t m : o.m) {
      for (const std::string& method : split(methods, ',')) {
        const Case c{m, o.k, o.n, 0, method, "gemm"};
        std::vector<Measured> mine, theirs;
        for (int round = 0; round < o.rounds.rounds; ++round) {
          append_round(&mine, measure_case(first, c, once));
          append_round(&theirs, measure_case(second, c, once));
        }
        if (mine.size() != 1 || theirs.size() != 1) continue;  // not on this machine
        const Summary ratio = times_faster(&mine[0], &theirs[0]);
        const double ms = 1e3 * mine[0].seconds(), other_ms = 1e3 * theirs[0].seconds();
        table.add({std::to_string(m), method, level, mine[0].info.kernel, number(ms, 3),
                   number(other_ms, 3), number(ratio.median, 3), number(100.0 * ratio.spread, 1)});
        records->add({{"kind", "builds"},
                      {"m", m},
                      {"method", method},
                      {"level", level},
                      {"ms", ms},
                      {"other_ms", other_ms},
                      {"other_over_this", ratio.median},
                      {"spread", ratio.spread}});
      }
    }
  }
  std::printf("\nthe same kernels in %s\n", o.other.c_str());
  table.print();
}

}  // namespace rrs_bench
