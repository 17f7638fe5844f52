#include "bench_peers/chart.hpp"

#include <cmath>
#include <cstdio>
#include <fstream>
#include <utility>

#include "support/checked.hpp"
#include "support/table.hpp"

namespace rrs_bench {
namespace {

constexpr double kWidth = 1180, kHeight = 720;
constexpr double kLeft = 80, kRight = 300, kTop = 50, kBottom = 60;
constexpr double kLegendStep = 19;

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '&') {
      out += "&amp;";
    } else {
      out += c;
    }
  }
  return out;
}

std::string text_at(double x, double y, const std::string& text, const std::string& ink,
                    const char* anchor = "start", int size = 13) {
  return "<text x='" + number(x, 1) + "' y='" + number(y, 1) + "' font-size='" +
         std::to_string(size) + "' text-anchor='" + anchor + "' fill='" + ink + "'>" +
         escaped(text) + "</text>\n";
}

std::string line_between(double x1, double y1, double x2, double y2, const std::string& ink) {
  return "<line x1='" + number(x1, 1) + "' y1='" + number(y1, 1) + "' x2='" + number(x2, 1) +
         "' y2='" + number(y2, 1) + "' stroke='" + ink + "'/>\n";
}

std::string mark_at(double x, double y, Mark mark, const std::string& ink,
                    const std::string& tooltip) {
  constexpr double kSize = 5.5;
  const auto corner = [&](double dx, double dy) {
    return number(x + dx * kSize, 1) + "," + number(y + dy * kSize, 1) + " ";
  };
  std::string shape;
  switch (mark) {
    case Mark::kCircle:
      return "<circle r='" + number(kSize, 1) + "' fill-opacity='0.85' fill='" + ink + "' cx='" +
             number(x, 1) + "' cy='" + number(y, 1) + "'><title>" + escaped(tooltip) +
             "</title></circle>\n";
    case Mark::kSquare:
      shape = corner(-0.9, -0.9) + corner(0.9, -0.9) + corner(0.9, 0.9) + corner(-0.9, 0.9);
      break;
    case Mark::kDiamond:
      shape = corner(0, -1.3) + corner(1.3, 0) + corner(0, 1.3) + corner(-1.3, 0);
      break;
    case Mark::kWedge: shape = corner(0, 1.2) + corner(1.2, -1) + corner(-1.2, -1); break;
    case Mark::kTriangle: shape = corner(0, -1.2) + corner(1.2, 1) + corner(-1.2, 1); break;
  }
  return "<polygon fill-opacity='0.85' fill='" + ink + "' points='" + shape + "'><title>" +
         escaped(tooltip) + "</title></polygon>\n";
}

// 1, 2 or 5 times a power of ten, so that about eight ticks fit.
double tick_step(double range) {
  const double power = std::pow(10.0, std::floor(std::log10(range / 8)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (range / (power * factor) <= 10) return power * factor;
  }
  return power * 10;
}

std::vector<double> ticks(const Axis& axis) {
  std::vector<double> all;
  if (axis.logarithmic) {
    for (double t = std::pow(2.0, std::ceil(std::log2(axis.low))); t <= axis.high; t *= 2) {
      all.push_back(t);
    }
    return all;
  }
  const double step = tick_step(axis.high - axis.low);
  for (double t = std::ceil(axis.low / step) * step; t <= axis.high; t += step) all.push_back(t);
  return all;
}

double share(const Axis& axis, double value) {
  if (!axis.logarithmic) return (value - axis.low) / (axis.high - axis.low);
  return std::log(value / axis.low) / std::log(axis.high / axis.low);
}

std::string tick_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

}  // namespace

Chart::Chart(std::string title, Axis x, Axis y) : x_(std::move(x)), y_(std::move(y)) {
  body_ += text_at(kLeft, kTop - 20, title, "#111", "start", 17);
  draw_axes();
}

double Chart::place_x(double x) const { return kLeft + share(x_, x) * (kWidth - kLeft - kRight); }
double Chart::place_y(double y) const {
  return kHeight - kBottom - share(y_, y) * (kHeight - kTop - kBottom);
}

void Chart::draw_axes() {
  for (const double t : ticks(x_)) {
    body_ += line_between(place_x(t), kTop, place_x(t), kHeight - kBottom, "#e6e6e6");
    body_ += text_at(place_x(t), kHeight - kBottom + 18, tick_text(t), "#444", "middle", 12);
  }
  for (const double t : ticks(y_)) {
    body_ += line_between(kLeft, place_y(t), kWidth - kRight, place_y(t), "#e6e6e6");
    body_ += text_at(kLeft - 8, place_y(t) + 4, tick_text(t), "#444", "end", 12);
  }
  body_ += line_between(kLeft, kHeight - kBottom, kWidth - kRight, kHeight - kBottom, "#444");
  body_ += line_between(kLeft, kTop, kLeft, kHeight - kBottom, "#444");
  body_ += text_at((kLeft + kWidth - kRight) / 2, kHeight - 14, x_.title, "#111", "middle");
  body_ += "<g transform='rotate(-90 22 " + number(kHeight / 2, 0) + ")'>" +
           text_at(22, kHeight / 2, y_.title, "#111", "middle") + "</g>\n";
}

void Chart::line(const std::vector<Point>& points, const std::string& ink, bool dashed) {
  body_ += "<polyline fill='none' stroke-width='2' stroke='" + ink + "'";
  if (dashed) body_ += " stroke-dasharray='6 4'";
  body_ += " points='";
  for (const Point& p : points) {
    body_ += number(place_x(p.x), 1) + "," + number(place_y(p.y), 1) + " ";
  }
  body_ += "'/>\n";
}

void Chart::point(Point at, Mark mark, const std::string& ink, const std::string& tooltip) {
  body_ += mark_at(place_x(at.x), place_y(at.y), mark, ink, tooltip);
}

void Chart::label(Point at, const std::string& text, const std::string& ink, bool below) {
  body_ += text_at(place_x(at.x) + 6, place_y(at.y) + (below ? 15 : -6), text, ink, "start", 12);
}

void Chart::legend(const std::string& text, Mark mark, const std::string& ink) {
  const double x = kWidth - kRight + 24, y = kTop + 12 + kLegendStep * legend_lines_++;
  body_ += mark_at(x, y - 4, mark, ink, text) + text_at(x + 13, y, text, "#111");
}

void Chart::write(const std::string& path) const {
  std::ofstream file(path);
  file << "<svg xmlns='http://www.w3.org/2000/svg' width='" << kWidth << "' height='" << kHeight
       << "' font-family='sans-serif'>\n<rect width='100%' height='100%' fill='white'/>\n"
       << body_ << "</svg>\n";
  file.flush();
  if (!file) stop("cannot write " + path);
}

std::string colour(int n) {
  static const char* const kColours[kColourCount] = {
      "#1b6ca8", "#d1495b", "#2e933c", "#b36a00", "#7a4fa3", "#008a8a", "#8c564b", "#555555",
      "#c2185b", "#9a9a00", "#00b3d4", "#ff7f50", "#7fb800", "#1a237e", "#e08ae0", "#a0522d"};
  return kColours[n % kColourCount];
}

}  // namespace rrs_bench
