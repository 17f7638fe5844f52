// This library against what a user would pick instead, in one run. See bench/README.md.
#include <cstdio>
#include <string>
#include <vector>

#include "bench_peers/options.hpp"
#include "bench_peers/parts.hpp"
#include "bench_peers/report.hpp"
#include "bench_peers/results.hpp"
#include "bench_peers/specs.hpp"
#include "bench_peers/worker.hpp"
#include "support/checked.hpp"
#include "support/json_file.hpp"
#include "support/machine.hpp"

namespace rrs_bench {
namespace {

void append(std::vector<Target>* all, const std::vector<Target>& more) {
  all->insert(all->end(), more.begin(), more.end());
}

std::vector<CaseResult> run_table(const PeerOptions& o, JsonRecords* records) {
  std::vector<CaseResult> results;
  const Sessions sessions = start_sessions(peer_specs(o.peers), o.threads);
  for (const std::int64_t m : o.m) {
    const Case c{m, o.k, o.n, 0, o.methods, ""};
    results.push_back({c, measure_case(sessions, c, o.rounds)});
    if (results.back().measured.empty()) stop("no peer of this build has any of --methods");
    report_case(c, results.back().measured, records);
  }
  return results;
}

int coordinate(const PeerOptions& o, int argc, char** argv) {
  highest_level();  // an RRS_ISA that does not run here ends the program before anything is
                    // measured
  JsonRecords records;
  records.describe(argc, argv);
  std::printf("%s\n%s time, medians of %d interleaved rounds of at least %.0f ms\n",
              records.description().c_str(), o.rounds.wall ? "wall" : "thread CPU", o.rounds.rounds,
              1e3 * o.rounds.min_seconds);
  std::vector<Target> targets;
  if (o.table) {
    const std::vector<CaseResult> results = run_table(o, &records);
    for (const CaseResult& r : results) {
      if (r.problem.m == 512) append(&targets, layer_targets(r.measured));
    }
    if (!o.svg.empty()) write_roofline(o, results, &records);
  }
  if (o.sweep) append(&targets, run_sweep(o, &records));
  if (o.decode) append(&targets, run_decode(o, &records));
  if (o.scaling) append(&targets, run_scaling(o, &records));
  if (!o.other.empty()) run_builds(o, &records);
  if (o.clocks) run_clocks(o, &records);
  if (o.transforms) append(&targets, run_transforms(o, &records));
  report_targets(targets, &records);
  if (!o.json.empty()) records.write(o.json);
  return 0;
}

}  // namespace
}  // namespace rrs_bench

int main(int argc, char** argv) {
  const rrs_bench::PeerOptions options = rrs_bench::parse_peer_options(argc, argv);
  if (!options.worker.empty()) return rrs_bench::serve_peer(options.worker, options.threads);
  return rrs_bench::coordinate(options, argc, argv);
}
