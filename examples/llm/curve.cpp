#include "curve.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

#include <nlohmann/json.hpp>

namespace rrs_llm {
namespace {

// One printf as a string.
template <class... T>
std::string text(const char* format, T... values) {
  char line[512];
  std::snprintf(line, sizeof line, format, values...);
  return line;
}

std::string escaped(const std::string& raw) {
  std::string out;
  for (const char c : raw) {
    out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : std::string(1, c);
  }
  return out;
}

[[noreturn]] void fail(const std::string& source, std::size_t index, const std::string& problem) {
  throw std::runtime_error(source + ": record " + std::to_string(index) + ": " + problem);
}

double number(const nlohmann::json& record, const char* key, const std::string& source,
              std::size_t index) {
  const auto at = record.find(key);
  if (at == record.end() || !at->is_number() || !std::isfinite(at->get<double>())) {
    fail(source, index, std::string("'") + key + "' is not a finite number");
  }
  return at->get<double>();
}

// "w4a8": 8; "fp": 16.
int activation_bits(const std::string& precision) {
  const std::size_t a = precision.find('a');
  return a == std::string::npos ? 16 : std::atoi(precision.c_str() + a + 1);
}

CurvePoint read_point(const nlohmann::json& record, const std::string& source, std::size_t index) {
  CurvePoint p;
  if (!record.is_object() || !record.contains("method") || !record["method"].is_string()) {
    fail(source, index, "has no 'method': not a record of `perplexity --json`");
  }
  p.method = record["method"].get<std::string>();
  p.bits = number(record, "bits_per_weight", source, index);
  p.perplexity = number(record, "perplexity", source, index);
  if (!(p.bits > 0.0 && p.perplexity > 0.0)) fail(source, index, "numbers must be above 0");
  p.windows = static_cast<std::size_t>(number(record, "windows", source, index));
  p.context = static_cast<std::size_t>(number(record, "context", source, index));
  p.kv_bits = static_cast<int>(number(record, "kv_bits", source, index));
  p.kv_value_bits = record.value("kv_value_bits", p.kv_bits);
  p.simulated = record.value("simulated", false);
  p.is_float = p.method == "fp" || p.method.rfind("fp+", 0) == 0;
  if (const auto linears = record.find("linears"); linears != record.end() && linears->is_array()) {
    int widest = 0;
    bool all_float = true;
    for (const nlohmann::json& l : *linears) {
      const std::string precision = l.value("precision", std::string("fp"));
      widest = (std::max)(widest, activation_bits(precision));
      all_float = all_float && precision == "fp";
    }
    if (widest > 0) p.activation_bits = widest;
    if (widest > 0 && all_float) p.is_float = true;
  }
  return p;
}

const char* colour_of(const CurvePoint& p) {
  if (p.activation_bits <= 4) return "#0969da";
  return p.activation_bits <= 8 ? "#bf8700" : "#57606a";
}

// The picture's frame: bits to x linearly, perplexity to y by its logarithm.
struct Frame {
  static constexpr double kLeft = 70.0, kTop = 60.0, kWidth = 620.0, kHeight = 470.0;
  double bits_low, bits_high, low, high;

