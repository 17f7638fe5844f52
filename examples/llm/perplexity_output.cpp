// Perplexity records as a table and as JSON.
#include <cstdio>

#include <nlohmann/json.hpp>

#include "method.hpp"
#include "perplexity.hpp"

namespace rrs_llm {
namespace {

std::string linears_text(const MethodRecord& r) {
  std::string text;
  for (const LinearCount& c : r.linears) {
    if (!text.empty()) text += ", ";
    text += std::to_string(c.count) + " x " + c.precision + " " + c.kernel;
  }
  return text;
}

}  // namespace

std::string records_table(const std::vector<MethodRecord>& records) {
  std::size_t width = 6, kv_width = 2;
  for (const MethodRecord& r : records) {
    width = (std::max)(width, r.method.size());
    kv_width = (std::max)(kv_width, kv_bits_text(r.kv_bits, r.kv_value_bits).size());
  }
  const int w = static_cast<int>(width), kv = static_cast<int>(kv_width);
  char line[400];
  std::snprintf(line, sizeof line, "%-*s %*s %10s %7s %6s %8s %8s %6s %6s %8s %7s  %s\n", w,
                "method", kv, "kv", "perplexity", "+-", "ratio", "KLD", "KLD 99%", "top1", "bits",
                "tokens/s", "outside", "linears");
  std::string out = line;
  for (const MethodRecord& r : records) {
    std::snprintf(line, sizeof line,
                  "%-*s %*s %10.4f %7.4f %6.3f %8.5f %8.4f %5.1f%% %6.2f %8.0f %6.0f%%  ", w,
                  r.method.c_str(), kv, kv_bits_text(r.kv_bits, r.kv_value_bits).c_str(),
                  r.perplexity, r.standard_error, r.ratio, r.kld_mean, r.kld_p99, 100.0 * r.top1,
                  r.bits_per_weight, r.tokens_per_second, 100.0 * r.outside_linears);
    out += line + linears_text(r) + "\n";
  }
  return out;
}

std::string records_json(const std::vector<MethodRecord>& records) {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const MethodRecord& r : records) {
    nlohmann::ordered_json linears = nlohmann::ordered_json::array();
    for (const LinearCount& c : r.linears) {
      linears.push_back({{"precision", c.precision},
                         {"kernel", c.kernel},
                         {"count", c.count},
                         {"simulated", c.simulated}});
    }
    array.push_back({{"method", r.method},
                     {"perplexity", r.perplexity},
                     {"ratio", r.ratio},
                     {"kld_mean", r.kld_mean},
                     {"kld_p99", r.kld_p99},
                     {"top1", r.top1},
                     {"bits_per_weight", r.bits_per_weight},
                     {"tokens_per_second", r.tokens_per_second},
                     {"linears", linears},
                     {"standard_error", r.standard_error},
                     {"windows", r.windows},
                     {"window_nll", r.window_nll},
                     {"context", r.context},
                     {"kv_bits", r.kv_bits},
                     {"kv_value_bits", r.kv_value_bits},
                     {"scheme", r.scheme},
                     {"calibration", r.calibration},
                     {"config_hash", r.config_hash},
                     {"model", r.model},
                     {"simulated", r.simulated},
                     {"outside_linears", r.outside_linears},
                     {"calibration_seconds", r.calibration_seconds},
                     {"prepare_seconds", r.prepare_seconds}});
  }
  return array.dump(2) + "\n";
}

}  // namespace rrs_llm
