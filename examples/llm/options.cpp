#include "options.hpp"

#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include <CLI/CLI.hpp>

#include "../support/quoted_name.hpp"
#include "recipe.hpp"

namespace rrs_llm {
namespace {

void add_setting(CLI::App* app, Options* o, const char* key, const char* help) {
  app->add_option_function<std::string>(
         std::string("--") + key,
         [o, key](const std::string& value) {
           o->settings.push_back(Setting{"", key, value});
         },
         help)
      ->group("Scheme");
}

void add_scheme_options(CLI::App* app, Options* o) {
  add_setting(app, o, "activation-bits", "2 to 8, or 16 (not quantized)");
  add_setting(app, o, "activation-group", "16, 32, 64, 128, 256 or row");
  add_setting(app, o, "window", "one, whole or rows:N: tokens that share smoothing scales");
  add_setting(app, o, "token-scale", "0: no scale per token (windows whole and rows:N)");
  add_setting(app, o, "rotation", "none, full or block:N");
  add_setting(app, o, "range", "symmetric or full: how a scale is found, activations");
  add_setting(app, o, "clip", "above 0, at most 1: of the activations' range");
  add_setting(app, o, "weight-bits", "4 or 8");
  add_setting(app, o, "weight-group", "16, 32, 64, 128, 256 or row (per output channel)");
  add_setting(app, o, "weight-range", "symmetric or full");
  add_setting(app, o, "weight-scale", "absmax or search");
  add_setting(app, o, "floor", "least smoothing scale of wide windows (published: 1e-5)");
  add_setting(app, o, "exact-reference", "1: channels sorted in every call (window whole)");
  add_setting(app, o, "sign-seed", "random signs before the rotation, from this seed");
  add_setting(app, o, "act-order", "0 or 1: GPTQ takes columns in order of falling diagonal");
  add_setting(app, o, "damping", "of GPTQ's Hessian, times the mean of its diagonal");
  add_setting(app, o, "rank", "of the low-rank error term; 0: none");
  add_setting(app, o, "rank-bits", "16 or 8: of its elements");
  app->add_option("--override", o->overrides,
                  "PATTERN=SETTING[,SETTING...] for some linears: 'ffn_down=a8', 'blk.0=fp', "
                  "'blk.2?.ffn_*=a8,clip=0.95'")
      ->group("Scheme");
}

// Methods are named, and none has a scheme.
bool only_float(const Options& o) {
  const std::vector<std::string> texts = method_texts(o);
  const auto is_float = [](const std::string& text) {
    return !is_recipe_method(text) && parse_method(text, {}).kind == LinearKind::kFloat;
  };
  return !texts.empty() && std::all_of(texts.begin(), texts.end(), is_float);
}

// What a method's own text sets: the last of its settings.
std::vector<Setting> own_settings(const std::string& text, const Method& method) {
  auto count = std::count(text.begin(), text.end(), '@');
  if (text.find("@recipe=") != std::string::npos) --count;
  return {method.settings.end() - count, method.settings.end()};
}

// Settings and windows that nothing takes up would be ignored in silence. A method's own must be
// for itself, the others for one of the methods.
void check_used(const Options& o, const std::vector<Setting>& common,
                const std::vector<Setting>& added) {
  std::vector<std::string> texts = method_texts(o);
  if (texts.empty()) texts.emplace_back("rrs");
  std::vector<Setting> all = common;
  all.insert(all.end(), added.begin(), added.end());
  std::vector<Method> methods;
  methods.reserve(texts.size());
  for (const std::string& text : texts) methods.push_back(make_method(text, all));
  const auto refuse = [](const Setting& s, const std::string& who) {
    const bool branch = s.key == "rank-bits" || s.key == "outliers";
    throw std::runtime_error("setting " + rrs_examples::quoted_name(s.key) + ": " + who +
                             " takes it: that needs " +
                             (branch               ? "+aser or rank"
                              : s.key == "damping" ? "-gptq, -gptaq or +aser"
                                                   : "-gptq or -gptaq"));
  };
  for (std::size_t i = 0; i < methods.size(); ++i) {
    for (const Setting& s : own_settings(texts[i], methods[i])) {
      if (!methods[i].uses(s.key)) refuse(s, "nothing in method " + methods[i].name);
    }
  }
  // To calibrate or to search; with a log also to say what a given prefix does.
  const auto reads_text = [&](const Method& m) {
    return m.needs_calibration() || m.qfem ||
           (m.qfep && (m.qfep_tokens.empty() || o.session.spike_log));
  };
  if (o.calibration_windows_given && std::none_of(methods.begin(), methods.end(), reads_text)) {
    throw std::runtime_error(
        "--calibration-windows: no method takes it: none calibrates or searches for spike tokens");
  }
  for (const Setting& s : common) {
    const auto uses = [&](const Method& m) { return m.uses(s.key); };
    if (std::none_of(methods.begin(), methods.end(), uses)) refuse(s, "no method");
  }
}

}  // namespace

void add_session_options(CLI::App* app, Options* o) {
  app->add_option("--model", o->session.model, "a GGUF file or a Hugging Face folder")->required();
  app->add_option("--threads", o->session.threads, "0: as many as the machine has")
      ->check(CLI::Range(0, 1024));
}

void add_method_options(CLI::App* app, Options* o, bool several) {
  auto* method = app->add_option(
      "--method", o->methods,
      name_help() + ". Settings of one method follow it: rrs@sign-seed=1@clip=0.95");
  if (several) {
    method->delimiter(',');
  } else {
    method->expected(1);
  }
  app->add_option("--calibration", o->session.calibration,
                  "text for methods that calibrate; by default examples/data/wiki.valid.txt");
  app->add_option_function<std::size_t>(
         "--calibration-windows",
         [o](std::size_t count) {
           o->session.calibration_windows = count;
           // The searches' share of windows for perplexities stays a quarter.
           o->session.spikes.windows = count;
           o->session.spikes.search_windows = (std::max)(count / 4, std::size_t{1});
           o->calibration_windows_given = true;
         },
         "windows of 1024 tokens, spread over the text; by default 16, of +qfem and +qfep 8")
      ->check(CLI::Range(1, 65536));
  app->add_flag_callback(
      "--spike-log", [o] { o->session.spike_log = [](const std::string& t) { print(t + "\n"); }; },
      "print what QFeM's and QFeP's searches tried");
  add_scheme_options(app, o);
}

void add_kv_option(CLI::App* app, Options* o) {
  app->add_option("--kv", o->session.kv.bits, "bits of the KV cache: 16, 8 or 4")
      ->check(CLI::IsMember({16, 8, 4}));
  app->add_option_function<std::string>(
         "--kv-group",
         [o](const std::string& value) {
           o->session.kv.group = value == "head"    ? rrs::kKvHeadGroup
                                 : value == "token" ? rrs::kKvTokenGroup
                                                    : std::stoi(value);
         },
         "values of the KV cache that share a scale: 16, 32, 64, 128, 256 (at most a head), head "
         "or "
         "token; by default the preset's")
      ->check(CLI::IsMember({"16", "32", "64", "128", "256", "head", "token"}));
  app->add_option("--kv-value-bits", o->session.kv.value_bits,
                  "bits of the values alone: 16, 8 or 4; by default as --kv")
      ->check(CLI::IsMember({16, 8, 4}));
}

void exclude_method_options(CLI::App* app, CLI::Option* weights) {
  const auto decides = [](const CLI::Option* option) {
    const std::string name = option->get_name();
    return option->get_group() == "Scheme" || name == "--method" || name == "--recipe" ||
           name == "--calibration" || name == "--calibration-windows" || name == "--spike-log";
  };
  for (CLI::Option* option : app->get_options(decides)) weights->excludes(option);
}

std::vector<Setting> all_settings(const Options& o, const std::vector<Setting>& added) {
  std::vector<Setting> settings = o.settings;
  for (const std::string& text : o.overrides) {
    for (const Setting& s : parse_override(text)) settings.push_back(s);
  }
  if (!settings.empty() && only_float(o)) {
    throw std::runtime_error("--" + (o.settings.empty() ? "override" : o.settings.front().key) +
                             ": no method takes it: fp has float weights and activations");
  }
  check_used(o, settings, added);
  return settings;
}

void add_recipe_option(CLI::App* app, Options* o) {
  app->add_option("--recipe", o->recipe,
                  "precision per module, from a file that plan wrote: method rrs-plan");
}

std::vector<std::string> method_texts(const Options& o) {
  std::vector<std::string> texts = o.methods;
  bool used = o.recipe.empty();
  for (std::string& text : texts) {
    if (!is_recipe_method(text) || text.find("@recipe=") != std::string::npos) continue;
    if (!o.recipe.empty()) text += "@recipe=" + o.recipe;
    used = true;
  }
  if (!used) texts.push_back("rrs-plan@recipe=" + o.recipe);
  return texts;
}

std::string only_method(const Options& o) {
  const std::vector<std::string> texts = method_texts(o);
  if (texts.size() > 1) {
    throw std::runtime_error("--recipe: the recipe names its method; leave out --method");
  }
  return texts.empty() ? "rrs" : texts.front();
}

CLI::Option* add_output_option(CLI::App* app, const std::string& name, std::string* path,
                               const std::string& help) {
  const auto named = [](const std::string& value) {
    return value.empty() ? std::string("the file name is empty") : std::string();
  };
  return app->add_option(name, *path, help)->check(named);
}

std::vector<rrs_examples::NamedPath> input_files(const Options& o) {
  std::vector<rrs_examples::NamedPath> inputs{
      {"--model", o.session.model},
      {o.session.calibration.empty() ? "--calibration (by default)" : "--calibration",
       calibration_path(o.session)},
      {"--text", o.text},
      {"--weights", o.weights},
      {"--recipe", o.recipe}};
  for (const std::string& method : o.methods) {
    inputs.push_back({"--method ...@recipe", recipe_path(method)});
  }
  return inputs;
}

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace rrs_llm
