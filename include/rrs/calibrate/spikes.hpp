// Spike tokens: which linears they hurt, which of those to exempt (QFeM), and which prefix takes
// the spikes away from every later token (QFeP).
//
//   S_t = max_k |x[t,k]|                               token scale, at the input of a module
//   ratio of a sequence = max_t S_t / median_t S_t     lower median, the first token included
//   score of a module = mean ratio over sequences
//
// Modules: linears that read the same input: q, k, v | o | gate, up | down. A module is exempt (its
// activations stay in 16 bits, or 8) when its score exceeds a threshold; candidates are the
// distinct scores, from the highest (nothing exempt) downwards, and last a threshold below all.
// Prefix [BOS, C, T]: T a token that spikes, C a frequent one, such that in [BOS, C, T, C, T] the
// first T takes the spike and the second has none: S[2] / S[4] is largest.
//
// from: inputs of the *float* model over calibration sequences; perplexities and probes that the
// caller's functions return.  to: the precision of each linear, and the tokens whose keys and
// values go to the head of every cache (KvCache::append_exact). No engine is known here. Shapes:
// scales have one element per token. Numeric contract: scales are exact, ratios computed in double;
// magnitudes below 2^-100 count as 2^-100 in a denominator, so that every ratio is finite. Ties:
// positions by order, tokens by id. Not finite: kNonFinite. Cost: one pass over X; searches call
// the caller's functions, see each. Offline: allocates. Paper: Yang et al., Mitigating Quantization
// Errors Due to Activation Spikes in GLU-Based LLMs, 2024. The paper's code has no threshold
// search: that is ours.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "rrs/core/config.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/types.hpp"
#include "rrs/core/view.hpp"

RRS_TYPES_BEGIN

enum class SpikeModule : std::uint8_t { kQkv, kO, kGateUp, kDown };
inline constexpr std::size_t kSpikeModules = 4;  // of a layer
inline constexpr std::size_t kSpikeTokensPerSequence = 3;
inline constexpr std::size_t kPrefixSpikeTokens = 3;      // candidates for T
inline constexpr std::size_t kPrefixContextTokens = 200;  // candidates for C

// What is known of one module's input after some sequences.
struct ModuleSpikes {
  double ratio_sum = 0.0;
  std::int64_t sequences = 0;
  double largest_ratio = 0.0;
  float peak = 0.0f;                // S_t of the token that made the largest ratio
  std::int64_t peak_position = -1;  // its place in its sequence
};

// One set of exempt modules that was tried: those with a score above `threshold`.
struct ExemptionStep {
  double threshold = 0.0;
  std::size_t exempt = 0;
  double perplexity = 0.0;
};

struct Exemptions {
  std::vector<bool> exempt;  // per module
  double threshold = 0.0;    // -1: every module is exempt
  double perplexity = 0.0;
  double all_exempt = 0.0;           // perplexity when every module is
  double limit = 0.0;                // all_exempt (1 + tolerance)
  std::vector<ExemptionStep> steps;  // in the order tried; the last one is chosen
};

// Largest scale seen per token id.
struct SpikeTokens {
  std::map<std::int32_t, float> largest;
};

// The best C for one T.
struct PrefixCandidate {
  std::int32_t spike = -1;
  std::int32_t context = -1;
  float first = 0.0f;   // S of the first T
  float second = 0.0f;  // S of the second
  double ratio = 0.0;
};

struct PrefixChoice {
  std::vector<std::int32_t> tokens;  // [BOS, C, T], or [C, T]
  PrefixCandidate best;
  std::vector<PrefixCandidate> candidates;  // one per T, in the order given
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

// By bits: NaN and Inf must fail under -ffast-math too.
inline bool is_finite_number(double x) noexcept {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  return (bits & 0x7ff0000000000000u) != 0x7ff0000000000000u;
}

inline Status validate_scales(const std::vector<float>& scales, const char* name) {
  for (std::size_t t = 0; t < scales.size(); ++t) {
    if (is_finite_bits(float_bits(scales[t])) && scales[t] >= 0.0f) continue;
    return Status{StatusCode::kNonFinite,
                  name,
                  "must be finite and >= 0 (found: index)",
                  static_cast<std::int64_t>(t),
                  static_cast<std::int64_t>(scales.size()),
                  nullptr};
  }
  return Status{};
}

inline double spike_quotient(float numerator, float denominator) noexcept {
  const float floor = denominator < kZeroMagnitude ? kZeroMagnitude : denominator;
  return static_cast<double>(numerator) / static_cast<double>(floor);
}

}  // namespace detail

// The module of linear 0..6: q, k, v, o, gate, up, down.
RRS_FORCE_INLINE SpikeModule spike_module_of(std::size_t linear) noexcept {
  if (linear < 3) return SpikeModule::kQkv;
  if (linear == 3) return SpikeModule::kO;
  return linear < 6 ? SpikeModule::kGateUp : SpikeModule::kDown;
}

