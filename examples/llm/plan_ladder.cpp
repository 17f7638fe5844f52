#include "plan_ladder.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace rrs_llm {
namespace {

double slope(const Upgrade& u) {
  return u.costs > 0.0 ? u.saves / u.costs : std::numeric_limits<double>::infinity();
}

bool better(const Upgrade& a, const Upgrade& b) {
  const double x = slope(a), y = slope(b);
  return x != y ? x > y : a.saves > b.saves;
}

// The best step of one module from option `from`; false when nothing saves anything.
bool next_upgrade(const Ladder& ladder, std::size_t module, std::size_t from, Upgrade* best) {
  const std::vector<double>& damage = ladder.damage[module];
  bool found = false;
  for (std::size_t to = 0; to < damage.size(); ++to) {
    Upgrade u{module, from, to, damage[from] - damage[to],
              ladder.weight[module] * (ladder.cost[module][to] - ladder.cost[module][from])};
    if (!(u.saves > 0.0)) continue;
    if (!found || better(u, *best)) *best = u;
    found = true;
  }
  return found;
}

void check(const Ladder& ladder) {
  const std::size_t modules = ladder.weight.size();
  bool good = ladder.cost.size() == modules && ladder.damage.size() == modules;
  for (std::size_t m = 0; good && m < modules; ++m) {
    good = !ladder.cost[m].empty() && ladder.cost[m].size() == ladder.damage[m].size();
  }
  if (!good) {
    throw std::runtime_error("ladder: costs and damages do not fit its " + std::to_string(modules) +
                             " modules");
  }
}

}  // namespace

std::vector<Upgrade> order_upgrades(const Ladder& ladder) {
  check(ladder);
  std::vector<Upgrade> all;
  for (std::size_t m = 0; m < ladder.weight.size(); ++m) {
    Upgrade u;
    for (std::size_t at = 0; next_upgrade(ladder, m, at, &u); at = u.to) all.push_back(u);
  }
  // Along one module slopes fall (strictly, but for free upgrades), so the order within it stays.
  std::stable_sort(all.begin(), all.end(),
                   [](const Upgrade& a, const Upgrade& b) { return slope(a) > slope(b); });
  return all;
}

double base_cost(const Ladder& ladder) {
  double sum = 0.0;
  for (std::size_t m = 0; m < ladder.weight.size(); ++m) {
    sum += ladder.weight[m] * ladder.cost[m].front();
  }
  return sum;
}

double cost_after(const std::vector<Upgrade>& upgrades, std::size_t count, double base) {
  for (std::size_t i = 0; i < count; ++i) base += upgrades[i].costs;
  return base;
}

std::size_t upgrades_within(const std::vector<Upgrade>& upgrades, double base, double budget) {
  constexpr double kRounding = 1e-9;  // sums of shares of 1
  std::size_t count = 0;
  while (count < upgrades.size() && base + upgrades[count].costs <= budget + kRounding) {
    base += upgrades[count].costs;
    ++count;
  }
  return count;
}

std::vector<std::size_t> options_after(const std::vector<Upgrade>& upgrades, std::size_t count,
                                       std::size_t modules) {
  std::vector<std::size_t> options(modules, 0);
  for (std::size_t i = 0; i < count; ++i) options[upgrades[i].module] = upgrades[i].to;
  return options;
}

}  // namespace rrs_llm
