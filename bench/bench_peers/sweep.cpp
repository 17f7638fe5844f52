#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <map>
#include <string>

#include "bench_peers/chart.hpp"
#include "bench_peers/parts.hpp"
#include "bench_peers/specs.hpp"
#include "support/checked.hpp"
#include "support/table.hpp"

namespace rrs_bench {
namespace {

// times[M - 1]: seconds of every round.
using Sweep = std::vector<std::vector<double>>;

// Rounds outermost, so that neighbours are compared within a round.
std::map<std::string, Sweep> measure_sweep(const PeerOptions& o) {
  const Sessions sessions = start_sessions({rrs_spec("")}, o.threads);
  std::map<std::string, Sweep> all;
  RoundOptions once = o.rounds;
  once.rounds = 1;
  for (int round = 0; round < o.rounds.rounds; ++round) {
    for (std::int64_t m = 1; m <= o.sweep_rows; ++m) {
      for (const Measured& x : measure_case(sessions, {m, o.k, o.n, 0, o.methods, "layer"}, once)) {
        Sweep& sweep = all[x.info.method + " " + x.info.level];
        sweep.resize(static_cast<std::size_t>(o.sweep_rows));
        sweep[static_cast<std::size_t>(m - 1)].push_back(x.seconds());
      }
    }
  }
  return all;
}

// Largest t(M) / t(M + 1): above 1, a row fewer costs more.
Target worst_step(const std::string& name, const Sweep& sweep) {
  Target worst{"sweep, worst t(M) / t(M + 1): " + name, "", {}, 1.05, true};
  for (std::size_t i = 0; i + 1 < sweep.size(); ++i) {
    const Summary step = summarize_ratio(sweep[i], sweep[i + 1]);
    if (!(step.median <= worst.value.median)) {
      worst.value = step;
      worst.level = "M " + std::to_string(i + 1);
    }
  }
  return worst;
}

// Largest growth of the time per row: above 1, a row more makes every row slower.
Target worst_growth(const std::string& name, const Sweep& sweep) {
  Target worst{"sweep, worst growth of t(M) / M: " + name, "", {}, 1.10, true};
  for (std::size_t i = 0; i + 1 < sweep.size(); ++i) {
    Summary step = summarize_ratio(sweep[i + 1], sweep[i]);
    step.median *= static_cast<double>(i + 1) / static_cast<double>(i + 2);
    if (!(step.median <= worst.value.median)) {
      worst.value = step;
      worst.level = "M " + std::to_string(i + 2);
    }
  }
  return worst;
}

// Decode is never slower than 2 or 8 rows.
void add_one_row_targets(const std::string& name, const Sweep& sweep,
                         std::vector<Target>* targets) {
  for (const std::size_t other : {std::size_t{2}, std::size_t{8}}) {
    if (sweep.size() < other) continue;
    targets->push_back({"t(M 1) / t(M " + std::to_string(other) + "): " + name, "",
                        summarize_ratio(sweep[0], sweep[other - 1]), 1.0, true});
  }
}

void draw_sweep(const std::string& path, const PeerOptions& o,
                const std::map<std::string, Sweep>& all) {
  double highest = 0.0;
  for (const auto& [name, sweep] : all) {
    for (const auto& times : sweep) highest = std::max(highest, 1e3 * summarize(times).median);
  }
  Chart chart("Time of a layer by rows, K " + std::to_string(o.k) + ", N " + std::to_string(o.n),
              {"M", 0.0, static_cast<double>(o.sweep_rows), false},
              {"milliseconds", 0.0, 1.05 * highest, false});
  int n = 0;
  for (const auto& [name, sweep] : all) {
    std::vector<Point> points;
    for (std::size_t i = 0; i < sweep.size(); ++i) {
      points.push_back({static_cast<double>(i + 1), 1e3 * summarize(sweep[i]).median});
    }
    const bool again = n >= kColourCount;  // the colours start again, dashed
    chart.line(points, colour(n), again);
    chart.legend(again ? name + " (dashed)" : name, Mark::kSquare, colour(n++));
  }
  chart.write(path);
}

}  // namespace

std::vector<Target> run_sweep(const PeerOptions& o, JsonRecords* records) {
  const std::map<std::string, Sweep> all = measure_sweep(o);
  if (all.empty()) stop("--sweep: this library has none of --methods at the levels asked for");
  std::printf("\nmilliseconds by M, K %lld, N %lld\n", static_cast<long long>(o.k),
              static_cast<long long>(o.n));
  std::vector<std::string> header{"M"};
  for (const auto& [name, sweep] : all) header.push_back(name);
  Table table(header);
  for (std::size_t i = 0; i < static_cast<std::size_t>(o.sweep_rows); ++i) {
    std::vector<std::string> row{std::to_string(i + 1)};
    for (const auto& [name, sweep] : all) {
      const Summary time = summarize(sweep[i]);
      row.push_back(number(1e3 * time.median, 3));
      records->add({{"kind", "sweep"},
                    {"m", i + 1},
                    {"k", o.k},
                    {"n", o.n},
                    {"method", name},
                    {"ms", 1e3 * time.median},
                    {"spread", time.spread}});
    }
    table.add(row);
  }
  table.print();
  std::vector<Target> targets;
  for (const auto& [name, sweep] : all) {
    targets.push_back(worst_step(name, sweep));
    targets.push_back(worst_growth(name, sweep));
    add_one_row_targets(name, sweep, &targets);
  }
  if (!o.sweep_svg.empty()) draw_sweep(o.sweep_svg, o, all);
  return targets;
}

}  // namespace rrs_bench
