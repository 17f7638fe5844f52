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

const Unit kUnit{&linear, &prepare, &gemm};

}  // namespace

const Unit& RRS_UNIT() { return kUnit; }
