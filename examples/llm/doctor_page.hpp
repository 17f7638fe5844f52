#pragma once
// The doctor's report as one HTML page: no network, no scripts, pictures as inline SVG.
//
// From: doctor.hpp; to: a file. Well-formed as XML, so that any parser can check it. Everything
// that comes from the model or the text is escaped (html.hpp).

#include <string>

#include "doctor.hpp"

namespace rrs_llm {

// `recipe_path`: where the recipe was written, for the commands on the page.
std::string doctor_page(const DoctorReport& report, const std::string& recipe_path);

// A surface in pseudo-3D: tokens go into the depth, channels to the right, |x| up.
std::string surface_svg(const Surface& surface, const std::string& title);
// One cell per layer and module, darker where `values` (log10 scale from low to high) are larger.
struct MapCell {
  std::string label;  // for people who point at it
  std::string link;   // "#id"
  double value = 0.0;
};
std::string map_svg(const std::vector<std::vector<MapCell>>& rows,
                    const std::vector<std::string>& names, double low, double high);

}  // namespace rrs_llm
