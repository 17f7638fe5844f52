#include "bench_peers/results.hpp"

#include <cstddef>
#include <utility>

namespace rrs_bench {
namespace {

bool seen_before(const std::vector<Measured>& all, const SubjectInfo& info) {
  for (const Measured& m : all) {
    if (m.info.label == info.label && m.info.method == info.method && m.info.level == info.level &&
        m.info.part == info.part && m.info.kernel == info.kernel) {
      return true;
    }
  }
  return false;
}

}  // namespace

Sessions start_sessions(const std::vector<PeerSpec>& specs, int threads) {
  Sessions sessions;
  for (const PeerSpec& spec : specs) sessions.push_back(std::make_unique<Session>(spec, threads));
  return sessions;
}

std::vector<Measured> measure_case(const Sessions& sessions, const Case& c,
                                   const RoundOptions& options) {
  struct Place {
    Session* session;
    std::size_t index;
  };
  std::vector<Measured> all;
  std::vector<Place> places;
  for (const auto& session : sessions) {
    std::vector<SubjectInfo> subjects = session->open(c.m, c.k, c.n, c.footprint, c.methods);
    for (std::size_t index = 0; index < subjects.size(); ++index) {
      SubjectInfo& info = subjects[index];
      if (!c.part.empty() && info.part != c.part) continue;
      // OpenBLAS by default and by name may be the same kernel: one row is enough.
      if (seen_before(all, info)) continue;
      all.push_back({std::move(info), {}});
      all.back().series.use_wall = options.wall;
      places.push_back({session.get(), index});
    }
  }
  for (int round = 0; round < options.rounds; ++round) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      const Seconds s = places[i].session->run(places[i].index, 1e3 * options.min_seconds);
      all[i].series.cpu.push_back(s.cpu);
      all[i].series.wall.push_back(s.wall);
    }
  }
  std::vector<Measured> alive;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (!places[i].session->dead()) alive.push_back(std::move(all[i]));
  }
  return alive;
}

void append_round(std::vector<Measured>* all, const std::vector<Measured>& round) {
  if (all->empty()) {
    *all = round;
    return;
  }
  for (std::size_t i = 0; i < all->size() && i < round.size(); ++i) {
    Series& into = (*all)[i].series;
    const Series& from = round[i].series;
    into.cpu.insert(into.cpu.end(), from.cpu.begin(), from.cpu.end());
    into.wall.insert(into.wall.end(), from.wall.begin(), from.wall.end());
  }
}

const Measured* fastest(const std::vector<Measured>& all, const Pattern& pattern) {
  const auto fits = [](const std::string& wanted, const std::string& found) {
    return wanted.empty() || wanted == found;
  };
  const Measured* best = nullptr;
  for (const Measured& m : all) {
    if (!fits(pattern.label, m.info.label) || !fits(pattern.method, m.info.method) ||
        !fits(pattern.level, m.info.level) || !fits(pattern.part, m.info.part)) {
      continue;
    }
    if (best == nullptr || m.seconds() < best->seconds()) best = &m;
  }
  return best;
}

Summary times_faster(const Measured* of, const Measured* base) {
  if (of == nullptr || base == nullptr) return Summary{};
  return summarize_ratio(base->series.seconds(), of->series.seconds());
}

}  // namespace rrs_bench
