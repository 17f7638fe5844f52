#include "layer_report/methods.hpp"

#include "rrs/core/presets.hpp"

namespace layer_report {
namespace {

constexpr rrs::Window kWindows[] = {
    {rrs::WindowKind::kWhole, 0}, {rrs::WindowKind::kRows, 16}, {rrs::WindowKind::kOne, 0}};
constexpr int kGroups[] = {32, 64, 128, rrs::kRowGroup};
constexpr int kBits[] = {4, 8, rrs::kActivationFloat};

bool same_activation(const rrs::ActivationScheme& a, const rrs::ActivationScheme& b) {
  return a.bits == b.bits && a.group == b.group && a.window.kind == b.window.kind &&
         a.window.rows == b.window.rows;
}

}  // namespace

std::vector<Method> all_methods() {
  std::vector<Method> methods;
  rrs::presets::for_each([&](const rrs::NamedPreset& preset) {
    methods.push_back(Method{preset.name, preset.scheme, false});
  });
  const rrs::Scheme base = rrs::presets::rrs();
  for (const int bits : kBits) {
    for (const rrs::Window& window : kWindows) {
      for (const int group : kGroups) {
        rrs::Scheme scheme = base;
        scheme.activation.bits = bits;
        scheme.activation.window = window;
        scheme.activation.group = group;
        if (same_activation(scheme.activation, base.activation)) continue;
        methods.push_back(Method{"rrs", scheme, true});
      }
    }
  }
  return methods;
}

std::string window_text(const rrs::Window& window) {
  switch (window.kind) {
    case rrs::WindowKind::kWhole: return "whole";
    case rrs::WindowKind::kRows: return "rows(" + std::to_string(window.rows) + ")";
    case rrs::WindowKind::kOne: return "one";
    case rrs::WindowKind::kFrozen: return "frozen";
  }
  return "unknown";
}

std::string group_text(int group) {
  return group == rrs::kRowGroup ? "row" : std::to_string(group);
}

}  // namespace layer_report
