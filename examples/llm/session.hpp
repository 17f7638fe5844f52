#pragma once
// What the program's commands share: an open model, threads, and engines made by name.
//
// From: command-line options; to: the commands. An engine comes from a method (prepared here) or
// from a quantized file (mapped, nothing is prepared).

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "method.hpp"
#include "perplexity.hpp"
#include "prepare.hpp"
#include "spikes.hpp"

namespace rrs_llm {

struct SessionOptions {
  std::string model;
  int threads = 0;  // 0: as many as the machine has
  KvChoice kv;
  std::string calibration;  // text file for methods that need one; empty: the one shipped
  std::size_t calibration_windows = 16;
  // Where calibration keeps the Hessians of finished layers; empty: an unnamed file.
  std::string statistics;
  bool resume = false;  // go on behind the layers that `statistics` holds
  SpikeOptions spikes;
  SpikeLog spike_log;  // QFeM's and QFeP's searches say here what they try
};

// The text to calibrate on: the file named, else the one shipped.
std::string calibration_path(const SessionOptions& options);

class Session {
 public:
  explicit Session(const SessionOptions& options);

  const ModelSource& model() const noexcept { return *model_; }
  const ThreadPool& pool() const noexcept { return *pool_; }
  std::shared_ptr<const ModelParts> parts();
  // The float linears of the whole model that an engine or a search has read: not needed any more.
  void forget_float_linears() { float_linears_.clear(); }

  Contestant prepare(const Method& asked) { return prepare(asked, options_.kv); }
  Contestant prepare(const Method& asked, int kv_bits) {
    KvChoice kv;
    kv.bits = kv_bits;
    return prepare(asked, kv);
  }
  Contestant prepare(const Method& asked, const KvChoice& choice);
  // `weights`: a file that `quantize` wrote for this model.
  Contestant open(const std::string& weights);

  // A file's bytes as tokens; BOS first when the model's metadata says so.
  std::vector<TokenId> tokens_of_file(const std::string& path) const;
  // What the calibration of `method` took, whichever method of this run it was made for; 0: none.
  double calibration_seconds(const Method& method);
  // Tokens to calibrate on instead of the shipped text, if no calibration file was named; shorter
  // than a window of 1024, they are one window.
  void set_calibration_tokens(std::vector<TokenId> tokens) { spare_tokens_ = std::move(tokens); }
  // From now on these tokens alone, whatever file was named; calibrations made before are
  // forgotten.
  void use_calibration_tokens(std::vector<TokenId> tokens);
  // Of the file named; else those set; else of the text that the examples ship.
  const std::vector<TokenId>& calibration_tokens();
  // Everything that preparing `method` needs to know about the calibration text; nothing for
  // others.
  void give_calibration(const Method& method, PrepareOptions* options);
  // What `method` needs: with Hessians or without; behind its prefix, which does not count.
  const Calibration& calibration(const Method& method);
  // Of a method with +qfep: the tokens it names or, searched once, those of the definition; their
  // keys and values by the float model. nullptr for other methods.
  std::shared_ptr<const Prefix> prefix(const Method& method);
  // The method, with QFeM's exempt modules searched and named in its settings.
  Method resolve(const Method& method);

 private:
  struct Resolved {
    Method method;
    LinearStack linears;  // with +qfem, what the search had prepared; empty: to be prepared
  };
  Resolved resolve_linears(const Method& method);

  SessionOptions options_;
  std::unique_ptr<ModelSource> model_;
  std::unique_ptr<ThreadPool> pool_;
  std::shared_ptr<const ModelParts> parts_;
  std::shared_ptr<const ModelParts> headless_parts_;
  const LinearStack& float_linears();
  std::unique_ptr<Engine> make_engine(LinearStack linears, const rrs::KvScheme& kv,
                                      const std::shared_ptr<const Prefix>& prefix);
  // All but the head, unless that has been read, too.
  std::shared_ptr<const ModelParts> parts_of_layers();
  LayerSource float_layer_source();
  std::unique_ptr<Engine> float_engine(const std::shared_ptr<const Prefix>& prefix);
  // Of the calibration text, for QFeM and QFeP: at most `room` tokens each.
  std::vector<std::vector<TokenId>> spike_windows(std::size_t count, std::size_t room);
  const SpikeMeasurement& spikes(const std::shared_ptr<const Prefix>& prefix);
  PrepareOptions prepare_options(const Method& method);

  WeightStore store_;
  LinearStack float_linears_;  // f32, read once: fp, calibration
  std::vector<TokenId> spare_tokens_;
  std::vector<TokenId> calibration_tokens_;  // empty: not read yet
  std::optional<std::vector<TokenId>> found_prefix_;
  // By the tokens of the prefix; none: an empty list.
  std::map<std::vector<TokenId>, Calibration> calibrations_;
  std::map<std::vector<TokenId>, SpikeMeasurement> spikes_;
  std::map<std::vector<TokenId>, std::shared_ptr<const Prefix>> prefixes_;
  std::set<std::string> told_;                                  // lines of raised damping
  std::map<std::vector<TokenId>, double> calibration_seconds_;  // keys of calibrations_
  double calibrating_ = 0.0;                                    // seconds, all of them
};

StoreFactory store_factory(const rrs::KvScheme& scheme);

}  // namespace rrs_llm
