#include "recipe.hpp"

#include <cmath>
#include <stdexcept>
#include <utility>

#include <nlohmann/json.hpp>

#include "../support/json_strict.hpp"
#include "../support/mapped_file.hpp"
#include "../support/quoted_name.hpp"
#include "quantized_file.hpp"

namespace rrs_llm {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void fail(const std::string& where, const std::string& problem) {
  throw std::runtime_error(where + ": " + problem);
}

// Six significant digits: enough for every reader, and stable in diffs.
double rounded(double value) {
  if (!std::isfinite(value) || value == 0.0) return 0.0;
  const double unit = std::pow(10.0, 5.0 - std::floor(std::log10(std::fabs(value))));
  return std::nearbyint(value * unit) / unit;
}

Json check_json(const RecipeCheck& c) {
  Json j;
  j["windows"] = c.windows;
  j["context"] = c.context;
  j["uniform_kl"] = rounded(c.uniform_kl);
  j["recipe_kl"] = rounded(c.recipe_kl);
  j["saved"] = rounded(c.saved);
  j["standard_error"] = rounded(c.standard_error);
  j["uniform_perplexity"] = rounded(c.uniform_perplexity);
  j["recipe_perplexity"] = rounded(c.recipe_perplexity);
  j["fp_perplexity"] = rounded(c.fp_perplexity);
  return j;
}

// `"name": [` and one element a line.
std::string lines_of(const char* name, const std::vector<Json>& elements) {
  std::string text = std::string(" \"") + name + "\": [";
  for (std::size_t i = 0; i < elements.size(); ++i) {
    text += (i == 0 ? "\n  " : ",\n  ") + elements[i].dump();
  }
  return text + (elements.empty() ? "]" : "\n ]");
}

// A member of an object of the file, with its place for messages.
class Reader {
 public:
  Reader(const nlohmann::json& object, std::string where)
      : object_(object), where_(std::move(where)) {
    if (!object.is_object()) fail(where_, "is not an object");
  }

  const nlohmann::json& require(const char* name) const {
    const auto at = object_.find(name);
    if (at == object_.end()) fail(where_, std::string("'") + name + "' is missing");
    return *at;
  }
  std::string text(const char* name) const {
    const nlohmann::json& value = require(name);
    if (!value.is_string()) fail(where_, std::string("'") + name + "' is not a string");
    return value.get<std::string>();
  }
  double number(const char* name) const {
    const nlohmann::json& value = require(name);
    if (!value.is_number()) fail(where_, std::string("'") + name + "' is not a number");
    return value.get<double>();
  }
  std::size_t count(const char* name) const {
    const nlohmann::json& value = require(name);
    if (!value.is_number_unsigned()) fail(where_, std::string("'") + name + "' is not a count");
    return value.get<std::size_t>();
  }
  bool has(const char* name) const { return object_.find(name) != object_.end(); }

  // One Reader per element of an array.
  template <class Each>
  void each(const char* name, const Each& each) const {
    const nlohmann::json& array = require(name);
    if (!array.is_array()) fail(where_, std::string("'") + name + "' is not an array");
    for (std::size_t i = 0; i < array.size(); ++i) {
      each(Reader(array[i], where_ + ", " + name + "[" + std::to_string(i) + "]"));
    }
  }
  const std::string& where() const { return where_; }

 private:
  const nlohmann::json& object_;
  std::string where_;
};

RecipeCheck read_check(const Reader& r) {
  RecipeCheck c;
  c.windows = r.count("windows");
  c.context = r.count("context");
  c.uniform_kl = r.number("uniform_kl");
  c.recipe_kl = r.number("recipe_kl");
  c.saved = r.number("saved");
  c.standard_error = r.number("standard_error");
  c.uniform_perplexity = r.number("uniform_perplexity");
  c.recipe_perplexity = r.number("recipe_perplexity");
  c.fp_perplexity = r.number("fp_perplexity");
  return c;
}

RecipeSetting read_setting(const Reader& r) {
  RecipeSetting s{r.text("pattern"), r.text("set")};
  try {
    parse_settings(s.pattern, s.set, ',');
  } catch (const std::runtime_error& error) {
    fail(r.where(), error.what());
  }
  return s;
}

void check_format(const Reader& r) {
  const std::string format = r.text("format");
  if (format != kRecipeFormat) {
    fail(r.where(),
         "'format' is " + rrs_examples::quoted_name(format) + ", not \"" + kRecipeFormat + "\"");
  }
  if (r.number("version") != kRecipeVersion) {
    fail(r.where(), "'version' is " + r.require("version").dump() + ", this program reads " +
                        std::to_string(kRecipeVersion));
  }
}

constexpr char kRecipeKey[] = "@recipe=";

// Takes "@recipe=FILE" out of the text.
std::string take_recipe(std::string* text) {
  std::string path = recipe_path(*text);
  if (path.empty()) {
    throw std::runtime_error("method " + *text +
                             " needs a recipe: --recipe FILE, or rrs-plan@recipe=FILE "
                             "(rrs-llm plan writes one)");
  }
  text->erase(text->find(kRecipeKey), std::string(kRecipeKey).size() + path.size());
  return path;
}

}  // namespace