// S [rows] of a matrix; one pass. A row that is not finite is kNonFinite with its index.
template <class T>
Status token_scales(const MatrixView<T>& x, std::vector<float>* scales) {
  if (scales == nullptr) return invalid_argument("scales", "must not be null", 0, 1);
  if (Status s = validate_view(erase(x), kNamesX); !s) return s;
  if (x.cols < 1) return invalid_argument("X.cols", "must be at least 1", x.cols, 1);
  std::vector<float> found(static_cast<std::size_t>(x.rows));
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const T* row = x.row(t);
    std::uint32_t most = 0;
    for (std::int64_t k = 0; k < x.cols; ++k) {
      const std::uint32_t magnitude = float_bits(to_f32(row[k])) & 0x7fffffffu;
      most = magnitude > most ? magnitude : most;
    }
    if (!is_finite_bits(most)) {
      return Status{StatusCode::kNonFinite, "X", "must be finite (found: row)", t, x.rows, nullptr};
    }
    found[static_cast<std::size_t>(t)] = float_from_bits(most);
  }
  *scales = std::move(found);
  return Status{};
}

// Element (n - 1) / 2 in ascending order; 0 of none.
inline float lower_median(std::vector<float> values) {
  if (values.empty()) return 0.0f;
  const auto at = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

// max / lower median of a sequence's scales; 1 when all are zero.
inline Result<double> spike_ratio(const std::vector<float>& scales) {
  if (scales.empty()) return invalid_argument("scales", "must have at least one token", 0, 1);
  if (Status s = detail::validate_scales(scales, "scales"); !s) return s;
  const float most = *std::max_element(scales.begin(), scales.end());
  if (most < kZeroMagnitude) return 1.0;
  return detail::spike_quotient(most, lower_median(scales));
}

// Adds one whole sequence's scales.
inline Status add_sequence(const std::vector<float>& scales, ModuleSpikes* module) {
  if (module == nullptr) return invalid_argument("module", "must not be null", 0, 1);
  const Result<double> ratio = spike_ratio(scales);
  if (!ratio) return ratio.status();
  module->ratio_sum += *ratio;
  ++module->sequences;
  if (*ratio <= module->largest_ratio) return Status{};
  const auto peak = std::max_element(scales.begin(), scales.end());
  module->largest_ratio = *ratio;
  module->peak = *peak;
  module->peak_position = peak - scales.begin();
  return Status{};
}

// 0 before the first sequence.
inline double spike_score(const ModuleSpikes& module) noexcept {
  return module.sequences == 0 ? 0.0 : module.ratio_sum / static_cast<double>(module.sequences);
}

// The smallest number of exempt modules whose perplexity is at most (1 + tolerance) times that with
// every module exempt. perplexity_of(const std::vector<bool>& exempt) -> double is called once with
// all, then once per candidate until one qualifies: at most 2 + distinct scores calls. A candidate
// whose perplexity is NaN does not qualify. Errors: no modules, a score or a tolerance that is not
// finite or is negative, all exempt not finite and positive.
template <class Perplexity>
Result<Exemptions> search_exemptions(const std::vector<double>& scores, double tolerance,
                                     const Perplexity& perplexity_of) {
  const auto count = static_cast<std::int64_t>(scores.size());
  if (scores.empty()) return invalid_argument("scores", "must have at least one module", 0, 1);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (detail::is_finite_number(scores[i]) && scores[i] >= 0.0) continue;
    return Status{StatusCode::kNonFinite,       "scores", "must be finite and >= 0 (found: index)",
                  static_cast<std::int64_t>(i), count,    nullptr};
  }
  if (!detail::is_finite_number(tolerance) || tolerance < 0.0) {
    return invalid_argument("tolerance", "must be finite and >= 0", -1, 0);
  }
  Exemptions found;
  found.all_exempt = perplexity_of(std::vector<bool>(scores.size(), true));
  if (!detail::is_finite_number(found.all_exempt) || found.all_exempt <= 0.0) {
    return Status{StatusCode::kNonFinite,
                  "perplexity",
                  "with all modules exempt must be finite",
                  0,
                  0,
                  nullptr};
  }
  found.limit = found.all_exempt * (1.0 + tolerance);
  std::vector<double> thresholds = scores;
  std::sort(thresholds.begin(), thresholds.end(), [](double a, double b) { return a > b; });
  thresholds.erase(std::unique(thresholds.begin(), thresholds.end()), thresholds.end());
  for (const double threshold : thresholds) {
    std::vector<bool> exempt(scores.size());
    for (std::size_t i = 0; i < scores.size(); ++i) exempt[i] = scores[i] > threshold;
    const auto chosen = static_cast<std::size_t>(std::count(exempt.begin(), exempt.end(), true));
    const double perplexity = perplexity_of(exempt);
    found.steps.push_back({threshold, chosen, perplexity});
    if (detail::is_finite_number(perplexity) && perplexity <= found.limit) {
      found.exempt = std::move(exempt);
      found.threshold = threshold;
      found.perplexity = perplexity;
      return found;
    }
  }
  found.exempt.assign(scores.size(), true);
  found.threshold = -1.0;
  found.perplexity = found.all_exempt;
  found.steps.push_back({-1.0, scores.size(), found.all_exempt});
  return found;
}

