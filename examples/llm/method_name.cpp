#include "method.hpp"

#include <stdexcept>
#include <string>

#include "../support/quoted_name.hpp"
#include "recipe.hpp"
#include "rrs/core/presets.hpp"

namespace rrs_llm {
namespace {

constexpr const char* kNativeName = "q4_0_native";

std::string with_underscores(std::string name) {
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
}

// The file's own weights: only the activation side may be changed.
void check_native(const std::vector<Setting>& settings) {
  for (const Setting& s : settings) {
    const bool weight_side =
        s.key.rfind("weight-", 0) == 0 || s.key == "rotation" || s.key == "sign-seed" ||
        s.key == "solver" || s.key == "act-order" || s.key == "zigzag" || s.key == "damping" ||
        s.key.rfind("rank", 0) == 0 || s.key == "outliers" || s.key == "alpha" || s.key == "fold";
    if (weight_side) {
      throw std::runtime_error("setting " + rrs_examples::quoted_name(s.key) +
                               ": q4_0-native takes the weights as the file holds them");
    }
  }
}

// One suffix of a name; `written` is how tables spell it.
struct Suffix {
  const char* with_underscores;
  const char* written;
  bool solves;  // for the weights: one of them
  void (*apply)(Method* m);
};

constexpr Suffix kSuffixes[] = {
    {"_gptq", "-gptq", true, [](Method* m) { m->weight.solver = Solver::kGptq; }},
    {"_gptaq", "-gptaq", true, [](Method* m) { m->weight.solver = Solver::kGptaq; }},
    {"_actorder", "-actorder", false, [](Method* m) { m->weight.act_order = true; }},
    {"_zigzag", "-zigzag", false, [](Method* m) { m->weight.zigzag = true; }},
    {"+aser", "+aser", false,
     [](Method* m) {
       m->weight.aser = AserSpec{64, 0.0, AserSpec::kAutoOutliers};
     }},
    {"+qfem", "+qfem", false, [](Method* m) { m->qfem = true; }},
    {"+qfep", "+qfep", false, [](Method* m) { m->qfep = true; }},
};

// Takes the last suffix off `name`, if there is one.
const Suffix* take_suffix(std::string* name) {
  for (const Suffix& s : kSuffixes) {
    const std::string text = s.with_underscores;
    if (name->size() > text.size() &&
        name->compare(name->size() - text.size(), text.size(), text) == 0) {
      name->resize(name->size() - text.size());
      return &s;
    }
  }
  return nullptr;
}

// "-gptq-gptaq" would be the last of them under both names; a suffix twice is a slip, too.
void check_suffixes(const std::string& asked, const std::vector<const Suffix*>& suffixes) {
  for (std::size_t i = 0; i < suffixes.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (suffixes[i] != suffixes[j] && !(suffixes[i]->solves && suffixes[j]->solves)) continue;
      throw std::runtime_error("method " + rrs_examples::quoted_name(asked) + ": " +
                               suffixes[j]->written + " and " + suffixes[i]->written +
                               " do not go together");
    }
  }
}

// Published ASER: weights per output channel, activations per token, not rotated.
void make_aser(int activation_bits, Method* m) {
  m->preset = "rtn";
  m->scheme = rrs::presets::rtn();
  m->scheme.activation.bits = activation_bits;
  m->weight.aser = AserSpec{64, 0.0, AserSpec::kAutoOutliers};
}

// SmoothQuant with one activation scale per call instead of one per token.
void make_tensor_smoothquant(Method* m) {
  m->preset = "smoothquant_w8a8";
  m->scheme = rrs::presets::smoothquant_w8a8();
  m->scheme.activation.window.kind = rrs::WindowKind::kWhole;
  m->scheme.activation.token_scale = false;
}

// Names that are not presets of the library.
struct Named {
  const char* name;
  void (*make)(Method* m);
};

constexpr Named kNamed[] = {
    {"gptq_w4a16",
     [](Method* m) {
       m->preset = "rrs_w4a16";
       m->scheme = rrs::presets::rrs_w4a16();
       m->weight.solver = Solver::kGptq;
     }},
    {"aser_w4a8", [](Method* m) { make_aser(8, m); }},
    {"aser_w4a6", [](Method* m) { make_aser(6, m); }},
    {"smoothquant_w8a8_tensor", make_tensor_smoothquant},
    {"rrs_plan",
     [](Method* m) {
       m->preset = "rrs";
       m->scheme = rrs::presets::rrs();
       m->recipe = true;
     }},
};

void make_native(Method* m) {
  m->text = "q4_0-native";
  m->preset = kNativeName;
  m->kind = LinearKind::kNative;
  m->scheme.rotation.kind = rrs::RotationKind::kNone;
  m->scheme.activation.bits = 8;
}

// False when `m->text` is none of them.
bool make_named(Method* m) {
  if (m->text == kNativeName) {
    make_native(m);
    return true;
  }
  for (const Named& named : kNamed) {
    if (m->text != named.name) continue;
    named.make(m);
    return true;
  }
  return false;
}

void make_preset(const std::string& asked, Method* m) {
  const rrs::Result<rrs::Scheme> preset = rrs::presets::by_name(m->text.c_str());
  if (!preset) {
    throw std::runtime_error("method " + rrs_examples::quoted_name(asked) + " is not one of " +
                             name_help());
  }
  m->preset = m->text;
  m->scheme = *preset;
  m->token_qkv = m->preset == "rs" || m->preset == "rrs_published";
  if (m->scheme.simulated) m->kind = LinearKind::kSimulatedRs;
}

}  // namespace

