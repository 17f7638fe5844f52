// One layer, called from two translation units that are built with different -m flags.
#pragma once

#include <string>

#include "rrs/rrs.hpp"

struct Unit {
  rrs::Status (*linear)(const rrs::WeightView& w, const float* x, float* y, rrs::Workspace& ws);
  rrs::Status (*prepare)(const float* x, rrs::Workspace& ws, rrs::PreparedActivation& a);
  rrs::Status (*gemm)(const rrs::PreparedActivation& a, const rrs::WeightView& w, float* y);
  std::string (*describe)(rrs::Isa isa);
};

inline constexpr int kRows = 5, kOutputs = 32, kInputs = 64;

const Unit& baseline_unit();
const Unit& native_unit();
