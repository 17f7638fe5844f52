#include "method.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>

#include "../support/quoted_name.hpp"
#include "engine.hpp"

namespace rrs_llm {
namespace {

[[noreturn]] void bad_setting(const Setting& s, const std::string& allowed) {
  throw std::runtime_error("setting " + rrs_examples::quoted_name(s.key) + ": " +
                           rrs_examples::quoted_name(s.value) + " is not " + allowed);
}

long long parse_integer(const Setting& s, std::string_view text, long long least, long long most) {
  const std::string digits(text);
  char* end = nullptr;
  errno = 0;
  const long long value = std::strtoll(digits.c_str(), &end, 10);
  if (digits.empty() || *end != 0 || errno != 0 || value < least || value > most) {
    bad_setting(s, "an integer from " + std::to_string(least) + " to " + std::to_string(most));
  }
  return value;
}

int parse_group(const Setting& s) {
  if (s.value == "row") return rrs::kRowGroup;
  for (const int group : {16, 32, 64, 128, 256}) {
    if (s.value == std::to_string(group)) return group;
  }
  bad_setting(s, "16, 32, 64, 128, 256 or row");
}

rrs::Range parse_range(const Setting& s) {
  if (s.value == "symmetric") return rrs::Range::kSymmetric;
  if (s.value == "full") return rrs::Range::kFull;
  bad_setting(s, "symmetric or full");
}

float parse_clip(const Setting& s) {
  char* end = nullptr;
  const float value = std::strtof(s.value.c_str(), &end);
  if (s.value.empty() || *end != 0 || !(value > 0.0f && value <= 1.0f)) {
    bad_setting(s, "above 0 and at most 1");
  }
  return value;
}

double parse_share(const Setting& s) {
  char* end = nullptr;
  const double value = std::strtod(s.value.c_str(), &end);
  if (s.value.empty() || *end != 0 || !(value > 0.0 && value <= 1.0)) {
    bad_setting(s, "above 0 and at most 1");
  }
  return value;
}

int parse_eight_or_sixteen(const Setting& s) {
  if (s.value == "8" || s.value == "16") return s.value == "8" ? 8 : 16;
  bad_setting(s, "8 or 16");
}

std::vector<TokenId> parse_tokens(const Setting& s) {
  std::vector<TokenId> tokens;
  for (std::size_t at = 0; at <= s.value.size();) {
    const std::size_t end = (std::min)(s.value.find(':', at), s.value.size());
    const std::string_view text = std::string_view(s.value).substr(at, end - at);
    tokens.push_back(
        static_cast<TokenId>(parse_integer(s, text, 0, std::numeric_limits<TokenId>::max())));
    at = end + 1;
  }
  return tokens;
}

bool parse_switch(const Setting& s) {
  if (s.value == "0" || s.value == "1") return s.value == "1";
  bad_setting(s, "0 or 1");
}

Solver parse_solver(const Setting& s) {
  if (s.value == "rtn") return Solver::kRtn;
  if (s.value == "gptq") return Solver::kGptq;
  if (s.value == "gptaq") return Solver::kGptaq;
  bad_setting(s, "rtn, gptq or gptaq");
}

void set_window(const Setting& s, rrs::Window* window) {
  if (s.value == "whole") {
    *window = rrs::Window{rrs::WindowKind::kWhole, 0};
  } else if (s.value == "one") {
    *window = rrs::Window{rrs::WindowKind::kOne, 0};
  } else if (s.value.rfind("rows:", 0) == 0) {
    const long long rows =
        parse_integer(s, std::string_view(s.value).substr(5), 1, std::numeric_limits<int>::max());
    *window = rrs::Window{rrs::WindowKind::kRows, rows};
  } else {
    bad_setting(s, "one, whole or rows:N");
  }
}

void set_rotation(const Setting& s, rrs::Rotation* rotation) {
  if (s.value == "none") {
    rotation->kind = rrs::RotationKind::kNone;
  } else if (s.value == "full") {
    rotation->kind = rrs::RotationKind::kFull;
  } else if (s.value.rfind("block:", 0) == 0) {
    rotation->kind = rrs::RotationKind::kBlock;
    rotation->block =
        static_cast<int>(parse_integer(s, std::string_view(s.value).substr(6), 16, 256));
  } else {
    bad_setting(s, "none, full or block:N");
  }
}

// * is any run of characters, ? is one.
// One place to go back to suffices, behind the last *: a pattern of many costs no more than its
// length times the name's. (Going back to every * took forever on a recipe that a fuzzer made.)
bool glob(std::string_view pattern, std::string_view name) {
  constexpr std::size_t kNone = std::string_view::npos;
  std::size_t p = 0, n = 0, star = kNone, taken = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      taken = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != kNone) {
      p = star + 1;
      n = ++taken;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == kNone;
}

void set_alpha(const Setting& s, LinearPlan* plan) {
  float* alpha = &plan->scheme.smoothquant_alpha;
  plan->weight.alpha_search = s.value == "search";
  if (!plan->weight.alpha_search) {
    char* end = nullptr;
    *alpha = std::strtof(s.value.c_str(), &end);
    if (s.value.empty() || *end != 0 || !(*alpha > 0.0f && *alpha <= 1.0f)) {
      bad_setting(s, "above 0 and at most 1, or search");
    }
  } else if (!(*alpha > 0.0f)) {
    *alpha = 0.5f;  // that there is one
  }
}

// Each token alone, without whatever a window of tokens had.
void exempt(int bits, LinearPlan* plan) {
  if (plan->kind == LinearKind::kSimulatedRs) plan->kind = LinearKind::kRrs;
  plan->scheme.simulated = false;
  rrs::ActivationScheme& a = plan->scheme.activation;
  a.bits = bits;
  a.window = rrs::Window{};
  a.token_scale = true;
  a.exact_reference = false;
  a.floor = 0.0f;
}

const char* range_text(rrs::Range range) {
  return range == rrs::Range::kFull ? "full" : "symmetric";
}

std::string group_text(int group) {
  return group == rrs::kRowGroup ? "row" : std::to_string(group);
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

std::string window_text(const rrs::Window& window) {
  switch (window.kind) {
    case rrs::WindowKind::kWhole: return "whole";
    case rrs::WindowKind::kRows: return "rows:" + std::to_string(window.rows);
    case rrs::WindowKind::kOne: return "one";
    case rrs::WindowKind::kFrozen: break;
  }
  return "frozen";
}

std::string rotation_text(const rrs::Rotation& r) {
  std::string text = "rotation none";
  if (r.kind == rrs::RotationKind::kFull) text = "rotation full";
  if (r.kind == rrs::RotationKind::kBlock) text = "rotation block:" + std::to_string(r.block);
  if (r.kind != rrs::RotationKind::kNone && r.random_signs) {
    text += ", sign seed " + std::to_string(r.sign_seed);
  }
  return text;
}

std::string activation_text(const rrs::ActivationScheme& a) {
  if (a.bits == rrs::kActivationFloat) return "activations 16 bits (not quantized)";
  std::string text = "activations " + std::to_string(a.bits) + " bits, window " +
                     window_text(a.window) + ", group " + group_text(a.group) + ", " +
                     range_text(a.range) + ", clip " + number(static_cast<double>(a.clip));
  if (!a.token_scale) text += ", one scale per window and group";
  if (a.floor > 0.0f) text += ", floor " + number(static_cast<double>(a.floor));
  if (a.exact_reference) text += ", sorted in every call";
  return text;
}

}  // namespace

bool matches(const std::string& pattern, const std::string& name) {
  if (pattern.empty()) return true;
  if (pattern.find_first_of("*?") != std::string::npos) return glob(pattern, name);
  const std::string parts = "." + name + ".";
  return parts.find("." + pattern + ".") != std::string::npos;
}

void apply_setting(const Setting& s, rrs::Scheme* scheme) {
  rrs::ActivationScheme& a = scheme->activation;
  if (s.key == "activation-bits") {
    const long long bits = parse_integer(s, s.value, 2, rrs::kActivationFloat);
    if (bits > 8 && bits != rrs::kActivationFloat) bad_setting(s, "2 to 8, or 16");
    a.bits = static_cast<int>(bits);
  } else if (s.key == "activation-group") {
    a.group = parse_group(s);
  } else if (s.key == "window") {
    set_window(s, &a.window);
  } else if (s.key == "token-scale") {
    a.token_scale = parse_switch(s);
  } else if (s.key == "floor") {
    a.floor = s.value == "0" ? 0.0f : static_cast<float>(parse_share(s));
  } else if (s.key == "exact-reference") {
    a.exact_reference = parse_switch(s);
  } else if (s.key == "rotation") {
    set_rotation(s, &scheme->rotation);
  } else if (s.key == "range") {
    a.range = parse_range(s);
  } else if (s.key == "clip") {
    a.clip = parse_clip(s);
  } else if (s.key == "weight-bits") {
    const long long bits = parse_integer(s, s.value, 4, 8);
    if (bits != 4 && bits != 8) bad_setting(s, "4 or 8");
    scheme->weight.bits = static_cast<int>(bits);
  } else if (s.key == "weight-group") {
    scheme->weight.group = parse_group(s);
  } else if (s.key == "weight-range") {
    scheme->weight.range = parse_range(s);
  } else if (s.key == "weight-scale") {
    if (s.value != "absmax" && s.value != "search") bad_setting(s, "absmax or search");
    scheme->weight.scale =
        s.value == "absmax" ? rrs::WeightScale::kAbsmax : rrs::WeightScale::kSearch;
  } else if (s.key == "sign-seed") {
    scheme->rotation.random_signs = true;
    scheme->rotation.sign_seed = static_cast<std::uint64_t>(
        parse_integer(s, s.value, 0, std::numeric_limits<long long>::max()));
  } else {
    throw std::runtime_error(
        "setting " + rrs_examples::quoted_name(s.key) +
        " is not one of aN, wN, fp, activation-bits, activation-group, window, token-scale, "
        "floor, exact-reference, rotation, range, clip, weight-bits, weight-group, weight-range, "
        "weight-scale, sign-seed, solver, act-order, zigzag, damping, rank, rank-share, rank-bits, "
        "outliers, alpha, fold, exempt, qfem-bits, qfem-tolerance, qfep-tokens");
  }
}

void apply_setting(const Setting& s, LinearPlan* plan) {
  WeightPlan& w = plan->weight;
  if (s.key == "solver") {
    w.solver = parse_solver(s);
  } else if (s.key == "act-order") {
    w.act_order = parse_switch(s);
  } else if (s.key == "zigzag") {
    w.zigzag = parse_switch(s);
  } else if (s.key == "damping") {
    w.damping = parse_share(s);
  } else if (s.key == "rank") {
    w.aser.rank = static_cast<int>(parse_integer(s, s.value, 0, 65536));
    w.aser.alpha = 0.0;
  } else if (s.key == "rank-share") {
    w.aser.alpha = parse_share(s);
    w.aser.rank = 0;
  } else if (s.key == "rank-bits") {
    w.aser.bits = parse_eight_or_sixteen(s);
  } else if (s.key == "outliers") {
    w.aser.outliers = static_cast<int>(parse_integer(s, s.value, 0, 65536));
  } else if (s.key == "alpha") {
    set_alpha(s, plan);
  } else if (s.key == "fold") {
    w.fold = parse_switch(s);
  } else if (s.key == "exempt") {
    exempt(parse_eight_or_sixteen(s), plan);
  } else {
    apply_setting(s, &plan->scheme);
  }
}

bool is_method_setting(const std::string& key) noexcept {
  return key.rfind("qfem-", 0) == 0 || key.rfind("qfep-", 0) == 0;
}

void apply_setting(const Setting& s, Method* method) {
  if (!s.pattern.empty()) {
    throw std::runtime_error("setting " + rrs_examples::quoted_name(s.key) +
                             " is of a whole method, not of " +
                             rrs_examples::quoted_name(s.pattern));
  }
  if (s.key == "qfem-bits") {
    method->qfem_bits = parse_eight_or_sixteen(s);
  } else if (s.key == "qfem-tolerance") {
    method->qfem_tolerance = parse_share(s);
  } else if (s.key == "qfep-tokens") {
    method->qfep_tokens = parse_tokens(s);
  } else {
    LinearPlan probe;
    apply_setting(s, &probe);  // throws
  }
}

std::vector<Setting> parse_settings(const std::string& pattern, const std::string& text,
                                    char separator) {
  std::vector<Setting> settings;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = (std::min)(text.find(separator, at), text.size());
    const std::string part = text.substr(at, end - at);
    at = end + 1;
    const std::size_t equals = part.find('=');
    Setting s{pattern, part.substr(0, equals), ""};
    if (equals != std::string::npos) {
      s.value = part.substr(equals + 1);
    } else if (part.size() > 1 && (part[0] == 'a' || part[0] == 'w') &&
               part.find_first_not_of("0123456789", 1) == std::string::npos) {
      s.key = part[0] == 'a' ? "activation-bits" : "weight-bits";
      s.value = part.substr(1);
    }
    if (is_method_setting(s.key)) {
      Method probe;
      apply_setting(s, &probe);
    } else if (s.key != "fp" || equals != std::string::npos) {
      LinearPlan probe;
      apply_setting(s, &probe);  // refuses what it does not know, now rather than later
    }
    settings.push_back(s);
  }
  return settings;
}

std::vector<Setting> parse_override(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
    throw std::runtime_error("override " + rrs_examples::quoted_name(text) +
                             " is not PATTERN=SETTING[,SETTING...]");
  }
  return parse_settings(text.substr(0, equals), text.substr(equals + 1), ',');
}

