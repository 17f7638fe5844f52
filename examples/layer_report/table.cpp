#include "layer_report/table.hpp"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>

namespace layer_report {
namespace {

#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
std::string
format(const char* pattern, ...) {
  char buffer[512];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(buffer, sizeof buffer, pattern, arguments);
  va_end(arguments);
  return buffer;
}

// "12.34", or "-" where there is no value; right-aligned.
std::string number(double value, int width, int decimals) {
  if (!std::isfinite(value)) return format("%*s", width, "-");
  if (value >= 1e6) return format("%*.1e", width, value);
  return format("%*.*f", width, decimals, value);
}

std::string percent(double value, int width) { return number(100.0 * value, width, 2); }

std::string column_names(const char* first) {
  return format("  %-17s %4s %-8s %5s %4s %5s %8s %8s %8s %8s %6s %8s %8s %7s\n", first, "act",
                "window", "group", "wgt", "group", "median", "all", "victims", "worst", "b/w",
                "prep ms", "gemm ms", "speed");
}

std::string row_text(const LayerReport& layer, const Record& r) {
  const rrs::Scheme& s = r.method.scheme;
  const std::string name = r.method.name + (s.simulated ? " *" : "");
  std::string out = format("  %-17s %4d %-8s %5s %4d %5s", name.c_str(), s.activation.bits,
                           window_text(s.activation.window).c_str(),
                           s.simulated ? "1" : group_text(s.activation.group).c_str(),
                           s.weight.bits, group_text(s.weight.group).c_str());
  out += percent(r.errors.median, 9) + percent(r.errors.all, 9) + percent(r.errors.victims, 9) +
         percent(r.errors.worst, 9) + number(r.bits_per_weight, 7, 2) + number(r.prepare_ms, 9, 3) +
         number(r.gemm_ms, 9, 3);
  const double ratio = speed(layer, r);
  return out + (std::isfinite(ratio) ? number(ratio, 7, 1) + "x\n" : "       -\n");
}

std::string distinct_kernels(const Report& report) {
  std::vector<std::string> names;
  for (const LayerReport& layer : report.layers) {
    for (const Record& r : layer.records) {
      if (r.method.scheme.simulated) continue;
      if (std::find(names.begin(), names.end(), r.kernel) == names.end()) names.push_back(r.kernel);
    }
  }
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

}  // namespace

std::string short_number(double value) {
  if (!std::isfinite(value)) return "-";
  const int digits = value >= 100.0 ? 0 : (value >= 10.0 ? 1 : 2);
  return value < 1e6 ? format("%.*f", digits, value) : format("%.2e", value);
}

std::string header_text(const Report& report) {
  std::string out = "layer_report: " + report.file + "\n\n";
  out +=
      "errors in %, against the float64 product y = x W^T of the unquantized operands:\n"
      "  median   median over tokens of ||dy|| / ||y||: compare methods by this\n"
      "  all      ||dY|| / ||Y|| over all tokens (Frobenius)\n"
      "  victims  the same without the spike, the first token with the largest |x|\n"
      "  worst    the worst token\n"
      "act, wgt: bits; group: inputs that share a scale ('row': all of them); window: tokens that\n"
      "  share smoothing scales; at 16 bits x is not quantized: window and group change nothing\n"
      "b/w: stored bits per weight: codes, scales, padding, SmoothQuant's divisors\n"
      "prep: rotate, smooth, quantize, pack x (each call); gemm: the product; medians of up to " +
      std::to_string(report.rounds) +
      "\n  interleaved rounds; speed: time of the float product / (prep + gemm)\n"
      "*: simulated in float, since no integer product exists: no times\n"
      "float product: " +
      report.float_product + "\n";
  return out;
}

std::string layer_text(const LayerReport& layer) {
  std::string out = format("\n%s: %lld inputs, %lld outputs, %lld tokens\n", layer.name.c_str(),
                           static_cast<long long>(layer.k), static_cast<long long>(layer.n),
                           static_cast<long long>(layer.m));
  out += format("  spike: token %lld, max|x| %s, %s times the median token; float product %s ms\n",
                static_cast<long long>(layer.spike), short_number(layer.spike_max).c_str(),
                short_number(layer.spike_max / layer.median_max).c_str(),
                number(layer.float_ms, 1, 3).c_str());
  if (!layer.calibrated) {
    out += "  no " + layer.name + ".calibration: SmoothQuant's scales come from the input itself\n";
  }
  for (const std::string& note : layer.notes) out += "  left out: " + note + "\n";
  out += column_names("preset");
  for (const Record& r : layer.records) {
    if (!r.method.grid) out += row_text(layer, r);
  }
  out += column_names("rrs, varied");
  for (const Record& r : layer.records) {
    if (r.method.grid) out += row_text(layer, r);
  }
  return out;
}

std::string footer_text(const Report& report) {
  std::string out = "\nmedian error in % of each preset, layer by layer\n";
  out += format("  %-17s", "preset");
  for (const LayerReport& layer : report.layers) out += format("  %18s", layer.name.c_str());
  out += "\n";
  for (const Method& method : all_methods()) {
    if (method.grid) continue;
    out += format("  %-17s", (method.name + (method.scheme.simulated ? " *" : "")).c_str());
    for (const LayerReport& layer : report.layers) {
      double value = kNotMeasured;
      for (const Record& r : layer.records) {
        if (!r.method.grid && r.method.name == method.name) value = r.errors.median;
      }
      const int width = std::max(18, static_cast<int>(layer.name.size()));
      out += "  " + percent(value, width);
    }
    out += "\n";
  }
  out += "\nkernels: " + distinct_kernels(report) + "\nmachine: " + report.machine + "\n";
  return out;
}

}  // namespace layer_report
