#include <cstdio>
#include <string>
#include <vector>

#include "bench_peers/parts.hpp"
#include "bench_peers/peer.hpp"
#include "bench_peers/specs.hpp"
#include "support/checked.hpp"
#include "support/flags.hpp"
#include "support/table.hpp"

namespace rrs_bench {
namespace {

constexpr const char* kLevels = "avx2,avxvnni,avx512,avx512vnni,amx";

// One kernel in both builds; empty where this machine or one of the builds does not have it.
struct Pair {
  std::vector<Measured> here, there;
};

// One kernel at a time, so that nothing but the other build's call lies between two of its own.
Pair measure_pair(const Sessions& here, const Sessions& there, const Case& c, RoundOptions rounds) {
  const int count = rounds.rounds;
  rounds.rounds = 1;
  Pair pair;
  for (int round = 0; round < count; ++round) {
    append_round(&pair.here, measure_case(here, c, rounds));
    append_round(&pair.there, measure_case(there, c, rounds));
    if (pair.here.size() != 1 || pair.there.size() != 1) return {};
  }
  return pair;
}

void report_pair(const Pair& pair, const Case& c, Table* table, JsonRecords* records) {
  const Measured &here = pair.here.front(), &there = pair.there.front();
  const Summary ratio = times_faster(&here, &there);
  const double ms = 1e3 * here.seconds(), other_ms = 1e3 * there.seconds();
  table->add({std::to_string(c.m), c.methods, here.info.level, c.part, here.info.kernel,
              number(ms, 4), number(other_ms, 4), number(ratio.median, 3),
              number(100.0 * ratio.spread, 1)});
  records->add({{"kind", "builds"},
                {"m", c.m},
                {"method", c.methods},
                {"level", here.info.level},
                {"part", c.part},
                {"kernel", here.info.kernel},
                {"ms", ms},
                {"other_ms", other_ms},
                {"other_over_this", ratio.median},
                {"spread", ratio.spread}});
}

}  // namespace

void run_builds(const PeerOptions& o, JsonRecords* records) {
  const std::vector<std::string> methods = o.methods == "*" ? rrs_methods() : split(o.methods, ',');
  Table table(
      {"M", "method", "level", "part", "kernel", "ms", "other ms", "other / this", "spread %"});
  bool any = false;
  for (const std::string& level : split(kLevels, ',')) {
    if (!wants_level(level)) continue;
    PeerSpec spec = rrs_spec(level);
    const Sessions here = start_sessions({spec}, o.threads);
    spec.program = o.other;
    const Sessions there = start_sessions({spec}, o.threads);
    for (const std::int64_t m : o.m) {
      for (const std::string& method : methods) {
        for (const char* part : {"prepare", "gemm"}) {
          const Case c{m, o.k, o.n, 0, method, part};
          const Pair pair = measure_pair(here, there, c, o.rounds);
          if (pair.here.empty()) continue;
          report_pair(pair, c, &table, records);
          any = true;
        }
      }
    }
  }
  if (!any) stop("--other: the two builds have none of --methods, or levels, in common");
  std::printf("\nthe same kernels in %s\n", o.other.c_str());
  table.print();
}

}  // namespace rrs_bench
