// Two units with different -m flags in one program: the same bits at every level, ForceIsa reaches
// both, and prepared activations pass between them.
//
//   two_units             both units
//   two_units baseline    only the unit without flags: must run on a CPU without the other's
//   two_units native      only the other one: must not, or the line above would show nothing
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "unit.hpp"

namespace {

struct Layer {
  std::vector<float> x, w;
  rrs::PreparedWeight weight;
};

bool make_layer(Layer* l) {
  l->x.resize(kRows * kInputs);
  l->w.resize(kOutputs * kInputs);
  for (std::size_t i = 0; i < l->x.size(); ++i) l->x[i] = static_cast<float>(i * 37 % 101) - 50.0f;
  for (std::size_t i = 0; i < l->w.size(); ++i) l->w[i] = static_cast<float>(i * 53 % 97) - 48.0f;
  auto made = rrs::prepare_weight(rrs::MatrixView<const float>(l->w.data(), kOutputs, kInputs),
                                  rrs::presets::rrs());
  if (made) l->weight = std::move(*made);
  return made.ok();
}

rrs::Workspace make_workspace() {
  return rrs::Workspace(rrs::workspace_bytes(kRows, kInputs, rrs::presets::rrs()));
}

// At each level that this CPU has: run(isa) -> bool. Returns their number, or -1.
template <class Run>
int at_each_level(const Run& run) {
  int levels = 0;
  for (int i = 0; i < rrs::kIsaCount; ++i) {
    const auto isa = static_cast<rrs::Isa>(i);
    if (!rrs::isa_supported(isa)) continue;
    const rrs::ForceIsa force(isa);
    if (!run(isa)) return std::printf("failed at %s\n", rrs::kIsaNames[i]), -1;
    ++levels;
  }
  return levels;
}

int run_both(const Layer& l) {
  std::vector<float> y1(kRows * kOutputs), y2(y1.size()), y3(y1.size());
  const std::size_t bytes = y1.size() * sizeof(float);
  rrs::Workspace ws = make_workspace();
  return at_each_level([&](rrs::Isa isa) {
    rrs::PreparedActivation a;
    return baseline_unit().linear(l.weight, l.x.data(), y1.data(), ws).ok() &&
           native_unit().linear(l.weight, l.x.data(), y2.data(), ws).ok() &&
           native_unit().prepare(l.x.data(), ws, a).ok() && a.table->isa == isa &&
           baseline_unit().gemm(a, l.weight, y3.data()).ok() &&
           baseline_unit().describe(isa) == native_unit().describe(isa) &&
           std::memcmp(y1.data(), y2.data(), bytes) == 0 &&
           std::memcmp(y1.data(), y3.data(), bytes) == 0;
  });
}

int run_one(const Layer& l, const Unit& unit) {
  std::vector<float> y1(kRows * kOutputs), y2(y1.size());
  rrs::Workspace ws = make_workspace();
  return at_each_level([&](rrs::Isa isa) {
    rrs::PreparedActivation a;
    return unit.linear(l.weight, l.x.data(), y1.data(), ws).ok() &&
           unit.prepare(l.x.data(), ws, a).ok() && a.table->isa == isa &&
           unit.gemm(a, l.weight, y2.data()).ok() && y1 == y2 && !unit.describe(isa).empty();
  });
}

}  // namespace

int main(int argc, char** argv) {
  const std::string which = argc > 1 ? argv[1] : "both";
  Layer l;
  if (!make_layer(&l)) return std::puts("prepare_weight failed"), 1;
  const int levels = which == "both"       ? run_both(l)
                     : which == "baseline" ? run_one(l, baseline_unit())
                                           : run_one(l, native_unit());
  std::printf("two units, %s: %d levels\n", which.c_str(), levels);
  return levels > 0 ? 0 : 1;
}