namespace {

// The simulation is one fixed formula for the activations; only its weight can be another.
void check_simulated(const std::string& where, const rrs::Scheme& preset, const LinearPlan& p) {
  const bool rotated = p.scheme.rotation.kind != preset.rotation.kind;
  if (!rotated && !p.weight.zigzag &&
      activation_text(p.scheme.activation) == activation_text(preset.activation)) {
    return;
  }
  throw std::runtime_error("method " + where +
                           ": simulated, so its activations, rotation and order of channels are "
                           "fixed (rs_g32 runs in integers and takes all settings)");
}

}  // namespace

void check_patterns(const Method& method, std::size_t layers) {
  for (const Setting& s : method.settings) {
    bool found = s.pattern.empty();
    for (std::size_t l = 0; l < layers * kLinearsPerLayer && !found; ++l) {
      found = matches(s.pattern, linear_name(l / kLinearsPerLayer, l % kLinearsPerLayer));
    }
    if (!found) {
      throw std::runtime_error("override " + rrs_examples::quoted_name(s.pattern) +
                               ": names no linear of the model (blk.0.attn_q to " +
                               linear_name(layers - 1, kLinearsPerLayer - 1) + ")");
    }
  }
}

LinearPlan Method::plan(std::size_t layer, std::size_t linear) const {
  LinearPlan p{kind, scheme, weight};
  if (token_qkv && linear <= kV) {
    if (p.kind == LinearKind::kSimulatedRs) p.kind = LinearKind::kRrs;
    p.scheme.simulated = false;
    p.scheme.activation.window = rrs::Window{};
    p.scheme.activation.group = rrs::kRowGroup;
    p.scheme.activation.exact_reference = false;
    p.scheme.activation.floor = 0.0f;
  }
  const std::string linear_is = linear_name(layer, linear);
  const rrs::Scheme preset_scheme = p.scheme;
  for (const Setting& s : settings) {
    if (is_method_setting(s.key) || !matches(s.pattern, linear_is)) continue;
    if (s.key == "fp") {
      p.kind = LinearKind::kFloat;
    } else if (p.kind != LinearKind::kFloat) {
      apply_setting(s, &p);
    }
  }
  if (p.kind == LinearKind::kSimulatedRs)
    check_simulated(name + ", " + linear_is, preset_scheme, p);
  if (p.kind == LinearKind::kRrs || p.kind == LinearKind::kNative) {
    if (const rrs::Status status = rrs::validate(p.scheme); !status) {
      throw std::runtime_error("method " + name + ", " + linear_is + ": " + status.message());
    }
  }
  return p;
}

