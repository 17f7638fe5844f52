// The measurements beside the main table; each prints its own.
#pragma once

#include <vector>

#include "bench_peers/options.hpp"
#include "bench_peers/report.hpp"
#include "bench_peers/results.hpp"
#include "support/json_file.hpp"

namespace rrs_bench {

// M = 1 .. sweep_rows: no M may be slower than its successor, no step may be a cliff.
std::vector<Target> run_sweep(const PeerOptions& o, JsonRecords* records);

// M = 1, weights from DRAM and from cache, 1 and 2 threads, against reading as many bytes.
std::vector<Target> run_decode(const PeerOptions& o, JsonRecords* records);

// 1 against 2 threads at M = 512, and what a call of an executor without work costs.
std::vector<Target> run_scaling(const PeerOptions& o, JsonRecords* records);

// Fast Walsh-Hadamard transforms against memcpy of the same row in L1.
std::vector<Target> run_transforms(const PeerOptions& o, JsonRecords* records);

// The core's clock right after each kernel and peer has computed a tile or two, and what that makes
// per cycle.
void run_clocks(const PeerOptions& o, JsonRecords* records);

// Every kernel of this build against the same one of --other, e.g. built by another compiler.
void run_builds(const PeerOptions& o, JsonRecords* records);

// The roofline of the measured cases: every layer, and the products of peers that have no layers.
struct CaseResult {
  Case problem;
  std::vector<Measured> measured;
};
void write_roofline(const PeerOptions& o, const std::vector<CaseResult>& results,
                    JsonRecords* records);

}  // namespace rrs_bench
