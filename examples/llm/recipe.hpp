#pragma once
// A precision recipe: a base method and the modules that get other settings, in a JSON file.
//
//   {"format": "rrs-llm recipe", "version": 1, "model": "0123456789abcdef", "model_name": "...",
//    "method": "rrs", "cost": "bits", "mean_cost": 4.49,
//    "settings": [{"pattern": "blk.11.ffn_down", "set": "activation-bits=8"}, ...],
//    "log": [{"module": "blk.11.ffn_down", "set": "...", "saves": 0.0021, "mean_cost": 4.05}, ...],
//    "measured": [{"module": "blk.0.attn_q", "set": "", "damage": 0.002, "saves": 0, "cost": 0},
//    ...], "held_out": {...}}
//
// From: `plan`, `doctor`, or a person; to: method rrs-plan, and so perplexity, quantize and
// generate with --recipe. One setting and one step of the log a line, so that recipes diff well.
// `settings` is all that counts when it is read: what --override takes, in order; "log", "measured"
// and "held_out" say why. A recipe names the model it was made for (model_fingerprint) and is
// refused for any other.

#include <cstddef>
#include <string>
#include <vector>

#include "method.hpp"
#include "model_source.hpp"

namespace rrs_llm {

inline constexpr const char* kRecipeFormat = "rrs-llm recipe";
inline constexpr int kRecipeVersion = 1;

struct RecipeSetting {
  std::string pattern;  // "" is every linear
  std::string set;      // "activation-bits=8", several separated by commas
};

// One exception of the search, in the order in which they were taken.
struct RecipeStep {
  std::string module;
  std::string set;
  double saves = 0.0;      // KL divergence, measured with this module alone changed
  double mean_cost = 0.0;  // of the whole model with this step and those before it
};

// What the search measured of one module at one setting, whether it was chosen or not.
struct RecipeMeasurement {
  std::string module;
  std::string set;      // "" is the base
  double damage = 0.0;  // KL divergence, with this module alone at it
  double saves = 0.0;   // the base's damage less this one
  double cost = 0.0;    // added to the mean cost
};

// Measured on text that the search did not see.
struct RecipeCheck {
  std::size_t windows = 0;
  std::size_t context = 0;
  double uniform_kl = 0.0;
  double recipe_kl = 0.0;
  double saved = 0.0;           // mean over windows of the difference
  double standard_error = 0.0;  // of that mean
  double uniform_perplexity = 0.0;
  double recipe_perplexity = 0.0;
  double fp_perplexity = 0.0;
};

struct Recipe {
  std::string model;       // model_fingerprint
  std::string model_name;  // for people
  std::string method;      // name of the base method, without settings
  std::string cost;        // what mean_cost counts: "bits", or an ISA level's name
  double mean_cost = 0.0;
  std::string verdict;  // one sentence
  std::vector<RecipeSetting> settings;
  std::vector<RecipeStep> log;
  std::vector<RecipeMeasurement> measured;
  RecipeCheck held_out;  // windows is 0: not measured
};

std::string recipe_text(const Recipe& recipe);
// Throws naming `where` (the file) and what is wrong: syntax, field, type, setting.
Recipe parse_recipe(const std::string& text, const std::string& where);
Recipe read_recipe(const std::string& path);

// "rrs-plan", "rrs_plan", with whatever follows.
bool is_recipe_method(const std::string& text);
// The FILE of "@recipe=FILE" in a method's text; empty where it names none.
std::string recipe_path(const std::string& method);
// "rrs-plan" with "@recipe=FILE" and, perhaps, suffixes that go to the base method and settings
// that come after the recipe's. Throws when no file is named.
Method make_recipe_method(const std::string& text, const std::vector<Setting>& common);
// The recipe as a method; `more` settings follow its own.
Method recipe_method(const Recipe& recipe, const std::string& suffixes,
                     const std::vector<Setting>& more);
// Throws when the method comes from a recipe for another model.
void check_recipe_model(const Method& method, const ModelSource& model);

}  // namespace rrs_llm
