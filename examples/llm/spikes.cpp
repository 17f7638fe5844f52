#include "spikes.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "calibration.hpp"
#include "perplexity.hpp"

namespace rrs_llm {
namespace {

[[noreturn]] void fail(const std::string& what, const rrs::Status& status) {
  throw std::runtime_error(what + ": " + status.message());
}

std::size_t module_index(std::size_t layer, std::size_t linear) {
  return layer * rrs::kSpikeModules + static_cast<std::size_t>(rrs::spike_module_of(linear));
}

template <class... Values>
void say(const SpikeLog& log, const char* format, Values... values) {
  if (!log) return;
  char line[400];
  std::snprintf(line, sizeof line, format, values...);
  log(line);
}

// The scales of one module while the engine runs.
std::vector<float> scales_of(std::size_t layer, std::size_t linear, const float* x,
                             std::int64_t rows, std::int64_t cols) {
  std::vector<float> scales;
  const rrs::Status status =
      rrs::token_scales(rrs::MatrixView<const float>(x, rows, cols), &scales);
  if (!status) fail("token scales, " + linear_name(layer, linear), status);
  return scales;
}

}  // namespace

std::vector<std::vector<TokenId>> calibration_windows(const std::vector<TokenId>& tokens,
                                                      std::size_t count, std::size_t length) {
  if (tokens.size() < 2) throw std::runtime_error("calibration: the text has no two tokens");
  length = (std::min)(length, tokens.size());
  std::vector<std::vector<TokenId>> windows;
  for (const std::size_t start : window_starts(tokens.size(), count, length)) {
    const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(start);
    windows.emplace_back(first, first + static_cast<std::ptrdiff_t>(length));
  }
  return windows;
}

std::string spike_module_name(std::size_t module) {
  constexpr std::size_t kNamed[rrs::kSpikeModules] = {kQ, kO, kUp, kDown};
  return linear_name(module / rrs::kSpikeModules, kNamed[module % rrs::kSpikeModules]);
}

std::vector<double> SpikeMeasurement::scores() const {
  std::vector<double> all;
  for (const rrs::ModuleSpikes& m : modules) all.push_back(rrs::spike_score(m));
  return all;
}

std::size_t SpikeMeasurement::highest() const {
  const std::vector<double> all = scores();
  return static_cast<std::size_t>(std::max_element(all.begin(), all.end()) - all.begin());
}

SpikeMeasurement measure_spikes(Engine* fp, const std::vector<std::vector<TokenId>>& windows) {
  SpikeMeasurement m;
  const std::size_t count = fp->config().layers * rrs::kSpikeModules;
  m.modules.resize(count);
  m.scales.resize(count);
  fp->observe([&](std::size_t layer, std::size_t linear, const float* x, std::int64_t rows,
                  std::int64_t cols) {
    const std::size_t module = module_index(layer, linear);
    m.scales[module].push_back(scales_of(layer, linear, x, rows, cols));
    const rrs::Status status = rrs::add_sequence(m.scales[module].back(), &m.modules[module]);
    if (!status) fail("spikes, " + spike_module_name(module), status);
  });
  for (const std::vector<TokenId>& window : windows) {
    Sequence sequence = fp->start();
    fp->forward(window, &sequence);
  }
  fp->observe(nullptr);
  return m;
}

std::string spikes_text(const SpikeMeasurement& m, std::size_t most) {
  const std::vector<double> scores = m.scores();
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  order.resize((std::min)(order.size(), most));
  std::string text;
  for (const std::size_t i : order) {
    char line[160];
    std::snprintf(line, sizeof line, "  %-20s score %9.2f, peak %9.3f at position %lld\n",
                  spike_module_name(i).c_str(), scores[i], static_cast<double>(m.modules[i].peak),
                  static_cast<long long>(m.modules[i].peak_position));
    text += line;
  }
  return text;
}

std::string tokens_text(const std::vector<TokenId>& tokens) {
  std::string text;
  for (const TokenId token : tokens) text += (text.empty() ? "" : " ") + std::to_string(token);
  return text;
}

rrs::PrefixChoice find_prefix(Engine* fp, const std::vector<std::vector<TokenId>>& windows,
                              const SpikeMeasurement& measured, const SpikeLog& log) {
  const std::size_t module = measured.highest();
  const std::optional<TokenId> bos = fp->config().bos;
  rrs::SpikeTokens found;
  std::vector<TokenId> all;
  for (std::size_t w = 0; w < windows.size(); ++w) {
    const rrs::Status status =
        rrs::collect_spike_tokens(windows[w], measured.scales[module][w], bos, &found);
    if (!status) fail("prefix", status);
    all.insert(all.end(), windows[w].begin(), windows[w].end());
  }
  std::vector<float> scales;
  fp->observe([&](std::size_t layer, std::size_t linear, const float* x, std::int64_t rows,
                  std::int64_t cols) {
    if (module_index(layer, linear) == module) scales = scales_of(layer, linear, x, rows, cols);
  });
  fp->limit_layers(module / rrs::kSpikeModules + 1);
  const auto probe = [&](const std::vector<TokenId>& tokens) {
    Sequence sequence = fp->start();
    fp->forward(tokens, &sequence);
    return scales;
  };
  const rrs::Result<rrs::PrefixChoice> choice =
      rrs::search_prefix(bos, rrs::top_spike_tokens(found), rrs::most_frequent_tokens(all), probe);
  fp->limit_layers(0);
  fp->observe(nullptr);
  if (!choice) fail("prefix", choice.status());
  say(log, "QFeP: T by the scales of %s; C of the %zu most frequent tokens",
      spike_module_name(module).c_str(), rrs::most_frequent_tokens(all).size());
  for (const rrs::PrefixCandidate& c : choice->candidates) {
    say(log, "  T %d (scale %.3f in the text): C %d, scales %.3f then %.3f, ratio %.2f", c.spike,
        static_cast<double>(found.largest.at(c.spike)), c.context, static_cast<double>(c.first),
        static_cast<double>(c.second), c.ratio);
  }
  say(log, "QFeP: prefix %s", tokens_text(choice->tokens).c_str());
  return *choice;
}

double windows_perplexity(Engine* engine, const std::vector<std::vector<TokenId>>& windows,
                          const ThreadPool& pool) {
  double sum = 0.0;
  std::size_t targets = 0;
  for (const std::vector<TokenId>& window : windows) {
    sum += window_nll(engine, window, pool);
    targets += window.size() - 1;
  }
  return std::exp(sum / static_cast<double>(targets));
}

LinearStack mixed_linears(const ExemptionSearch& search, const std::vector<bool>& exempt) {
  LinearStack stack = *search.plain;
  for (std::size_t layer = 0; layer < stack.size(); ++layer) {
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      if (exempt[module_index(layer, l)]) stack[layer][l] = (*search.exempt)[layer][l];
    }
  }
  return stack;
}

