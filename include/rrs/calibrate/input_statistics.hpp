// InputStatistics: what calibration keeps of one linear's input, as plain data.
//
// from: update_statistics (statistics.hpp, which has the formulas and needs Eigen; this header does
// not).  to: smoothquant, zigzag, gptq, aser, spikes, and whoever stores them.
#pragma once

#include <cstdint>
#include <vector>

#include "rrs/core/config.hpp"

RRS_TYPES_BEGIN

struct InputStatistics {
  std::int64_t tokens = 0;
  std::vector<float> maxima;                  // [K]
  std::vector<double> sums;                   // [K]
  std::vector<double> relative;               // [K]
  std::vector<float> token_maxima;            // [tokens]
  std::vector<std::int64_t> sequence_starts;  // the token at which each call's rows start
  std::vector<double> hessian;                // [K][K], symmetric, or empty
};

RRS_TYPES_END
