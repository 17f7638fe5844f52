#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "bench_peers/parts.hpp"
#include "bench_peers/peaks.hpp"
#include "bench_peers/specs.hpp"
#include "support/checked.hpp"
#include "support/table.hpp"

namespace rrs_bench {
namespace {

// One tile of most kernels of this library (two of avx512 and of W4A16): the call ends with the
// work, while the clock is still that of the work. Behind the last tile of a large product it is
// not.
constexpr std::int64_t kTileRows = 56;
constexpr std::int64_t kTileOutputs = 64;

struct Clocked {
  SubjectInfo info;
  Session* session;
  std::size_t index;
  std::vector<double> gmacs, ghz;
};

// Products only: a layer of this library is two kernels.
std::vector<Clocked> open_products(const Sessions& sessions, const PeerOptions& o) {
  std::vector<Clocked> all;
  for (const auto& session : sessions) {
    const std::vector<SubjectInfo> subjects =
        session->open(kTileRows, o.k, kTileOutputs, 0, o.methods);
    for (std::size_t i = 0; i < subjects.size(); ++i) {
      if (subjects[i].label == "rrs" && subjects[i].part != "gemm") continue;
      all.push_back({subjects[i], session.get(), i, {}, {}});
    }
  }
  return all;
}

void add_row(Table* table, JsonRecords* records, const SubjectInfo& info, double gmacs,
             double ghz) {
  table->add({info.label, info.method, info.level, number(gmacs, 1), number(ghz, 2),
              number(gmacs / ghz, 1), info.kernel});
  records->add({{"kind", "clock"},
                {"library", info.label},
                {"method", info.method},
                {"level", info.level},
                {"kernel", info.kernel},
                {"gmacs", gmacs},
                {"ghz", ghz}});
}

}  // namespace

void run_clocks(const PeerOptions& o, JsonRecords* records) {
  const Sessions sessions = start_sessions(peer_specs(o.peers), 1);
  std::vector<Clocked> all = open_products(sessions, o);
  if (all.empty()) stop("--clocks: no peer has any of --methods");
  const double ms = 1e3 * o.rounds.min_seconds;
  const double gmacs = 1e-9 * static_cast<double>(kTileRows * o.k * kTileOutputs);
  for (int round = 0; round < o.rounds.rounds; ++round) {
    for (Clocked& c : all) {
      c.gmacs.push_back(gmacs / c.session->run(c.index, ms).cpu);
      c.ghz.push_back(c.session->clock(c.index, ms));
    }
  }
  std::printf("\nclock right after the work: instructions on registers; M %lld, K %lld, N %lld\n",
              static_cast<long long>(kTileRows), static_cast<long long>(o.k),
              static_cast<long long>(kTileOutputs));
  Table table({"library", "method", "level", "GMAC/s", "GHz", "MAC/cycle", "kernel"});
  for (const InstructionPeak& p : measure_instruction_peaks(o.rounds.rounds)) {
    add_row(&table, records, {"-", p.instruction, p.level, "", "", 0.0}, 1e-9 * p.macs_per_second,
            p.ghz);
  }
  for (const Clocked& c : all) {
    add_row(&table, records, c.info, summarize(c.gmacs).median, summarize(c.ghz).median);
  }
  table.print();
}

}  // namespace rrs_bench
