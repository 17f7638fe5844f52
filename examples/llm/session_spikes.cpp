// Session's part of QFeM and QFeP: which text, which engines, and what is kept.
#include <optional>
#include <utility>

#include "progress.hpp"
#include "session.hpp"

namespace rrs_llm {
namespace {

void say(const SpikeLog& log, const std::string& text) {
  if (log) log(text);
}

std::string behind(const std::shared_ptr<const Prefix>& prefix) {
  return prefix == nullptr ? "without a prefix"
                           : "behind the prefix " + tokens_text(prefix->tokens);
}

// Shows an engine's forward passes while it lives, unless a log is printed: lines would run into
// each other. `all`: tokens of all passes x layers of a pass.
class EngineProgress {
 public:
  EngineProgress(const char* what, const SpikeLog& log, std::size_t all, ProgressEnd end)
      : all_(static_cast<double>(all)) {
    if (!log) progress_.emplace(what, "tokens x layers", end);
  }
  void show(Engine* engine) {
    engine->watch([this](std::int64_t rows) {
      if (progress_) progress_->update(done_ += static_cast<double>(rows), all_);
    });
  }

 private:
  std::optional<Progress> progress_;
  double all_;
  double done_ = 0.0;
};

// Of a prefix search: T x C probes of BOS, C, T, C, T.
constexpr std::size_t kProbeTokens = rrs::kPrefixSpikeTokens * rrs::kPrefixContextTokens * 5;

std::size_t token_count(const std::vector<std::vector<TokenId>>& windows) {
  std::size_t count = 0;
  for (const std::vector<TokenId>& window : windows) count += window.size();
  return count;
}

}  // namespace

// Windows that fit behind the prefix; a bad text is refused as any calibration's. They may be
// shorter than asked for where the text is not the user's.
std::vector<std::vector<TokenId>> Session::spike_windows(std::size_t count, std::size_t room) {
  const std::vector<TokenId>& tokens = calibration_tokens();
  CalibrationOptions check;
  check.windows = count;
  check.context = (std::min)(options_.spikes.length, room);
  if (!spare_tokens_.empty()) check.context = (std::min)(check.context, tokens.size());
  calibration_starts(tokens, check);
  return calibration_windows(tokens, count, check.context);
}

const SpikeMeasurement& Session::spikes(const std::shared_ptr<const Prefix>& prefix) {
  const std::vector<TokenId> key = prefix_tokens(prefix.get());
  if (const auto at = spikes_.find(key); at != spikes_.end()) return at->second;
  const std::size_t room = model_->config().context - key.size();
  const std::unique_ptr<Engine> engine = float_engine(prefix);
  const auto windows = spike_windows(options_.spikes.windows, room);
  SpikeMeasurement m;
  {
    EngineProgress progress("spike scores", options_.spike_log,
                            token_count(windows) * model_->config().layers, ProgressEnd::kKnown);
    progress.show(engine.get());
    m = measure_spikes(engine.get(), windows);
  }
  say(options_.spike_log,
      "Modules of the highest scores, " + behind(prefix) + ":\n" + spikes_text(m, 8));
  return spikes_[key] = std::move(m);
}

std::shared_ptr<const Prefix> Session::prefix(const Method& method) {
  if (!method.qfep) return nullptr;
  std::vector<TokenId> tokens = method.qfep_tokens;
  if (tokens.empty()) {
    if (!found_prefix_) {
      const SpikeMeasurement& measured = spikes(nullptr);
      const std::unique_ptr<Engine> engine = float_engine(nullptr);
      // Probes stop at the layer that they look at.
      const std::size_t layers = measured.highest() / rrs::kSpikeModules + 1;
      EngineProgress progress("prefix search", options_.spike_log, kProbeTokens * layers,
                              ProgressEnd::kAtMost);
      progress.show(engine.get());
      found_prefix_ = find_prefix(engine.get(),
                                  spike_windows(options_.spikes.windows, model_->config().context),
                                  measured, options_.spike_log)
                          .tokens;
    }
    tokens = *found_prefix_;
  }
  std::shared_ptr<const Prefix>& prefix = prefixes_[tokens];
  if (prefix == nullptr) {
    const std::unique_ptr<Engine> engine = float_engine(nullptr);
    prefix = std::make_shared<const Prefix>(capture_prefix(engine.get(), tokens));
    // What the prefix does, for the log.
    if (options_.spike_log) spikes(prefix);
  }
  return prefix;
}

// Plain and exempt linears are prepared once each. The method's own are a choice from them, module
// by module: a linear's settings are those of one or of the other, and siblings go together. Not so
// with GPTAQ, whose linears depend on those before them: there the choice must be prepared itself.
Session::Resolved Session::resolve_linears(const Method& method) {
  if (!method.qfem) return {method, {}};
  const std::shared_ptr<const Prefix> prefixed = prefix(method);
  const std::size_t room = model_->config().context - prefix_tokens(prefixed.get()).size();
  ExemptionSearch search;
  search.scores = spikes(prefixed).scores();
  search.tolerance = method.qfem_tolerance;
  PrepareOptions options = prepare_options(method);
  const Method all = with_exemptions(method, std::vector<bool>(search.scores.size(), true));
  const auto prepared = [&](const Method& m, const char* what) {
    Progress progress(what + m.name, "linears");
    options.progress = progress.counter();
    return prepare_linears(*model_, m, options, *pool_);
  };
  const LinearStack plain = prepared(method, "preparing ");
  const LinearStack exempt = prepared(all, "preparing, all modules exempt, ");
  search.plain = &plain;
  search.exempt = &exempt;
  const auto windows = spike_windows(options_.spikes.search_windows, room);
  // All exempt, none, and one more for each score.
  const std::size_t passes = 2 + search.scores.size();
  EngineProgress progress("exempt modules", options_.spike_log,
                          passes * token_count(windows) * model_->config().layers,
                          ProgressEnd::kAtMost);
  search.engine = [&](LinearStack linears) {
    std::unique_ptr<Engine> engine = make_engine(std::move(linears), method.kv(16), prefixed);
    progress.show(engine.get());
    return engine;
  };
  const rrs::Exemptions found = find_exemptions(search, windows, *pool_, options_.spike_log);
  const Method chosen = with_exemptions(method, found.exempt);
  if (chosen.needs_stream()) return {chosen, {}};
  return {chosen, mixed_linears(search, found.exempt)};
}

Method Session::resolve(const Method& method) { return resolve_linears(method).method; }

}  // namespace rrs_llm