rrs::Exemptions find_exemptions(const ExemptionSearch& search,
                                const std::vector<std::vector<TokenId>>& windows,
                                const ThreadPool& pool, const SpikeLog& log) {
  const auto perplexity_of = [&](const std::vector<bool>& exempt) {
    const double perplexity =
        windows_perplexity(search.engine(mixed_linears(search, exempt)).get(), windows, pool);
    say(log, "  %3zu of %zu modules exempt: perplexity %.4f",
        static_cast<std::size_t>(std::count(exempt.begin(), exempt.end(), true)), exempt.size(),
        perplexity);
    return perplexity;
  };
  say(log, "QFeM: all modules exempt, then by falling score, on %zu windows of calibration text",
      windows.size());
  const rrs::Result<rrs::Exemptions> found =
      rrs::search_exemptions(search.scores, search.tolerance, perplexity_of);
  if (!found) fail("exempt modules", found.status());
  say(log, "QFeM: limit %.4f (all exempt, and a tolerance of %g): threshold %.2f, %zu exempt",
      found->limit, search.tolerance, found->threshold, found->steps.back().exempt);
  for (std::size_t i = 0; i < found->exempt.size(); ++i) {
    if (!found->exempt[i]) continue;
    say(log, "  exempt: %s, score %.2f", spike_module_name(i).c_str(), search.scores[i]);
  }
  return *found;
}

Method with_exemptions(const Method& method, const std::vector<bool>& exempt) {
  Method m = method;
  for (std::size_t i = 0; i < exempt.size(); ++i) {
    for (std::size_t l = 0; l < kLinearsPerLayer && exempt[i]; ++l) {
      const std::size_t layer = i / rrs::kSpikeModules;
      if (module_index(layer, l) != i) continue;
      m.settings.push_back(
          Setting{linear_name(layer, l), "exempt", std::to_string(method.qfem_bits)});
    }
  }
  return m;
}

}  // namespace rrs_llm