  double x(double bits) const {
    return kLeft + kWidth * (bits - bits_low) / (bits_high - bits_low);
  }
  double y(double perplexity) const {
    const double shown = (std::min)((std::max)(perplexity, low), high);
    return kTop + kHeight * (std::log(high) - std::log(shown)) / (std::log(high) - std::log(low));
  }
};

Frame frame_of(const std::vector<CurvePoint>& curve) {
  Frame f{1e300, 0.0, 1e300, 0.0};
  for (const CurvePoint& p : curve) {
    f.low = (std::min)(f.low, p.perplexity);
    if (p.is_float) continue;
    f.bits_low = (std::min)(f.bits_low, p.bits);
    f.bits_high = (std::max)(f.bits_high, p.bits);
    f.high = (std::max)(f.high, p.perplexity);
  }
  f.low *= 0.98;
  f.high =
      (std::max)((std::min)(f.high * 1.03, 4.0 * f.low), 1.1 * f.low);  // worse ones: at the top
  const double margin = 0.05 * (std::max)(f.bits_high - f.bits_low, 0.5);
  f.bits_low -= margin;
  f.bits_high += margin;
  return f;
}

std::string label(double x, double y, const char* anchor, double size, const std::string& content,
                  const char* style = "fill=\"#24292f\"") {
  return text("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" font-size=\"%.0f\" %s>", x, y, anchor,
              size, style) +
         escaped(content) + "</text>\n";
}

std::string axes(const Frame& f) {
  std::string out;
  const double bottom = Frame::kTop + Frame::kHeight, right = Frame::kLeft + Frame::kWidth;
  const double step = f.bits_high - f.bits_low > 6.0 ? 1.0 : 0.5;
  for (double b = std::ceil(f.bits_low / step) * step; b <= f.bits_high; b += step) {
    out += text("<path d=\"M%.1f %.1fV%.1f\" stroke=\"#eaeef2\"/>\n", f.x(b), Frame::kTop, bottom);
    out += label(f.x(b), bottom + 18, "middle", 12, text("%.1f", b));
  }
  const double first = std::floor(std::log(f.low) / std::log(1.1));
  for (double i = first; std::pow(1.1, i) <= f.high; i += 1.0) {
    const double p = std::pow(1.1, i);
    if (p < f.low) continue;
    out += text("<path d=\"M%.1f %.1fH%.1f\" stroke=\"#eaeef2\"/>\n", Frame::kLeft, f.y(p), right);
    out += label(Frame::kLeft - 6, f.y(p) + 4, "end", 12, text("%.1f", p));
  }
  out += label(Frame::kLeft + Frame::kWidth / 2, bottom + 40, "middle", 13,
               "bits per weight of the linears, everything stored");
  out += label(Frame::kLeft - 50, Frame::kTop - 10, "start", 13, "perplexity (logarithmic)");
  return out;
}

}  // namespace

std::vector<CurvePoint> read_points(const std::string& json, const std::string& source) {
  nlohmann::json root;
  try {
    root = nlohmann::json::parse(json);
  } catch (const nlohmann::json::exception& e) {
    throw std::runtime_error(source + ": not JSON: " + e.what());
  }
  for (const char* key : {"records", "methods"}) {
    if (root.is_object() && root.contains(key)) root = nlohmann::json(root[key]);
  }
  if (root.is_object() && root.contains("method")) root = nlohmann::json::array({root});
  if (!root.is_array()) throw std::runtime_error(source + ": is not an array of records");
  std::vector<CurvePoint> points;
  for (std::size_t i = 0; i < root.size(); ++i) points.push_back(read_point(root[i], source, i));
  return points;
}

std::vector<CurvePoint> make_curve(std::vector<CurvePoint> points) {
  std::vector<CurvePoint> curve;
  for (const CurvePoint& p : points) {
    if (p.windows != points[0].windows || p.context != points[0].context ||
        p.kv_bits != points[0].kv_bits || p.kv_value_bits != points[0].kv_value_bits) {
      throw std::runtime_error("method " + p.method + ": " + std::to_string(p.windows) +
                               " windows of " + std::to_string(p.context) + " with a cache of " +
                               std::to_string(p.kv_bits) +
                               " bits (values: " + std::to_string(p.kv_value_bits) +
                               ") cannot share a picture with " + points[0].method);
    }
    const auto same = [&p](const CurvePoint& other) { return other.method == p.method; };
    curve.erase(std::remove_if(curve.begin(), curve.end(), same), curve.end());
    curve.push_back(p);
  }
  const auto is_point = [](const CurvePoint& p) { return !p.is_float; };
  if (std::none_of(curve.begin(), curve.end(), is_point)) {
    throw std::runtime_error("no record of a quantized method");
  }
  std::stable_sort(curve.begin(), curve.end(), [](const CurvePoint& a, const CurvePoint& b) {
    return a.bits != b.bits ? a.bits < b.bits : a.perplexity < b.perplexity;
  });
  double best = INFINITY;
  for (CurvePoint& p : curve) {
    p.frontier = !p.is_float && p.perplexity < best;
    if (p.frontier) best = p.perplexity;
  }
  return curve;
}

std::string curve_svg(const std::vector<CurvePoint>& curve, const std::string& title) {
  const Frame f = frame_of(curve);
  const double legend = Frame::kLeft + Frame::kWidth + 30;
  const double height = (std::max)(600.0, 80.0 + 17.0 * (static_cast<double>(curve.size()) + 5.0));
  std::string out = text(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1120 %.0f\" "
      "font-family=\"sans-serif\">\n<rect width=\"1120\" height=\"%.0f\" fill=\"white\"/>\n",
      height, height);
  out += label(Frame::kLeft - 50, 26, "start", 17, title, "font-weight=\"bold\"");
  out += axes(f);
  std::string line, marks, names;
  double y = Frame::kTop;
  int index = 0;
  double before = 0.0;
  double line_end = Frame::kLeft + Frame::kWidth;  // where the next float method is named
  for (const CurvePoint& p : curve) {
    const std::string values = text("%6.2f bits  %.2f", p.bits, p.perplexity);
    if (p.is_float) {
      out += text("<path d=\"M%.1f %.1fh%.1f\" stroke=\"#57606a\" stroke-dasharray=\"6 4\"/>\n",
                  Frame::kLeft, f.y(p.perplexity), Frame::kWidth);
      out +=
          label(line_end, f.y(p.perplexity) - 5, "end", 12, p.method + text(" %.2f", p.perplexity));
      line_end -= 150.0;
      continue;
    }
    ++index;
    const double px = f.x(p.bits), py = f.y(p.perplexity);
    if (p.frontier) {
      line += line.empty() ? text("M%.1f %.1f", px, py)
                           : text("L%.1f %.1fL%.1f %.1f", px, before, px, py);
      before = py;
    }
    marks += text("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" fill=\"%s\" stroke=\"%s\">", px, py,
                  p.frontier ? 6.0 : 4.0, p.simulated ? "white" : colour_of(p), colour_of(p)) +
             "<title>" + escaped(p.method + ": " + values) + "</title></circle>\n";
    marks += label(px + 7, py - 5, "start", 11, std::to_string(index));
    const std::string above = p.perplexity > f.high ? " (above the frame)" : "";
    names += label(legend, y += 17, "start", 12,
                   std::to_string(index) + "  " + p.method +
                       text("  %.2f  %.2f", p.bits, p.perplexity) + above,
                   p.frontier ? "font-weight=\"bold\"" : "fill=\"#24292f\"");
  }
  out += "<path d=\"" + line + "\" fill=\"none\" stroke=\"#1a7f37\" stroke-width=\"2\"/>\n";
  out += marks +
         label(legend, Frame::kTop, "start", 12, "method  bits  perplexity; bold: frontier",
               "fill=\"#57606a\"") +
         names;
  const char* keys[] = {"#0969da", "#bf8700", "#57606a"};
  const char* meanings[] = {"activations up to 4 bits", "5 to 8 bits", "16 bits"};
  for (int i = 0; i < 3; ++i) {
    y += i == 0 ? 30.0 : 17.0;
    out +=
        text("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n", legend + 5, y - 4, keys[i]);
    out += label(legend + 16, y, "start", 12, meanings[i]);
  }
  return out + "</svg>\n";
}

std::string curve_table(const std::vector<CurvePoint>& curve) {
  std::size_t width = 6;
  for (const CurvePoint& p : curve) width = (std::max)(width, p.method.size());
  const int w = static_cast<int>(width);
  std::string out =
      text("%-*s %7s %10s %4s  %s\n", w, "method", "bits", "perplexity", "a", "frontier");
  for (const CurvePoint& p : curve) {
    out += text("%-*s %7.2f %10.4f %4d  %s\n", w, p.method.c_str(), p.bits, p.perplexity,
                p.activation_bits, p.frontier ? "*" : "");
  }
  return out;
}

}  // namespace rrs_llm
