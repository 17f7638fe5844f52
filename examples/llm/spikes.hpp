#pragma once
// QFeM and QFeP for a model: scores of its modules, the prefix, the exempt modules.
//
// From: the float model over windows of a calibration text, and engines of a method with some
// modules exempt; to: Session, which turns the results into settings (exempt=BITS) and a Prefix.
// The searches themselves are the library's (rrs/calibrate/spikes.hpp). A module is the input that
// linears share: index layer * 4 + rrs::SpikeModule, named after q, o, up or down.

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "engine.hpp"
#include "method.hpp"
#include "rrs/calibrate/spikes.hpp"

namespace rrs_llm {

// Where a search says what it tried, line by line; may be empty.
using SpikeLog = std::function<void(const std::string& line)>;

struct SpikeOptions {
  std::size_t windows = 8;  // for scores and for the prefix
  std::size_t length = 1024;
  std::size_t search_windows = 2;  // of those, for the perplexities of QFeM's search
};

// `count` windows of `length` tokens at window_starts (calibration.hpp); fewer and shorter ones
// from a short text. Throws when there are no two tokens.
std::vector<std::vector<TokenId>> calibration_windows(const std::vector<TokenId>& tokens,
                                                      std::size_t count, std::size_t length);

std::string spike_module_name(std::size_t module);  // "blk.11.ffn_down"

struct SpikeMeasurement {
  std::vector<rrs::ModuleSpikes> modules;
  std::vector<std::vector<std::vector<float>>> scales;  // [module][window][token]

  std::vector<double> scores() const;
  std::size_t highest() const;  // module of the highest score; the first on a tie
};

// Runs the engine, with its prefix if it has one: prefix tokens are not counted. Its observer is
// replaced.
SpikeMeasurement measure_spikes(Engine* fp, const std::vector<std::vector<TokenId>>& windows);
// "blk.11.ffn_down  2065.01  peak 3074.7 at position 0", the `most` highest first.
std::string spikes_text(const SpikeMeasurement& m, std::size_t most);

// The tokens [BOS, C, T]. `fp` has no prefix; `bos`: the model's, also when its tokenizer adds
// none.
rrs::PrefixChoice find_prefix(Engine* fp, const std::vector<std::vector<TokenId>>& windows,
                              const SpikeMeasurement& measured, const SpikeLog& log);

// Mean over all predicted tokens of the windows (the first of each is not), as a perplexity.
double windows_perplexity(Engine* engine, const std::vector<std::vector<TokenId>>& windows,
                          const ThreadPool& pool);

// What find_exemptions needs of a method, prepared twice.
struct ExemptionSearch {
  const LinearStack* plain = nullptr;
  const LinearStack* exempt = nullptr;  // every module exempt
  // An engine with these linears, and everything else of the method.
  std::function<std::unique_ptr<Engine>(LinearStack)> engine;
  std::vector<double> scores;
  double tolerance = 0.01;
};
// search.plain, with the linears of search.exempt in the modules that are exempt.
LinearStack mixed_linears(const ExemptionSearch& search, const std::vector<bool>& exempt);
rrs::Exemptions find_exemptions(const ExemptionSearch& search,
                                const std::vector<std::vector<TokenId>>& windows,
                                const ThreadPool& pool, const SpikeLog& log);

// The method with the setting exempt=BITS for every linear of those modules.
Method with_exemptions(const Method& method, const std::vector<bool>& exempt);

// "1 198 260"
std::string tokens_text(const std::vector<TokenId>& tokens);

}  // namespace rrs_llm
