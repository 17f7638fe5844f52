// Interleaved rounds: every contender runs once per round, so that ratios are taken between
// measurements a few milliseconds apart.
//
// A measurement: untimed calls for a quarter of `min_seconds` (caches, frequency), at least one,
// then calls until `min_seconds` have passed.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "support/clock.hpp"
#include "support/statistics.hpp"

namespace rrs_bench {

struct Contender {
  std::string name;
  std::function<void()> run;  // one whole call
};

struct RoundOptions {
  int rounds = 7;
  double min_seconds = 0.02;  // of each measurement
  bool wall = false;          // ratios from wall time (several threads) instead of CPU time
};

// Seconds per call of every round.
struct Series {
  std::vector<double> cpu;
  std::vector<double> wall;
  bool use_wall = false;

  const std::vector<double>& seconds() const { return use_wall ? wall : cpu; }
};

// Calls until `seconds` of wall time have passed; seconds per call.
inline Seconds repeat_for(const std::function<void()>& run, double seconds) {
  const Seconds start = now();
  Seconds passed;
  double calls = 0.0;
  do {
    run();
    calls += 1.0;
    passed = since(start);
  } while (passed.wall < seconds);
  return {passed.cpu / calls, passed.wall / calls};
}

inline Seconds measure_once(const std::function<void()>& run, double min_seconds) {
  repeat_for(run, 0.25 * min_seconds);
  return repeat_for(run, min_seconds);
}

// series[i] belongs to contenders[i].
inline std::vector<Series> measure_rounds(const std::vector<Contender>& contenders,
                                          const RoundOptions& options) {
  std::vector<Series> series(contenders.size());
  for (int round = 0; round < options.rounds; ++round) {
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      const Seconds s = measure_once(contenders[i].run, options.min_seconds);
      series[i].cpu.push_back(s.cpu);
      series[i].wall.push_back(s.wall);
      series[i].use_wall = options.wall;
    }
  }
  return series;
}

}  // namespace rrs_bench
