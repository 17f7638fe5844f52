#include "bench_peers/worker.hpp"

#include <cstddef>
#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <sstream>
#include <vector>

#include "bench_peers/clock_rate.hpp"
#include "bench_peers/peer.hpp"
#include "support/flags.hpp"
#include "support/rounds.hpp"

namespace rrs_bench {
namespace {

std::vector<Subject> answer_open(std::istringstream& line, int threads, Peer& peer) {
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
  return subjects;
}

void answer_run(std::istringstream& line, const std::vector<Subject>& subjects) {
  std::size_t index = 0;
  double milliseconds = 0.0;
  line >> index >> milliseconds;
  Seconds s;
  if (index < subjects.size()) s = measure_once(subjects[index].run, 1e-3 * milliseconds);
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
  std::vector<Subject> subjects;
  for (std::string text; std::getline(std::cin, text);) {
    std::istringstream line(text);
    std::string command;
    line >> command;
    if (command == "open") {
      subjects = answer_open(line, threads, *peer);
    } else if (command == "run") {
      answer_run(line, subjects);
    } else if (command == "clock") {
      answer_clock(line, subjects);
    } else {
      break;
    }
  }
  return 0;
}

}  // namespace rrs_bench