bool Method::has_solver() const noexcept {
  bool has = weight.solver != Solver::kRtn;
  for (const Setting& s : settings) has = has || (s.key == "solver" && s.value != "rtn");
  return has;
}

bool Method::has_branch() const noexcept {
  bool has = weight.aser.on();
  for (const Setting& s : settings) has = has || s.key == "rank" || s.key == "rank-share";
  return has;
}

bool Method::uses(const std::string& key) const noexcept {
  if (key == "act-order") return has_solver();
  if (key == "rank-bits" || key == "outliers") return has_branch();
  return key != "damping" || needs_hessians();
}

bool Method::needs_hessians() const noexcept { return has_solver() || has_branch(); }

bool Method::needs_stream() const noexcept {
  bool needs = weight.solver == Solver::kGptaq;
  for (const Setting& s : settings) needs = needs || (s.key == "solver" && s.value == "gptaq");
  return needs;
}

bool Method::needs_rows() const noexcept {
  bool needs = weight.alpha_search;
  for (const Setting& s : settings) needs = needs || (s.key == "alpha" && s.value == "search");
  return needs;
}

bool Method::needs_calibration() const noexcept {
  bool needs = scheme.smoothquant_alpha > 0.0f || weight.zigzag || needs_hessians();
  for (const Setting& s : settings) needs = needs || s.key == "zigzag" || s.key == "alpha";
  return needs;
}

