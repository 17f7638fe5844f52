// Tables on the terminal and records for JSON.
#pragma once

#include <string>
#include <vector>

#include "bench_peers/results.hpp"
#include "support/json_file.hpp"

namespace rrs_bench {

// One row per subject, with ratios against OpenBLAS (its faster kernel), oneDNN's and ggml's best
// 4-bit product at the same level.
void report_case(const Case& c, const std::vector<Measured>& all, JsonRecords* records);

// What the project asks for, measured: name, level, value, the bound, met or not.
struct Target {
  std::string what;
  std::string level;
  Summary value;
  double bound = 0.0;
  bool at_most = false;  // else at least
};
void report_targets(const std::vector<Target>& targets, JsonRecords* records);

// The targets that one case (M = 512) decides.
std::vector<Target> layer_targets(const std::vector<Measured>& all);

}  // namespace rrs_bench
