#pragma once
// Which modules get more precision first: pure arithmetic on measured numbers.
//
// Each module has options; option 0 is the base, which all start from. Damage of an option: KL
// divergence that it causes, measured with this module alone. From where a module stands, its next
// upgrade is the option that saves most damage per cost (the lower convex hull of its options); all
// modules' upgrades are then taken in order of falling gain per cost. So the choice for a larger
// budget contains that for a smaller one, and no upgrade raises the damage.
// A budget ends the list at the first upgrade that does not fit; smaller ones behind it that would
// fit are not taken. Nested choices form one order, of which a budget can only hold a beginning:
// with upgrades of cost 2 and 1 in this order, budget 1 would take the second, budget 2 the first
// alone, without it. What is left unspent is less than the cost of that one upgrade.

#include <cstddef>
#include <vector>

namespace rrs_llm {

struct Ladder {
  std::vector<double> weight;               // per module: its share of all MACs, sums to 1
  std::vector<std::vector<double>> cost;    // [module][option], per MAC
  std::vector<std::vector<double>> damage;  // [module][option]
};

struct Upgrade {
  std::size_t module = 0;
  std::size_t from = 0;
  std::size_t to = 0;
  double saves = 0.0;
  double costs = 0.0;  // added to the mean; 0 or less where more precision is free
};

// All upgrades, best first; ties by module. NaN damages are never chosen. Throws when sizes differ.
std::vector<Upgrade> order_upgrades(const Ladder& ladder);
// Mean cost with every module at its base.
double base_cost(const Ladder& ladder);
// How many of the upgrades, from the first to the last before one that does not fit, keep the mean
// cost at or below the budget.
std::size_t upgrades_within(const std::vector<Upgrade>& upgrades, double base, double budget);
// Option of each module after the first `count` upgrades.
std::vector<std::size_t> options_after(const std::vector<Upgrade>& upgrades, std::size_t count,
                                       std::size_t modules);
double cost_after(const std::vector<Upgrade>& upgrades, std::size_t count, double base);

}  // namespace rrs_llm