rrs::KvScheme Method::kv(int bits) const {
  const bool own = kind == LinearKind::kRrs || kind == LinearKind::kSimulatedRs;
  const rrs::Result<rrs::KvScheme> found = rrs::presets::kv(own ? preset.c_str() : "rrs", bits);
  if (!found) throw std::runtime_error("method " + name + ": " + found.status().message());
  return *found;
}

rrs::KvScheme Method::kv(const KvChoice& choice) const {
  rrs::KvScheme s = kv(choice.bits);
  // What the preset has anyway is not set: the text of the scheme, and so the hash, stays.
  if (choice.value_bits != 0 && choice.value_bits != rrs::kv_v_bits(s)) {
    s.v_bits = choice.value_bits;
  }
  if (choice.group) {
    s.group = *choice.group;
    s.v_group = rrs::kKvGroupAsK;
  }
  return s;
}

std::string describe_kv_group(int group) {
  return group == rrs::kKvHeadGroup    ? "head"
         : group == rrs::kKvTokenGroup ? "token"
                                       : std::to_string(group);
}

std::string describe(const rrs::KvScheme& s) {
  std::string text = "KV cache " + std::to_string(s.bits) + " bits";
  const int v_bits = rrs::kv_v_bits(s);
  if (v_bits != s.bits) text += ", V " + std::to_string(v_bits);
  if (s.bits == 16 && v_bits == 16) return text;
  text += ", group " + describe_kv_group(s.group);
  if (rrs::kv_v_group(s) != s.group) text += " (V: " + describe_kv_group(rrs::kv_v_group(s)) + ")";
  const char* ranges[] = {"asymmetric", "symmetric", "full"};
  text += std::string(", ") + ranges[static_cast<int>(s.range)] + ", clip " +
          number(static_cast<double>(s.clip));
  const bool k = s.rotate_k && s.bits != 16, v = s.rotate_v && v_bits != 16;
  if (k && v) return text + ", K and V rotated";
  return text + (k ? ", K rotated" : v ? ", V rotated" : ", not rotated");
}

