#pragma once
// Precision plan: activation bits (and groups, and low ranks) per module for the least KL
// divergence at a budget.
//
// From: Session, a calibration text; to: a Recipe and a report. 1. The base method and each option
// are prepared uniformly (they share the weights). 2. Two thirds of the text: damage of every
// module at every option (plan_measure.hpp). 3. Upgrades in order of gain per cost
// (plan_ladder.hpp), as many as the budget holds, or, with a tolerance, as few as are needed.
// 4. The last third: fp, base, plan and all-precise side by side. A plan whose KL divergence there
// is not below the base's is thrown away: the recipe is then the base method, with the log. All
// that step 2 measured is in the recipe, chosen or not.
// Cost of an option: activation bits, plus 16 / group - 16 / group of the base (a scale in 16
// bits); with an ISA level, 4 times the time of its kernel over that of 4-bit activations in groups
// of 32. A low-rank branch of rank r adds 16 r (N + K) / (N K) bits per weight (half at
// rank-bits=8); with a level, its r (N + K) float multiplications. Means are over MACs. With ranks
// the most precise module has the largest of them as well, and damages are measured from a model of
// such modules: what a module without its branch does to the predictions is then damage like that
// of fewer bits. Ranks are tried at the base's bits and at the most of up to 8. Branches come from
// the first two thirds of the text, like the search. A base that calibrates (GPTQ) without ranks to
// try does so on its own calibration text, all of it: the base's weights, which all contestants of
// step 4 share, have then seen the held-out third. What the plan saves there is a difference of
// activations alone; the perplexities beside it are a little too good.
// Groups and ranks are tried only when named: each is one more preparation of all weights and one
// more run of every module over all windows, a branch needs Hessians, and adds bytes to the file.

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "plan_ladder.hpp"
#include "recipe.hpp"
#include "session.hpp"

namespace rrs_llm {

struct PlanOptions {
  std::string method = "rrs";     // the base; without settings
  std::vector<Setting> settings;  // of the base
  double budget = 0.0;            // mean cost; 0: use the tolerance
  double tolerance = -1.0;        // share: 0.02 is 2 percent; negative: use the budget
  std::string isa;                // "": bits count
  std::vector<std::string> bits{"8", "16"};
  std::vector<std::string> groups;  // activation groups to try at the base's bits
  std::vector<std::string> ranks;   // low ranks to try; those above the base's
  std::size_t windows = 4;
  std::size_t context = 256;
  std::size_t held_out_windows = 12;
  std::size_t held_out_context = 512;
};

struct PlanResult {
  Recipe recipe;
  std::string report;
};

using PlanProgress = std::function<void(const std::string& what, double done, double all)>;

PlanResult make_plan(Session* session, const std::vector<TokenId>& tokens,
                     const PlanOptions& options, const PlanProgress& progress);

// Declared time per MAC of a level's kernel, relative to 4-bit activations in groups of 32.
// Throws for a level that has none.
double kernel_cost(const std::string& isa, const rrs::ActivationScheme& activation);
// The same of a branch's multiplications, in float.
double branch_cost(const std::string& isa);

}  // namespace rrs_llm
