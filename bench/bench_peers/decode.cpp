#include <algorithm>
#include <cstdio>
#include <string>

#include "bench_peers/parts.hpp"
#include "bench_peers/peer.hpp"
#include "bench_peers/specs.hpp"
#include "support/checked.hpp"
#include "support/table.hpp"

namespace rrs_bench {
namespace {

// Each of them holds a footprint of weights: those of other precisions would need too much memory.
constexpr const char* kDecodeMethods = "rrs,rrs_g128,rrs_w4a8,Q4_0,Q4_K,read";

struct Source {
  const char* name;
  std::int64_t footprint;
  bool is_dram;
};

double bandwidth(const Measured& m) { return 1e-9 * m.info.weight_bytes / m.seconds(); }

// What a subject is held against: reading the same bytes where the peer has that, else a buffer of
// its own, in the pattern that was the fastest there.
const Measured* read_beside(const std::vector<Measured>& all, const Measured& m) {
  const Measured* read = fastest(all, {m.info.label, kReadOf + m.info.method, "", ""});
  return read != nullptr ? read : fastest(all, {"", "read", "", ""});
}

// Share of the bandwidth that plain reading reached in the same round.
Summary share_of_read(const std::vector<Measured>& all, const Measured* m) {
  if (m == nullptr) return Summary{};
  const Measured* read = read_beside(all, *m);
  if (read == nullptr) return Summary{};
  Summary s = times_faster(m, read);
  s.median *= m->info.weight_bytes / read->info.weight_bytes;
  return s;
}

void print_decode(const Source& source, int threads, const std::vector<Measured>& all,
                  JsonRecords* records) {
  std::printf("\ndecode, M 1, weights from %s (%lld MB), %d thread%s\n", source.name,
              static_cast<long long>(source.footprint >> 20), threads, threads == 1 ? "" : "s");
  Table table({"library", "method", "level", "ms", "GB/s", "of read", "+-%", "kernel"});
  for (const Measured& m : all) {
    const Measured* read = read_beside(all, m);
    const Summary time = summarize(m.series.seconds()), share = share_of_read(all, &m);
    table.add({m.info.label, m.info.method, m.info.level, number(1e3 * m.seconds(), 3),
               number(bandwidth(m), 1), number(100 * share.median, 0) + "%",
               number(100 * share.spread, 1), m.info.kernel});
    records->add({{"kind", "decode"},
                  {"source", source.name},
                  {"threads", threads},
                  {"library", m.info.label},
                  {"method", m.info.method},
                  {"level", m.info.level},
                  {"kernel", m.info.kernel},
                  {"cpu_ms", 1e3 * summarize(m.series.cpu).median},
                  {"wall_ms", 1e3 * summarize(m.series.wall).median},
                  {"spread", time.spread},
                  {"gb_per_s", bandwidth(m)},
                  {"read", read == nullptr ? "" : read->info.method},
                  {"read_pattern", read == nullptr ? "" : read->info.kernel},
                  {"share_of_read", share.median},
                  {"share_spread", share.spread}});
  }
  table.print();
}

void add_targets(const Source& source, int threads, const std::vector<Measured>& all,
                 std::vector<Target>* targets) {
  for (const char* level : {"avx2", "avx512vnni"}) {
    const std::string where =
        std::string(", ") + source.name + ", threads " + std::to_string(threads);
    const Measured* rrs = fastest(all, {"rrs", "rrs", level, "layer"});
    if (source.is_dram) {
      targets->push_back(
          {"decode rrs / read bandwidth" + where, level, share_of_read(all, rrs), 0.90, false});
      continue;
    }
    const Measured* q4_0 = fastest(all, {"", "Q4_0", level, ""});
    const Measured* q4_k = fastest(all, {"", "Q4_K", level, ""});
    const Measured* ggml = q4_0;
    if (ggml == nullptr || (q4_k != nullptr && q4_k->seconds() < ggml->seconds())) ggml = q4_k;
    targets->push_back({"decode rrs / ggml best 4-bit" + where, level, times_faster(rrs, ggml),
                        std::string(level) == "avx2" ? 1.8 : 3.0, false});
  }
}

}  // namespace

std::vector<Target> run_decode(const PeerOptions& o, JsonRecords* records) {
  std::vector<Target> targets;
  std::vector<PeerSpec> specs = peer_specs(o.peers);
  specs.push_back({"memory", "stream", {}});
  const Source sources[] = {{"DRAM", o.dram_bytes, true}, {"cache", o.cache_bytes, false}};
  const std::string methods = o.methods == "*" ? kDecodeMethods : o.methods + ",read";
  for (const Source& source : sources) {
    for (const int threads : o.decode_threads) {
      RoundOptions rounds = o.rounds;
      rounds.wall = threads > 1;
      const Sessions sessions =
          start_sessions(specs, threads);  // ended, and memory freed, each time
      const std::vector<Measured> all =
          measure_case(sessions, {1, o.k, o.n, source.footprint, methods, "layer"}, rounds);
      const auto only_read = [](const Measured& m) { return m.info.method == "read"; };
      if (std::all_of(all.begin(), all.end(), only_read)) {
        stop("--decode: no peer has any of --methods");
      }
      print_decode(source, threads, all, records);
      add_targets(source, threads, all, &targets);
    }
  }
  return targets;
}

}  // namespace rrs_bench