std::string recipe_text(const Recipe& recipe) {
  Json head;
  head["format"] = kRecipeFormat;
  head["version"] = kRecipeVersion;
  head["model"] = recipe.model;
  head["model_name"] = recipe.model_name;
  head["method"] = recipe.method;
  head["cost"] = recipe.cost;
  head["mean_cost"] = rounded(recipe.mean_cost);
  head["verdict"] = recipe.verdict;
  // Names of files need not be UTF-8.
  std::string text = head.dump(1, ' ', false, Json::error_handler_t::replace);
  text.resize(text.size() - 2);  // "\n}"
  std::vector<Json> settings, steps;
  for (const RecipeSetting& s : recipe.settings) {
    settings.push_back(Json{{"pattern", s.pattern}, {"set", s.set}});
  }
  for (const RecipeStep& s : recipe.log) {
    steps.push_back(Json{{"module", s.module},
                         {"set", s.set},
                         {"saves", rounded(s.saves)},
                         {"mean_cost", rounded(s.mean_cost)}});
  }
  std::vector<Json> measured;
  measured.reserve(recipe.measured.size());
  for (const RecipeMeasurement& m : recipe.measured) {
    measured.push_back(Json{{"module", m.module},
                            {"set", m.set},
                            {"damage", rounded(m.damage)},
                            {"saves", rounded(m.saves)},
                            {"cost", rounded(m.cost)}});
  }
  text += ",\n" + lines_of("settings", settings) + ",\n" + lines_of("log", steps);
  if (!measured.empty()) text += ",\n" + lines_of("measured", measured);
  if (recipe.held_out.windows > 0) {
    text += ",\n \"held_out\": " + check_json(recipe.held_out).dump();
  }
  return text + "\n}\n";
}

Recipe parse_recipe(const std::string& text, const std::string& where) {
  const nlohmann::json json = rrs_examples::parse_json_strict(text, where);
  const Reader r(json, where);
  check_format(r);
  Recipe recipe;
  recipe.model = r.text("model");
  recipe.model_name = r.has("model_name") ? r.text("model_name") : "";
  recipe.method = r.text("method");
  recipe.cost = r.has("cost") ? r.text("cost") : "bits";
  recipe.mean_cost = r.has("mean_cost") ? r.number("mean_cost") : 0.0;
  recipe.verdict = r.has("verdict") ? r.text("verdict") : "";
  if (recipe.method.find('@') != std::string::npos || is_recipe_method(recipe.method)) {
    fail(where, "'method' is " + rrs_examples::quoted_name(recipe.method) +
                    ", not the plain name of a base method (settings go into 'settings')");
  }
  r.each("settings", [&](const Reader& s) { recipe.settings.push_back(read_setting(s)); });
  if (r.has("log")) {
    r.each("log", [&](const Reader& s) {
      recipe.log.push_back(
          RecipeStep{s.text("module"), s.text("set"), s.number("saves"), s.number("mean_cost")});
    });
  }
  if (r.has("measured")) {
    r.each("measured", [&](const Reader& s) {
      recipe.measured.push_back(RecipeMeasurement{s.text("module"), s.text("set"),
                                                  s.number("damage"), s.number("saves"),
                                                  s.number("cost")});
    });
  }
  if (r.has("held_out")) recipe.held_out = read_check(Reader(r.require("held_out"), where));
  return recipe;
}

Recipe read_recipe(const std::string& path) {
  const rrs_examples::MappedFile file(path);
  return parse_recipe(std::string(file.text()), path);
}

std::string recipe_path(const std::string& method) {
  const std::size_t at = method.find(kRecipeKey);
  if (at == std::string::npos) return "";
  const std::size_t first = at + std::string(kRecipeKey).size();
  const std::size_t end = (std::min)(method.find('@', first), method.size());
  return method.substr(first, end - first);
}

bool is_recipe_method(const std::string& text) {
  return text.rfind("rrs-plan", 0) == 0 || text.rfind("rrs_plan", 0) == 0;
}

Method recipe_method(const Recipe& recipe, const std::string& suffixes,
                     const std::vector<Setting>& more) {
  std::vector<Setting> settings;
  for (const RecipeSetting& s : recipe.settings) {
    for (const Setting& one : parse_settings(s.pattern, s.set, ',')) settings.push_back(one);
  }
  settings.insert(settings.end(), more.begin(), more.end());
  Method m = make_method(recipe.method + suffixes, settings);
  m.recipe = true;
  m.recipe_model = recipe.model;
  m.recipe_model_name = recipe.model_name;
  return m;
}

Method make_recipe_method(const std::string& text, const std::vector<Setting>& common) {
  std::string rest = text;
  const std::string path = take_recipe(&rest);
  const Recipe recipe = read_recipe(path);
  const std::size_t name_end = (std::min)(rest.find('@'), rest.size());
  const std::string suffixes =
      rest.substr(std::string("rrs-plan").size(), name_end - std::string("rrs-plan").size());
  std::vector<Setting> more = common;
  if (name_end < rest.size()) {
    for (const Setting& s : parse_settings("", rest.substr(name_end + 1), '@')) more.push_back(s);
  }
  Method m = recipe_method(recipe, suffixes, more);
  m.name = rest;
  return m;
}

void check_recipe_model(const Method& method, const ModelSource& model) {
  if (!method.recipe) return;
  const std::string found = model_fingerprint(model);
  if (found == method.recipe_model) return;
  throw std::runtime_error("method " + method.name + ": its recipe is for another model, " +
                           rrs_examples::quoted_name(method.recipe_model_name) + " (" +
                           rrs_examples::quoted_name(method.recipe_model) + "); " + model.path() +
                           " is " + found);
}

}  // namespace rrs_llm