// Keeps the three largest scales of a sequence under their token ids, tokens equal to `bos`
// skipped. tokens and scales have one element per position.
inline Status collect_spike_tokens(const std::vector<std::int32_t>& tokens,
                                   const std::vector<float>& scales,
                                   std::optional<std::int32_t> bos, SpikeTokens* found) {
  if (found == nullptr) return invalid_argument("found", "must not be null", 0, 1);
  if (tokens.size() != scales.size()) {
    return invalid_argument("scales", "must have one element per token",
                            static_cast<std::int64_t>(scales.size()),
                            static_cast<std::int64_t>(tokens.size()));
  }
  if (Status s = detail::validate_scales(scales, "scales"); !s) return s;
  std::vector<std::size_t> order;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    if (!bos || tokens[t] != *bos) order.push_back(t);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return scales[a] > scales[b]; });
  order.resize((std::min)(order.size(), kSpikeTokensPerSequence));
  for (const std::size_t t : order) {
    float& largest = found->largest.emplace(tokens[t], 0.0f).first->second;
    largest = (std::max)(largest, scales[t]);
  }
  return Status{};
}

// Token ids of the largest scales, at most `count`.
inline std::vector<std::int32_t> top_spike_tokens(const SpikeTokens& found,
                                                  std::size_t count = kPrefixSpikeTokens) {
  std::vector<std::pair<std::int32_t, float>> all(found.largest.begin(), found.largest.end());
  std::stable_sort(all.begin(), all.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  all.resize((std::min)(all.size(), count));
  std::vector<std::int32_t> tokens;
  tokens.reserve(all.size());
  for (const auto& [token, scale] : all) tokens.push_back(token);
  return tokens;
}

// The `count` most frequent ids, most frequent first.
inline std::vector<std::int32_t> most_frequent_tokens(const std::vector<std::int32_t>& tokens,
                                                      std::size_t count = kPrefixContextTokens) {
  std::map<std::int32_t, std::int64_t> times;
  for (const std::int32_t token : tokens) ++times[token];
  std::vector<std::pair<std::int32_t, std::int64_t>> all(times.begin(), times.end());
  std::stable_sort(all.begin(), all.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  all.resize((std::min)(all.size(), count));
  std::vector<std::int32_t> ids;
  ids.reserve(all.size());
  for (const auto& [token, n] : all) ids.push_back(token);
  return ids;
}

namespace detail {

// Ratio of the two T in the scales of one probe.
inline Status measure_probe(const std::vector<float>& scales, std::size_t first,
                            PrefixCandidate* candidate) {
  if (scales.size() != first + 3) {
    return invalid_argument("probe", "must return one scale per token",
                            static_cast<std::int64_t>(scales.size()),
                            static_cast<std::int64_t>(first + 3));
  }
  if (Status s = validate_scales(scales, "probe"); !s) return s;
  candidate->first = scales[first];
  candidate->second = scales[first + 2];
  candidate->ratio = spike_quotient(candidate->first, candidate->second);
  return Status{};
}

}  // namespace detail

// The prefix of largest ratio over spikes x contexts; the earlier candidate wins ties. probe(const
// std::vector<std::int32_t>&) -> std::vector<float> returns the scale of every token at the input
// of the module of highest score, from the float model with nothing before; it is called
// spikes.size() * contexts.size() times.
template <class Probe>
Result<PrefixChoice> search_prefix(std::optional<std::int32_t> bos,
                                   const std::vector<std::int32_t>& spikes,
                                   const std::vector<std::int32_t>& contexts, const Probe& probe) {
  if (spikes.empty()) return invalid_argument("spikes", "must have at least one token", 0, 1);
  if (contexts.empty()) return invalid_argument("contexts", "must have at least one token", 0, 1);
  std::vector<std::int32_t> head;
  if (bos) head.push_back(*bos);
  PrefixChoice choice;
  for (const std::int32_t spike : spikes) {
    PrefixCandidate best;
    for (const std::int32_t context : contexts) {
      std::vector<std::int32_t> tokens = head;
      tokens.insert(tokens.end(), {context, spike, context, spike});
      PrefixCandidate candidate;
      candidate.spike = spike;
      candidate.context = context;
      if (Status s = detail::measure_probe(probe(tokens), head.size() + 1, &candidate); !s) {
        return s;
      }
      if (best.spike < 0 || candidate.ratio > best.ratio) best = candidate;
    }
    choice.candidates.push_back(best);
    if (choice.best.spike < 0 || best.ratio > choice.best.ratio) choice.best = best;
  }
  choice.tokens = head;
  choice.tokens.insert(choice.tokens.end(), {choice.best.context, choice.best.spike});
  return choice;
}

RRS_FUNCTIONS_END
