#include "bench_peers/worker.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <iostream>
#include <limits>
#include <memory>
#include <sstream>
#include <utility>
#include <vector>

#include "bench_peers/clock_rate.hpp"
#include "bench_peers/peer.hpp"
#include "support/clock.hpp"
#include "support/flags.hpp"
#include "support/rounds.hpp"

namespace rrs_bench {
namespace {

// What is open: the answers to `run` and `clock` are of it.
struct Opened {
  Problem problem;
  std::vector<Subject> subjects;
};

Opened answer_open(std::istringstream& line, int threads, Peer& peer) {
  Problem p;
  std::string methods;
  line >> p.m >> p.k >> p.n >> p.footprint >> methods;
  if (methods != "*") p.methods = split(methods, ',');
  p.threads = threads;
  std::vector<Subject> subjects = peer.open(p);
  std::cout << subjects.size() << "\n";
  for (const Subject& s : subjects) {
    std::cout << s.method << "\t" << s.level << "\t" << s.part << "\t" << s.kernel << "\t"
              << s.weight_bytes << "\n";
  }
  std::cout.flush();
  return {std::move(p), std::move(subjects)};
}

// Seconds of one pass over the copies of the weight.
double pass_over_footprint(const Problem& problem, const Subject& subject) {
  const Seconds start = now();
  for (std::int64_t i = problem.copies(subject.weight_bytes); i > 0; --i) subject.run();
  const Seconds passed = since(start);
  return problem.threads > 1 ? passed.wall : passed.cpu;
}

// Passes until four in a row bring nothing (two were too few: the first ones differ little). Since
// this subject's last turn others have filled the caches with their weights, and one pass does not
// bring its own back: on an L3 of 480 MB, 24 MB of ggml's Q4_K take 1.49, 1.37, 1.26, 1.17, 1.00,
// 0.73, 0.59, 0.54, 0.58 ms per call in the first nine. The limit is for weights that never stay in
// a cache.
void warm_up(const Problem& problem, const Subject& subject, double least_seconds) {
  constexpr double kMostSeconds = 0.1, kGain = 0.97;
  constexpr int kSteady = 4;
  const Seconds start = now();
  double fastest = std::numeric_limits<double>::infinity(), passed = 0.0;
  for (int steady = 0; passed < least_seconds || (steady < kSteady && passed < kMostSeconds);) {
    const double seconds = pass_over_footprint(problem, subject);
    steady = seconds < kGain * fastest ? 0 : steady + 1;
    fastest = std::min(fastest, seconds);
    passed = since(start).wall;
  }
}

void answer_run(std::istringstream& line, const Opened& open) {
  std::size_t index = 0;
  double milliseconds = 0.0;
  line >> index >> milliseconds;
  Seconds s;
  if (index < open.subjects.size()) {
    const Subject& subject = open.subjects[index];
    warm_up(open.problem, subject, 0.25e-3 * milliseconds);
    s = repeat_for(subject.run, 1e-3 * milliseconds);
  }
  std::printf("%.9e %.9e\n", s.cpu, s.wall);
  std::fflush(stdout);
}

void answer_clock(std::istringstream& line, const std::vector<Subject>& subjects) {
  std::size_t index = 0;
  double milliseconds = 0.0;
  line >> index >> milliseconds;
  double ghz = 0.0;
  if (index < subjects.size()) {
    const std::function<void()>& run = subjects[index].run;
    const double seconds = 1e-3 * milliseconds;
    const Seconds once = repeat_for(run, 0.25 * seconds);
    for (double t = 0.0; t < seconds; t += once.wall) run();  // no system call before the reading
    ghz = core_ghz();
  }
  std::printf("%.4f\n", ghz);
  std::fflush(stdout);
}

}  // namespace

int serve_peer(const std::string& name, int threads) {
  const std::unique_ptr<Peer> peer = make_peer(name);
  if (peer == nullptr) {
    std::cerr << "no peer '" << name << "' in this build\n";
    return 2;
  }
  core_ghz();  // finds its unit
  Opened open;
  for (std::string text; std::getline(std::cin, text);) {
    std::istringstream line(text);
    std::string command;
    line >> command;
    if (command == "open") {
      open = answer_open(line, threads, *peer);
    } else if (command == "run") {
      answer_run(line, open);
    } else if (command == "clock") {
      answer_clock(line, open.subjects);
    } else {
      break;
    }
  }
  return 0;
}

}  // namespace rrs_bench
