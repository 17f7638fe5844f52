#include <algorithm>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "bench_peers/parts.hpp"
#include "bench_peers/specs.hpp"
#include "support/checked.hpp"
#include "support/table.hpp"
#include "support/thread_executor.hpp"
#include "support/thread_pool.hpp"

namespace rrs_bench {
namespace {

constexpr std::int64_t kScalingRows = 512;
constexpr const char* kScalingMethods = "rrs,rrs_g128,rrs_w4a8";

void report_executors(JsonRecords* records) {
  ThreadPool pool(2);
  const auto nothing = [](std::int64_t) noexcept {};
  const std::vector<Contender> contenders{
      {"pool, 2 threads", [&] { PoolExecutor{&pool}(2, nothing); }},
      {"std::thread, 2 threads", [&] { rrs_test::ThreadExecutor(2)(2, nothing); }}};
  RoundOptions rounds;
  rounds.wall = true;
  const std::vector<Series> series = measure_rounds(contenders, rounds);
  // The lowest is what the hand-over costs; the median also counts waiting for a busy core.
  Table table({"executor call without work", "microseconds, median", "lowest"});
  for (std::size_t i = 0; i < series.size(); ++i) {
    const std::vector<double>& times = series[i].seconds();
    const double us = 1e6 * summarize(times).median;
    const double lowest = 1e6 * *std::min_element(times.begin(), times.end());
    table.add({contenders[i].name, number(us, 2), number(lowest, 2)});
    records->add({{"kind", "executor"},
                  {"executor", contenders[i].name},
                  {"us", us},
                  {"us_lowest", lowest}});
  }
  std::printf("\n");
  table.print();
}

}  // namespace

std::vector<Target> run_scaling(const PeerOptions& o, JsonRecords* records) {
  if (rrs_examples::usable_cpus() < 2) {
    std::printf("\nno --scaling: this process may use one CPU only\n");
    return {};
  }
  report_executors(records);
  const std::string methods = o.methods == "*" ? kScalingMethods : o.methods;
  RoundOptions rounds = o.rounds;
  rounds.wall = true;
  const Case c{kScalingRows, o.k, o.n, 0, methods, "layer"};
  // Two processes, one per number of threads, in the same rounds.
  const Sessions one = start_sessions({rrs_spec("")}, 1);
  const Sessions two = start_sessions({rrs_spec("")}, 2);
  std::vector<Target> targets;
  std::vector<Measured> first, second;
  RoundOptions once = rounds;
  once.rounds = 1;
  for (int round = 0; round < rounds.rounds; ++round) {
    append_round(&first, measure_case(one, c, once));
    append_round(&second, measure_case(two, c, once));
  }
  if (first.empty()) stop("--scaling: this library has none of --methods at the levels asked for");
  for (std::size_t i = 0; i < first.size() && i < second.size(); ++i) {
    targets.push_back({"2 threads / 1, M 512, " + first[i].info.method, first[i].info.level,
                       times_faster(&second[i], &first[i]), 1.9, false});
  }
  return targets;
}

}  // namespace rrs_bench