std::string kv_bits_text(int bits, int value_bits) {
  const std::string keys = std::to_string(bits);
  return bits == value_bits ? keys : keys + "/" + std::to_string(value_bits);
}

std::string describe_weight(const rrs::Scheme& s) {
  return rotation_text(s.rotation) + "; weights " + std::to_string(s.weight.bits) +
         " bits, group " + group_text(s.weight.group) + ", " + range_text(s.weight.range) +
         (s.weight.scale == rrs::WeightScale::kSearch ? ", search" : ", absmax");
}

std::string describe(const rrs::Scheme& s) {
  std::string text = activation_text(s.activation) + "; " + describe_weight(s);
  if (s.smoothquant_alpha > 0.0f) {
    text += "; smoothquant alpha " + number(static_cast<double>(s.smoothquant_alpha));
  }
  return text;
}

std::string describe(const WeightPlan& w) {
  std::string text;
  if (w.solver != Solver::kRtn) {
    text += w.solver == Solver::kGptq ? "; gptq" : "; gptaq";
    if (w.act_order) text += ", act-order";
  }
  if (w.solver != Solver::kRtn || w.aser.on()) text += ", damping " + number(w.damping);
  if (w.zigzag) text += "; zigzag";
  if (w.alpha_search) text += "; smoothquant alpha searched per input";
  if (w.fold) text += "; divisors folded into norms";
  if (!w.aser.on()) return text;
  text += w.aser.rank > 0 ? "; rank " + std::to_string(w.aser.rank)
                          : "; rank for share " + number(w.aser.alpha);
  if (w.aser.bits != 16) text += " in " + std::to_string(w.aser.bits) + " bits";
  if (w.aser.smoothed() > 0) {
    text += ", " + std::to_string(w.aser.smoothed()) + " outliers smoothed";
  }
  return text;
}

std::string describe(const Method& m) {
  if (m.kind == LinearKind::kFloat) {
    return m.qfep ? "float weights and activations; QFeP" : "float weights and activations";
  }
  LinearPlan plan{m.kind, m.scheme, m.weight};
  std::string exceptions;
  for (const Setting& s : m.settings) {
    if (is_method_setting(s.key)) continue;
    if (s.pattern.empty() && s.key != "fp") {
      apply_setting(s, &plan);
    } else {
      exceptions += "; " + s.pattern + ": " + s.key + (s.value.empty() ? "" : "=" + s.value);
    }
  }
  if (plan.weight.alpha_search) plan.scheme.smoothquant_alpha = 0.0f;  // named further on
  std::string text = describe(plan.scheme);
  if (m.kind == LinearKind::kSimulatedRs) {
    text = "simulated in float, one smoothing scale per channel; " + text;
  }
  if (m.kind == LinearKind::kNative) {
    text = activation_text(plan.scheme.activation) + "; file's weights";
  }
  text += describe(plan.weight);
  if (m.recipe) text += "; precision per module from a recipe";
  if (m.qfem) text += "; QFeM, exempt modules at " + std::to_string(m.qfem_bits) + " bits";
  if (m.qfep) text += "; QFeP";
  if (m.token_qkv) text += "; q, k, v per token";
  return text + exceptions;
}

}  // namespace rrs_llm
