#include "layer_report/svg_panels.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace layer_report {
namespace {

constexpr const char* kLargestColour = "#b9d3ea";
constexpr const char* kMedianColour = "#1f5d99";
constexpr const char* kGridColour = "#e1e5ea";
constexpr const char* kMutedColour = "#6b7580";
constexpr double kPanelGap = 40.0;
constexpr double kLargestCode = 8.0;  // of 4 bits

// Decades [low, high] of a log10 axis.
struct LogAxis {
  int low = -1;
  int high = 1;

  double position(double value, const Box& box) const {
    const double log = value > 0.0 ? std::log10(value) : low;
    const double part = (std::min)((std::max)((log - low) / (high - low), 0.0), 1.0);
    return box.y + box.height * (1.0 - part);
  }
};

// Covers every maximum, and the medians of all but the quietest channels.
LogAxis make_axis(const LayerReport& layer) {
  double largest = kLargestCode, smallest = 0.1;
  for (const ChannelMagnitudes* c : {&layer.before, &layer.rotated, &layer.smoothed}) {
    for (const float v : c->largest) largest = (std::max)(largest, static_cast<double>(v));
    std::vector<float> medians = c->median;
    const auto low = medians.begin() + static_cast<std::ptrdiff_t>(medians.size() / 20);
    std::nth_element(medians.begin(), low, medians.end());
    if (*low > 0.0f) smallest = (std::min)(smallest, static_cast<double>(*low));
  }
  LogAxis axis;
  axis.high = static_cast<int>(std::ceil(std::log10(largest)));
  axis.low = (std::max)(static_cast<int>(std::floor(std::log10(smallest))), axis.high - 6);
  return axis;
}

std::string power_of_ten(int exponent) {
  char text[32];
  std::snprintf(text, sizeof text, exponent > 5 || exponent < -4 ? "%.0e" : "%.10g",
                std::pow(10.0, exponent));
  return text;
}

void draw_axis(const LogAxis& axis, const Box& box, Canvas* canvas) {
  const int step = axis.high - axis.low > 3 ? 2 : 1;
  for (int e = axis.low; e <= axis.high; ++e) {
    const double y = axis.position(std::pow(10.0, e), box);
    canvas->line(box.x, y, box.x + box.width, y, kGridColour);
    if ((axis.high - e) % step == 0) {
      canvas->text(box.x - 7, y + 4, power_of_ten(e), {11.0, "end", kMutedColour});
    }
  }
}

// Steps over at most one column per pixel; a column shows the largest of its channels.
std::vector<std::pair<double, double>> steps(const std::vector<float>& values, const LogAxis& axis,
                                             const Box& box) {
  const std::size_t channels = values.size();
  const std::size_t columns = (std::min)(channels, static_cast<std::size_t>(box.width));
  std::vector<std::pair<double, double>> points;
  for (std::size_t c = 0; c < columns; ++c) {
    const std::size_t first = c * channels / columns, last = (c + 1) * channels / columns;
    float value = 0.0f;
    for (std::size_t i = first; i < last; ++i) value = (std::max)(value, values[i]);
    const double y = axis.position(static_cast<double>(value), box);
    const double width = box.width / static_cast<double>(columns);
    points.emplace_back(box.x + width * static_cast<double>(c), y);
    points.emplace_back(box.x + width * static_cast<double>(c + 1), y);
  }
  return points;
}

void draw_panel(const ChannelMagnitudes& channels, const LogAxis& axis, const Box& box,
                const std::string& title, Canvas* canvas) {
  canvas->text(box.x, box.y - 8, title, {12.5, "start", "#24292f", true});
  draw_axis(axis, box, canvas);
  auto area = steps(channels.largest, axis, box);
  area.emplace_back(box.x + box.width, box.y + box.height);
  area.emplace_back(box.x, box.y + box.height);
  canvas->polygon(area, kLargestColour);
  canvas->polyline(steps(channels.median, axis, box), kMedianColour, 1.2);
  canvas->line(box.x, box.y + box.height, box.x + box.width, box.y + box.height, kMutedColour);
}

}  // namespace

void draw_panels(const LayerReport& layer, const Box& box, Canvas* canvas) {
  const LogAxis axis = make_axis(layer);
  const double height = (box.height - 2.0 * kPanelGap - 62.0) / 3.0;
  Box panel{box.x, box.y + 24.0, box.width, height};
  draw_panel(layer.before, axis, panel, "|x| of each channel, before rotation", canvas);
  panel.y += height + kPanelGap;
  draw_panel(layer.rotated, axis, panel, "after rotation in blocks of 32", canvas);
  panel.y += height + kPanelGap;
  draw_panel(layer.smoothed, axis, panel, "after smoothing, in steps of the 4-bit code", canvas);
  const double limit = axis.position(kLargestCode, panel);
  canvas->line(panel.x, limit, panel.x + panel.width, limit, "#c2410c", 1.2, "5 4");
  canvas->text(panel.x + panel.width, limit - 5, "8: largest code", {11.0, "end", "#c2410c"});

  const double x_labels = panel.y + height + 16.0;
  canvas->text(panel.x, x_labels, "channel 0", {11.0, "start", kMutedColour});
  canvas->text(panel.x + panel.width, x_labels, std::to_string(layer.k - 1),
               {11.0, "end", kMutedColour});
  const double key = x_labels + 21.0;
  canvas->rect(panel.x, key - 9, 16, 10, kLargestColour);
  canvas->text(panel.x + 22, key, "largest over all tokens", {11.5});
  canvas->line(panel.x + 200, key - 4, panel.x + 216, key - 4, kMedianColour, 2.0);
  canvas->text(panel.x + 222, key, "median over tokens", {11.5});
}

}  // namespace layer_report
