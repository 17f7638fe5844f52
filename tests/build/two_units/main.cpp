// Two units with different -m flags in one program: the same bits at every level, ForceIsa reaches
// both, and prepared activations pass between them.
#include <cstdio>
#include <cstring>
#include <vector>

#include "unit.hpp"

int main() {
  std::vector<float> x(kRows * kInputs), w(kOutputs * kInputs);
  std::vector<float> y1(kRows * kOutputs), y2(y1.size()), y3(y1.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 101) - 50.0f;
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i * 53 % 97) - 48.0f;
  const auto weight = rrs::prepare_weight(rrs::MatrixView<const float>(w.data(), kOutputs, kInputs),
                                          rrs::presets::rrs());
  if (!weight) return std::puts("prepare_weight failed"), 1;
  rrs::Workspace ws(rrs::workspace_bytes(kRows, kInputs, rrs::presets::rrs()));
  const std::size_t bytes = y1.size() * sizeof(float);
  int levels = 0;
  for (int i = 0; i < rrs::kIsaCount; ++i) {
    const auto isa = static_cast<rrs::Isa>(i);
    if (!rrs::isa_supported(isa)) continue;
    const rrs::ForceIsa force(isa);
    rrs::PreparedActivation a;
    const bool ok = baseline_unit().linear(*weight, x.data(), y1.data(), ws).ok() &&
                    native_unit().linear(*weight, x.data(), y2.data(), ws).ok() &&
                    native_unit().prepare(x.data(), ws, a).ok() && a.table->isa == isa &&
                    baseline_unit().gemm(a, *weight, y3.data()).ok();
    if (!ok || std::memcmp(y1.data(), y2.data(), bytes) != 0 ||
        std::memcmp(y1.data(), y3.data(), bytes) != 0) {
      return std::printf("units differ at %s\n", rrs::kIsaNames[i]), 1;
    }
    ++levels;
  }
  std::printf("two units agree at %d levels\n", levels);
  return levels > 0 ? 0 : 1;
}
