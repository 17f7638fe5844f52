#pragma once
// A method: which arithmetic each linear of the model gets. Names, settings, overrides.
//
// From: the command line; to: prepare.hpp. Names: fp, q4_0-native, and every preset of the library,
// with underscores or dashes; after a preset any of
//   -gptq, -gptaq      the weights' solver (gptq-w4a16 is rrs-w4a16-gptq)
//   -actorder          columns in order of falling diagonal, groups static
//   -zigzag            channels dealt to rotation blocks by magnitude
//   +aser, +qfem, +qfep    low rank, exempt modules, prefix
// aser-w4a8 and aser-w4a6 are the published ASER settings; rrs-plan takes a recipe. Settings change
// parts of the scheme, for all linears or for those whose name matches a pattern. What a method
// means for one linear is a LinearPlan.

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "bpe.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/kv_cache/kv_scheme.hpp"

namespace rrs_llm {

enum class LinearKind {
  kFloat,        // f32 weights, f32 activations
  kRrs,          // the library, integer kernels (float ones at 16 activation bits)
  kNative,       // the file's own 4-bit codes through the library
  kSimulatedRs,  // reference/: no integer product exists
};

// How weight codes are found.
enum class Solver {
  kRtn,    // each weight to its nearest code
  kGptq,   // column by column, each error passed on to the columns after it
  kGptaq,  // the same, and corrects what quantized predecessors did to the input
};

// Low-rank reconstruction of the error. Off while both rank and alpha are 0.
struct AserSpec {
  int rank = 0;
  double alpha = 0.0;  // > 0: instead of a rank, the share of the singular values that it must hold
  // Inputs taken out of the quantized matrix and smoothed. kAutoOutliers: half of the rank, at most
  // the published 32.
  int outliers = 0;
  static constexpr int kAutoOutliers = -1;
  int bits = 16;  // of an element of both factors: 16 or 8
  bool on() const noexcept { return rank > 0 || alpha > 0.0; }
  int smoothed() const noexcept {
    if (!on()) return 0;
    if (outliers != kAutoOutliers) return outliers;
    return alpha > 0.0 || rank >= 64 ? 32 : rank / 2;
  }
};

// What a method decides about a linear beside its scheme.
struct WeightPlan {
  Solver solver = Solver::kRtn;
  bool act_order = false;
  bool zigzag = false;
  double damping = 0.01;  // times the mean of the Hessian's diagonal
  AserSpec aser;
  bool alpha_search = false;  // SmoothQuant's alpha: per input, of least output error
  bool fold = false;          // divisors of q, k, v and of gate, up go into the norms before them
};

struct LinearPlan {
  LinearKind kind = LinearKind::kFloat;
  rrs::Scheme scheme;
  WeightPlan weight;
};

// One change: `pattern` names linears ("" is all of them; see matches()), key and value a field.
struct Setting {
  std::string pattern;
  std::string key;
  std::string value;
};

// "ffn_down=a8,clip=0.9": settings for the linears that the pattern names. Besides the keys of
// apply_setting: aN and wN (activation and weight bits), and fp. Throws on anything else.
std::vector<Setting> parse_override(const std::string& text);
std::vector<Setting> parse_settings(const std::string& pattern, const std::string& text,
                                    char separator);

// True for the whole name, for a run of its dot-separated parts ("ffn_down", "blk.3"), or, with *
// or
// ?, for a glob of the whole name ("blk.2?.ffn_*").
bool matches(const std::string& pattern, const std::string& name);

// Keys: activation-bits, activation-group, window, token-scale, floor, exact-reference, rotation,
// range, clip, weight-bits, weight-group, weight-range, weight-scale, sign-seed. Throws naming key,
// value and what is allowed.
void apply_setting(const Setting& setting, rrs::Scheme* scheme);
// Also: solver, act-order, zigzag, damping, rank, rank-share, rank-bits (16 or 8, of the branch's
// elements), outliers, alpha (SmoothQuant's, of any preset; or "search"), fold, and exempt (8 or
// 16: each token's activations at that width, whatever the scheme).
void apply_setting(const Setting& setting, LinearPlan* plan);

// Settings of a whole method: qfem-bits, qfem-tolerance, qfep-tokens (ids separated by colons).
struct Method;
bool is_method_setting(const std::string& key) noexcept;
void apply_setting(const Setting& setting, Method* method);

// What is asked of a KV cache; the rest is the preset's.
struct KvChoice {
  int bits = 16;             // of the keys, and of the values unless they have their own
  int value_bits = 0;        // 0: as `bits`
  std::optional<int> group;  // of keys and values, as KvScheme::group; none: the preset's

