// What is run on every layer: the presets, and the grid of windows x groups x bits around `rrs`.
#pragma once

#include <string>
#include <vector>

#include "rrs/core/scheme.hpp"

namespace layer_report {

struct Method {
  std::string name;
  rrs::Scheme scheme;
  bool grid = false;  // one of the variants of `rrs`, not a preset
};

// Presets in the order of the methods' table, then the grid. The cell of the grid that is `rrs`
// itself appears once, as the preset: 36 methods are called `rrs`.
std::vector<Method> all_methods();

std::string window_text(const rrs::Window& window);  // whole, rows(16), one, frozen
std::string group_text(int group);                   // "32", "row"

}  // namespace layer_report
