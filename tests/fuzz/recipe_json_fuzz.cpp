// Any bytes as a recipe: what is accepted is written and read back the same, and expands to a plan
// for every linear or is refused.
#include "fuzz.hpp"

#include <stdexcept>
#include <string>

#include "llm/engine.hpp"
#include "llm/quantized_file.hpp"
#include "llm/recipe.hpp"

// Two small functions of files that would bring the whole engine with them. The first is asked for
// by check_recipe_model only.
std::string rrs_llm::model_fingerprint(const ModelSource&) { return {}; }
std::string rrs_llm::linear_name(std::size_t layer, std::size_t linear) {
  return "blk." + std::to_string(layer) + "." + kLinearNames[linear];
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  rrs_llm::Recipe recipe;
  try {
    recipe = rrs_llm::parse_recipe(text, "recipe.json");
  } catch (const std::runtime_error&) {
    return 0;
  }
  const std::string written = rrs_llm::recipe_text(recipe);
  const rrs_llm::Recipe again = rrs_llm::parse_recipe(written, "written");  // must not throw
  fuzz::require(rrs_llm::recipe_text(again) == written, "a written recipe is read back the same");
  try {
    const rrs_llm::Method method = rrs_llm::recipe_method(recipe, "", {});
    std::string all = rrs_llm::describe(method);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      for (std::size_t linear = 0; linear < rrs_llm::kLinearsPerLayer; ++linear) {
        const rrs_llm::LinearPlan plan = method.plan(layer, linear);
        all += rrs_llm::describe(plan.scheme) + rrs_llm::describe(plan.weight);
      }
    }
    fuzz::require(!all.empty(), "a method has a description");
  } catch (const std::runtime_error&) {
  }
  return 0;
}
