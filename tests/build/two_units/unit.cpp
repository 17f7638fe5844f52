// Compiled twice: RRS_UNIT is baseline_unit or native_unit.
#include "unit.hpp"

namespace {

rrs::MatrixView<const float> input(const float* x) { return {x, kRows, kInputs}; }
rrs::MatrixView<float> output(float* y) { return {y, kRows, kOutputs}; }

rrs::Status linear(const rrs::WeightView& w, const float* x, float* y, rrs::Workspace& ws) {
  return rrs::linear(input(x), w, output(y), ws);
}
rrs::Status prepare(const float* x, rrs::Workspace& ws, rrs::PreparedActivation& a) {
  return rrs::smooth_rotate_quantize(input(x), rrs::presets::rrs(), ws, a);
}
rrs::Status gemm(const rrs::PreparedActivation& a, const rrs::WeightView& w, float* y) {
  return rrs::gemm(a, w, output(y));
}

// The members of types that are more than a line: a copy of each belongs to this unit alone.
std::string describe(rrs::Isa isa) {
  const rrs::ForceIsa force(isa);
  alignas(64) std::byte memory[256];
  rrs::Workspace borrowed(memory, sizeof memory), owned(256);
  rrs::PreparedActivation a;
  const float x[kInputs] = {};
  const rrs::Status small = rrs::smooth_rotate_quantize(rrs::MatrixView<const float>(x, 1, kInputs),
                                                        rrs::presets::rrs(), borrowed, a);
  auto made = rrs::prepare_weight(rrs::MatrixView<const float>(x, 1, kInputs), rrs::presets::rrs());
  rrs::PreparedWeight weight;
  if (made) weight = std::move(*made);
  const rrs::Explanation e = rrs::explain(rrs::presets::rrs(), kRows, kOutputs, kInputs);
  return small.message() + " " + std::to_string(owned.bytes()) + " " + std::to_string(weight.n()) +
         "\n" + e.to_string();
}

const Unit kUnit{&linear, &prepare, &gemm, &describe};

}  // namespace

const Unit& RRS_UNIT() { return kUnit; }
