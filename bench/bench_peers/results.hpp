// All subjects of all peers on one problem, measured in interleaved rounds.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench_peers/session.hpp"
#include "support/rounds.hpp"
#include "support/statistics.hpp"

namespace rrs_bench {

struct Measured {
  SubjectInfo info;
  Series series;

  double seconds() const { return summarize(series.seconds()).median; }
};

struct Case {
  std::int64_t m = 0;
  std::int64_t k = 0;
  std::int64_t n = 0;
  std::int64_t footprint = 0;
  std::string methods = "*";  // comma-separated
  std::string part;           // only this one; empty: all

  double macs() const { return static_cast<double>(m * k * n); }
};

using Sessions = std::vector<std::unique_ptr<Session>>;

Sessions start_sessions(const std::vector<PeerSpec>& specs, int threads);

// Opens the case everywhere, then runs every subject once per round.
std::vector<Measured> measure_case(const Sessions& sessions, const Case& c,
                                   const RoundOptions& options);

// Adds the times of a later round; both came from the same case.
void append_round(std::vector<Measured>* all, const std::vector<Measured>& round);

// Empty strings match everything. Null when there is none; the fastest when there are several.
struct Pattern {
  std::string label, method, level, part;
};
const Measured* fastest(const std::vector<Measured>& all, const Pattern& pattern);

// How many times faster `of` was than `base`, median over rounds. NaN if either is null.
Summary times_faster(const Measured* of, const Measured* base);

}  // namespace rrs_bench
