// The command line of bench_peers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "support/rounds.hpp"

namespace rrs_bench {

struct PeerOptions {
  std::string worker;  // not empty: serve as this peer
  std::string other;   // another build of this program to compare the kernels with
  int threads = 1;
  std::vector<int> decode_threads;  // one run each
  std::vector<std::int64_t> m;
  std::int64_t k = 0;
  std::int64_t n = 0;
  std::vector<std::string> peers;  // empty: all
  std::string methods;             // "*": all
  RoundOptions rounds;
  bool table = false, sweep = false, decode = false, scaling = false, transforms = false,
       clocks = false;
  std::int64_t sweep_rows = 64;
  std::int64_t dram_bytes = 0;
  std::int64_t cache_bytes = 0;
  std::string json;
  std::string svg;  // roofline
  std::string sweep_svg;
};

PeerOptions parse_peer_options(int argc, char** argv);

}  // namespace rrs_bench
