#include "layer_report/canvas.hpp"

#include <cstdio>

namespace layer_report {
namespace {

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else
      out += c;
  }
  return out;
}

// One decimal is a tenth of a pixel: enough, and keeps the file small.
std::string px(double value) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.1f", value);
  return buffer;
}

std::string attribute(const char* name, const std::string& value) {
  return std::string(" ") + name + "=\"" + value + "\"";
}

}  // namespace

Canvas::Canvas(double width, double height) {
  out_ = "<svg xmlns=\"http://www.w3.org/2000/svg\"" + attribute("width", px(width)) +
         attribute("height", px(height)) +
         attribute("viewBox", "0 0 " + px(width) + " " + px(height)) +
         " font-family=\"DejaVu Sans, Verdana, Helvetica, Arial, sans-serif\">\n";
  rect(0, 0, width, height, "#ffffff");
}

void Canvas::text(double x, double y, const std::string& content, const TextStyle& style) {
  out_ += "<text" + attribute("x", px(x)) + attribute("y", px(y)) +
          attribute("font-size", px(style.size)) + attribute("text-anchor", style.anchor) +
          attribute("fill", style.colour) + (style.bold ? attribute("font-weight", "bold") : "") +
          ">" + escaped(content) + "</text>\n";
}

void Canvas::rect(double x, double y, double width, double height, const std::string& fill,
                  double radius) {
  out_ += "<rect" + attribute("x", px(x)) + attribute("y", px(y)) + attribute("width", px(width)) +
          attribute("height", px(height)) + attribute("fill", fill) +
          (radius > 0.0 ? attribute("rx", px(radius)) : "") + "/>\n";
}

void Canvas::line(double x1, double y1, double x2, double y2, const char* colour, double width,
                  const char* dashes) {
  out_ += "<line" + attribute("x1", px(x1)) + attribute("y1", px(y1)) + attribute("x2", px(x2)) +
          attribute("y2", px(y2)) + attribute("stroke", colour) +
          attribute("stroke-width", px(width)) +
          (dashes != nullptr ? attribute("stroke-dasharray", dashes) : "") + "/>\n";
}

void Canvas::points(const std::vector<std::pair<double, double>>& points) {
  out_ += " points=\"";
  for (const auto& [x, y] : points) out_ += px(x) + "," + px(y) + " ";
  out_ += "\"";
}

void Canvas::polygon(const std::vector<std::pair<double, double>>& corners, const char* fill) {
  out_ += "<polygon" + attribute("fill", fill);
  points(corners);
  out_ += "/>\n";
}

void Canvas::polyline(const std::vector<std::pair<double, double>>& corners, const char* colour,
                      double width) {
  out_ += "<polyline fill=\"none\" stroke-linejoin=\"round\"" + attribute("stroke", colour) +
          attribute("stroke-width", px(width));
  points(corners);
  out_ += "/>\n";
}

void Canvas::stripes(const char* id, const char* colour) {
  out_ += "<defs><pattern" + attribute("id", id) +
          " width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\""
          " patternTransform=\"rotate(45)\"><rect width=\"5\" height=\"5\" fill=\"#ffffff\"/>"
          "<rect width=\"2.5\" height=\"5\"" +
          attribute("fill", colour) + "/></pattern></defs>\n";
}

}  // namespace layer_report
