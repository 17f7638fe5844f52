#include "layer_report/svg.hpp"

#include <algorithm>
#include <cstdio>

#include "layer_report/svg_bars.hpp"
#include "layer_report/svg_panels.hpp"
#include "layer_report/table.hpp"

namespace layer_report {
namespace {

constexpr double kWidth = 1200.0;
constexpr double kMargin = 28.0;
constexpr double kTop = 92.0;
constexpr double kLayerTitle = 62.0;
constexpr double kLayerGap = 26.0;
constexpr double kPanelsX = kMargin + 48.0;
constexpr double kPanelsWidth = 470.0;
constexpr double kBarsX = kPanelsX + kPanelsWidth + 44.0;

std::string layer_facts(const LayerReport& layer) {
  char text[256];
  std::snprintf(
      text, sizeof text,
      "%lld inputs, %lld outputs, %lld tokens; spike: token %lld, max|x| %s, %s times the "
      "median token",
      static_cast<long long>(layer.k), static_cast<long long>(layer.n),
      static_cast<long long>(layer.m), static_cast<long long>(layer.spike),
      short_number(layer.spike_max).c_str(),
      short_number(layer.spike_max / layer.median_max).c_str());
  return text;
}

}  // namespace

std::string svg_text(const Report& report) {
  double height = kTop;
  for (const LayerReport& layer : report.layers) {
    height += kLayerTitle + bars_height(layer) + kLayerGap;
  }
  Canvas canvas(kWidth, height);
  canvas.text(kMargin, 36, "Quantized linear layers: what happens to the channels, and the error",
              {19.0, "start", "#24292f", true});
  draw_bar_legend(kMargin, 66, &canvas);
  double y = kTop;
  for (const LayerReport& layer : report.layers) {
    canvas.line(kMargin, y, kWidth - kMargin, y, "#c5ccd4");
    canvas.text(kMargin, y + 28, layer.name, {16.0, "start", "#24292f", true});
    canvas.text(kMargin, y + 47, layer_facts(layer), {12.0, "start", "#57606a"});
    const double body = bars_height(layer);
    draw_panels(layer, Box{kPanelsX, y + kLayerTitle, kPanelsWidth, body}, &canvas);
    draw_bars(layer, Box{kBarsX, y + kLayerTitle, kWidth - kMargin - kBarsX, body}, &canvas);
    y += kLayerTitle + body + kLayerGap;
  }
  return canvas.finish();
}

}  // namespace layer_report