std::vector<std::string> method_names() {
  std::vector<std::string> names{"fp"};
  rrs::presets::for_each([&](const rrs::NamedPreset& p) { names.emplace_back(p.name); });
  names.emplace_back("q4_0-native");
  return names;
}

std::string name_help() {
  std::string text;
  for (const std::string& known : method_names()) text += (text.empty() ? "" : ", ") + known;
  for (const Named& named : kNamed) {
    const std::string name = named.name;
    text += name == "rrs_plan" ? ", rrs-plan (with --recipe)" : ", " + name;
  }
  text += "; suffixes of all but q4_0-native (of fp: +qfep):";
  for (const Suffix& s : kSuffixes) text += std::string(" ") + s.written;
  return text;
}

Method parse_method(const std::string& text, const std::vector<Setting>& common) {
  const std::size_t at = text.find('@');
  Method m;
  m.settings = common;
  if (at != std::string::npos) {
    for (const Setting& s : parse_settings("", text.substr(at + 1), '@')) m.settings.push_back(s);
  }
  const std::string asked = text.substr(0, at);
  m.text = with_underscores(asked);
  std::vector<const Suffix*> suffixes;
  // gptq_w4a16 and the like are names of their own, so suffixes come off the end only.
  while (const Suffix* s = take_suffix(&m.text)) suffixes.insert(suffixes.begin(), s);
  check_suffixes(asked, suffixes);
  if (m.text == "fp") {
    m.settings.clear();
    if (at != std::string::npos) throw std::runtime_error("method fp: takes no settings");
    m.name = m.preset = m.text;
    for (const Suffix* s : suffixes) {
      s->apply(&m);
      m.name = m.text = "fp+qfep";
    }
    if (suffixes.size() > 1 || (suffixes.size() == 1 && !m.qfep)) {
      throw std::runtime_error("method fp: takes no suffix but +qfep");
    }
    return m;
  }
  m.kind = LinearKind::kRrs;
  if (!make_named(&m)) make_preset(asked, &m);
  if (m.kind == LinearKind::kNative) {
    check_native(m.settings);
    if (!suffixes.empty()) throw std::runtime_error("method q4_0-native: takes no suffixes");
  }
  for (const Suffix* s : suffixes) {
    s->apply(&m);
    m.text += s->written;
  }
  for (const Setting& s : m.settings) {
    if (!is_method_setting(s.key)) continue;
    apply_setting(s, &m);
    if (s.key.rfind("qfem-", 0) == 0 ? !m.qfem : !m.qfep) {
      throw std::runtime_error("setting " + rrs_examples::quoted_name(s.key) + ": method " +
                               m.text + " has no +" + s.key.substr(0, 4));
    }
  }
  m.name = at == std::string::npos ? m.text : m.text + text.substr(at);
  return m;
}

Method make_method(const std::string& text, const std::vector<Setting>& common) {
  if (is_recipe_method(text)) return make_recipe_method(text, common);
  Method m = parse_method(text, common);
  if (m.weight.act_order && !m.has_solver()) {
    throw std::runtime_error("method " + m.name +
                             ": -actorder is the order in which a solver takes columns, and there "
                             "is none: add -gptq or -gptaq");
  }
  return m;
}

}  // namespace rrs_llm
