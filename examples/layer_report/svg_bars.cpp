#include "layer_report/svg_bars.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace layer_report {
namespace {

constexpr double kRow = 22.0;
constexpr double kBar = 14.0;
constexpr double kHeading = 28.0;
constexpr double kNames = 136.0;   // left of the bars
constexpr double kValues = 116.0;  // right of them: two columns
constexpr const char* kMuted = "#6b7580";

struct Family {
  const char* colour;
  const char* stripes;  // fill of simulated methods
  const char* stripes_id;
  const char* meaning;
};
constexpr Family kFamilies[] = {
    {"#a3abb5", "url(#stripes0)", "stripes0", "no rotation"},
    {"#5b8fc7", "url(#stripes1)", "stripes1", "QuaRot"},
    {"#e0953c", "url(#stripes2)", "stripes2", "RRS as published"},
    {"#2a9d7f", "url(#stripes3)", "stripes3", "rrs, this library"},
};

const Family& family_of(const std::string& name) {
  if (name.rfind("quarot", 0) == 0) return kFamilies[1];
  if (name == "rrs_published") return kFamilies[2];
  if (name.rfind("rrs", 0) == 0) return kFamilies[3];
  return kFamilies[0];
}

bool is_w4a4(const Record& r) {
  return r.method.scheme.activation.bits <= 4 && r.method.scheme.weight.bits <= 4;
}

// Presets of one precision, best first; undefined errors last.
std::vector<const Record*> section(const LayerReport& layer, bool w4a4) {
  std::vector<const Record*> rows;
  for (const Record& r : layer.records) {
    if (!r.method.grid && is_w4a4(r) == w4a4) rows.push_back(&r);
  }
  const auto key = [](const Record* r) {
    return std::isfinite(r->errors.median) ? r->errors.median : 1e300;
  };
  std::stable_sort(rows.begin(), rows.end(),
                   [&](const Record* a, const Record* b) { return key(a) < key(b); });
  return rows;
}

std::string percent(double value) {
  if (!std::isfinite(value)) return "-";
  char text[32];
  const double p = 100.0 * value;
  std::snprintf(text, sizeof text, p < 100.0 ? "%.1f%%" : (p < 1e5 ? "%.0f%%" : "%.0e%%"), p);
  return text;
}

// Linear from 0; beyond `full` a bar is cut and says so with its value.
struct Scale {
  double full = 1.0;
  double step = 0.1;
  Box bars;

  double x(double value) const { return bars.x + bars.width * (std::min)(value / full, 1.0); }
};

// At most 100 %: worse than that is just broken.
Scale make_scale(const LayerReport& layer, const Box& box) {
  double largest = 0.05;
  for (const Record& r : layer.records) {
    if (r.method.grid) continue;
    if (std::isfinite(r.errors.median)) largest = (std::max)(largest, r.errors.median);
  }
  largest = (std::min)(largest, 1.0);
  Scale scale;
  for (const double step : {0.01, 0.02, 0.05, 0.1, 0.2, 0.25}) {
    scale.step = step;
    scale.full = std::ceil(largest / step - 1e-9) * step;
    if (scale.full / step <= 6.001) break;
  }
  scale.bars = Box{box.x + kNames, box.y, box.width - kNames - kValues, box.height};
  return scale;
}

void draw_row(const Record& r, const Scale& scale, double y, const Box& box, Canvas* canvas) {
  const Family& family = family_of(r.method.name);
  const bool simulated = r.method.scheme.simulated;
  const bool is_default = r.method.name == "rrs";
  const double baseline = y + kBar - 2.5;
  canvas->text(scale.bars.x - 8, baseline, r.method.name + (simulated ? " *" : ""),
               {12.0, "end", "#24292f", is_default});
  if (std::isfinite(r.errors.median)) {
    const double end = scale.x(r.errors.median);
    canvas->rect(scale.bars.x, y, end - scale.bars.x, kBar,
                 simulated ? family.stripes : family.colour, 2.0);
    if (r.errors.median > scale.full) {  // cut: two white slashes
      canvas->line(end - 14, y + kBar + 1, end - 9, y - 1, "#ffffff", 2.0);
      canvas->line(end - 9, y + kBar + 1, end - 4, y - 1, "#ffffff", 2.0);
    }
  }
  const double right = box.x + box.width;
  canvas->text(right - 58, baseline, percent(r.errors.median),
               {12.0, "end", "#24292f", is_default});
  canvas->text(right, baseline, percent(r.errors.victims), {12.0, "end", kMuted, is_default});
}

double draw_section(const LayerReport& layer, bool w4a4, const char* title, const Scale& scale,
                    double y, const Box& box, Canvas* canvas) {
  canvas->text(box.x, y + 14, title, {12.5, "start", "#24292f", true});
  canvas->text(box.x + box.width - 58, y + 14, "median", {11.5, "end", "#24292f"});
  canvas->text(box.x + box.width, y + 14, "victims", {11.5, "end", kMuted});
  y += kHeading;
  for (const Record* r : section(layer, w4a4)) {
    draw_row(*r, scale, y, box, canvas);
    y += kRow;
  }
  return y;
}

}  // namespace

double bars_height(const LayerReport& layer) {
  const std::size_t rows = section(layer, true).size() + section(layer, false).size();
  return 2.0 * kHeading + kRow * static_cast<double>(rows) + 12.0 + 36.0;
}

void draw_bars(const LayerReport& layer, const Box& box, Canvas* canvas) {
  const Scale scale = make_scale(layer, box);
  const double bottom = box.y + bars_height(layer) - 36.0;
  for (int i = 0; i * scale.step <= scale.full * 1.0001; ++i) {
    const double value = i * scale.step;
    canvas->line(scale.x(value), box.y + kHeading - 6, scale.x(value), bottom, "#e1e5ea");
    char label[16];
    std::snprintf(label, sizeof label, "%.0f%%", 100.0 * value);
    canvas->text(scale.x(value), bottom + 15, label, {11.0, "middle", kMuted});
  }
  canvas->text(scale.bars.x + scale.bars.width / 2, bottom + 31,
               "error relative to the float64 product", {11.5, "middle", kMuted});
  double y =
      draw_section(layer, true, "4-bit weights, 4-bit activations", scale, box.y, box, canvas);
  draw_section(layer, false, "more bits", scale, y + 12.0, box, canvas);
}

void draw_bar_legend(double x, double y, Canvas* canvas) {
  for (const Family& family : kFamilies) canvas->stripes(family.stripes_id, family.colour);
  for (const Family& family : kFamilies) {
    canvas->rect(x, y - 10, 14, 12, family.colour, 2.0);
    canvas->text(x + 20, y, family.meaning, {12.0});
    x += 42.0 + 6.7 * static_cast<double>(std::strlen(family.meaning));
  }
  canvas->rect(x, y - 10, 14, 12, kFamilies[0].stripes, 2.0);
  canvas->text(x + 20, y, "* simulated in float", {12.0});
  x += 178.0;
  canvas->text(x, y, "bars and median: the median token; victims: all tokens but the spike",
               {12.0, "start", kMuted});
}

}  // namespace layer_report