  bool quantizes() const noexcept { return bits != 16 || (value_bits != 0 && value_bits != 16); }
};

struct Method {
  std::string name;    // as tables print it
  std::string text;    // the name without settings: make_method reads it back
  std::string preset;  // the library's preset behind it
  LinearKind kind = LinearKind::kFloat;
  rrs::Scheme scheme;
  WeightPlan weight;
  bool qfem = false;                 // modules with high spike scores are exempt
  bool qfep = false;                 // sequences start with a prefix that takes the spikes
  int qfem_bits = 16;                // activations of exempt modules: 16 or 8
  double qfem_tolerance = 0.01;      // of the calibration perplexity, over that of all exempt
  std::vector<TokenId> qfep_tokens;  // the prefix; empty: found by search
  bool recipe = false;               // rrs-plan: precision per module, from a file
  std::string recipe_model;          // fingerprint of the model that the recipe is for
  std::string recipe_model_name;     // for messages
  bool token_qkv = false;  // rs, rrs_published: q, k and v are quantized per token, not smoothed
  std::vector<Setting> settings;

  // `linear`: index in kLinearNames.
  LinearPlan plan(std::size_t layer, std::size_t linear) const;
  // The preset's cache at that width; of fp and q4_0-native: the default preset's.
  rrs::KvScheme kv(int bits) const;
  rrs::KvScheme kv(const KvChoice& choice) const;
  bool has_solver() const noexcept;  // GPTQ or GPTAQ: somewhere
  bool has_branch() const noexcept;  // ASER: somewhere
  // Whether some linear takes the setting up: act-order needs a solver, rank-bits and outliers a
  // branch, damping one of them.
  bool uses(const std::string& key) const noexcept;
  bool needs_calibration() const noexcept;
  bool needs_hessians() const noexcept;  // GPTQ, ASER: somewhere
  bool needs_stream() const noexcept;    // GPTAQ: somewhere
  bool needs_rows() const noexcept;      // a search of SmoothQuant's alpha: somewhere
};

// `text`: a name, then settings of its own: "rrs", "rrs-gptq@sign-seed=1", "rrs@a8@clip=0.95".
// Throws with the list of names when there is no such method, when a setting cannot be, or when a
// part of the name would do nothing (-actorder without a solver).
Method make_method(const std::string& text, const std::vector<Setting>& common);
// The grammar alone.
Method parse_method(const std::string& text, const std::vector<Setting>& common);
// Names without suffixes: fp, the presets, q4_0-native.
std::vector<std::string> method_names();
// For help and errors: those; presets with settings or solvers of their own; the suffixes.
std::string name_help();

// "rotation block 32; activations 4 bits, window one, group 32, full, clip 1; weights 4 bits, ..."
std::string describe(const rrs::Scheme& scheme);
std::string describe(const Method& method);

// Throws when a setting of an override names no linear: a spelling mistake, or a larger model's.
void check_patterns(const Method& method, std::size_t layers);
// "KV cache 4 bits, group 32, asymmetric, clip 1, K and V rotated".
std::string describe(const rrs::KvScheme& scheme);
// "32", "head" or "token".
std::string describe_kv_group(int group);
// "4", or "4/8": keys, then values, where they differ.
std::string kv_bits_text(int bits, int value_bits);
// The part of a scheme that decides the packed weight.
std::string describe_weight(const rrs::Scheme& scheme);
// "; gptq, act-order, damping 0.01; rank 64": what is not the default, or "".
std::string describe(const WeightPlan& weight);

}  // namespace rrs_llm
