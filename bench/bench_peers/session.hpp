// The coordinator's side of a worker process.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "support/clock.hpp"

namespace rrs_bench {

// A peer in an environment, e.g. onednn with ONEDNN_MAX_CPU_ISA=AVX2.
struct PeerSpec {
  std::string label;  // shown in tables
  std::string peer;
  std::vector<std::pair<std::string, std::string>> environment;
  std::string program = {};    // another build of bench_peers; empty: this one
  std::int64_t most_rows = 0;  // it has no subjects of more rows; 0: no limit
  bool may_die = false;        // then its subjects are left out; others stop the benchmark
};

struct SubjectInfo {
  std::string label;  // of the peer
  std::string method;
  std::string level;
  std::string part;
  std::string kernel;
  double weight_bytes = 0.0;
};

class Session {
 public:
  Session(const PeerSpec& spec, int threads);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // methods: comma-separated, or "*".
  std::vector<SubjectInfo> open(std::int64_t m, std::int64_t k, std::int64_t n,
                                std::int64_t footprint, const std::string& methods);
  Seconds run(std::size_t index, double milliseconds);
  // GHz of its core right after calls of that length.
  double clock(std::size_t index, double milliseconds);
  // A worker that may die has died: nothing that it answered counts.
  bool dead() const { return dead_; }

 private:
  std::string read_line();

  PeerSpec spec_;
  pid_t process_ = -1;
  std::FILE* to_ = nullptr;
  std::FILE* from_ = nullptr;
  bool dead_ = false;
};

}  // namespace rrs_bench
