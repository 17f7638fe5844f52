#pragma once
// A method: which arithmetic each linear of the model gets. Names, settings, overrides.
//
// From: the command line; to: prepare.hpp. Names: fp, q4_0-native, and every preset of the library,
// with underscores or dashes. Settings change parts of the scheme, for all linears or for those
// whose name matches a pattern. What a method means for one linear is a LinearPlan.

#include <cstddef>
#include <string>
#include <vector>

#include "rrs/core/scheme.hpp"
#include "rrs/kv_cache/kv_scheme.hpp"

namespace rrs_llm {

enum class LinearKind {
  kFloat,        // f32 weights, f32 activations
  kRrs,          // the library, integer kernels (float ones at 16 activation bits)
  kNative,       // the file's own 4-bit codes through the library
  kSimulatedRs,  // reference/: no integer product exists
};

struct LinearPlan {
  LinearKind kind = LinearKind::kFloat;
  rrs::Scheme scheme;
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

// Keys: activation-bits, activation-group, window, rotation, range, clip, weight-bits,
// weight-group, weight-range, weight-scale, sign-seed. Throws naming key, value and what is
// allowed.
void apply_setting(const Setting& setting, rrs::Scheme* scheme);

struct Method {
  std::string name;    // as tables print it
  std::string preset;  // without settings
  LinearKind kind = LinearKind::kFloat;
  rrs::Scheme scheme;
  bool token_qkv = false;  // rs, rrs_published: q, k and v are quantized per token, not smoothed
  std::vector<Setting> settings;

  // `linear`: index in kLinearNames.
  LinearPlan plan(std::size_t layer, std::size_t linear) const;
  // The preset's cache at that width; of fp and q4_0-native: the default preset's.
  rrs::KvScheme kv(int bits) const;
  bool needs_calibration() const noexcept { return scheme.smoothquant_alpha > 0.0f; }
};

// `text`: a name, then settings of its own: "rrs", "rrs@sign-seed=1", "rrs@a8@clip=0.95".
// Throws with the list of names when there is no such method, or when a setting cannot be.
Method make_method(const std::string& text, const std::vector<Setting>& common);
std::vector<std::string> method_names();

// "rotation block 32; activations 4 bits, window one, group 32, full, clip 1; weights 4 bits, ..."
std::string describe(const rrs::Scheme& scheme);
std::string describe(const Method& method);
// The part of a scheme that decides the packed weight.
std::string describe_weight(const rrs::Scheme& scheme);

}  // namespace rrs_llm
