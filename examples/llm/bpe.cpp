#include "bpe.hpp"

#include <algorithm>

namespace rrs_llm {

std::uint64_t MergeTable::key(TokenId left, TokenId right) noexcept {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

void MergeTable::add(TokenId left, TokenId right, TokenId merged) {
  merges_.emplace(key(left, right), Merge{static_cast<std::uint32_t>(merges_.size()), merged});
}

bool MergeTable::later(const Workspace::Candidate& a, const Workspace::Candidate& b) noexcept {
  return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
}

// Offers the pair that begins at symbol `at`, if it can merge.
void MergeTable::push(std::int32_t at, Workspace* workspace) const {
  if (at < 0) return;
  const auto& symbols = workspace->symbols;
  const auto& left = symbols[static_cast<std::size_t>(at)];
  if (left.next < 0) return;
  const TokenId right = symbols[static_cast<std::size_t>(left.next)].id;
  const auto found = merges_.find(key(left.id, right));
  if (found == merges_.end()) return;
  workspace->heap.push_back({found->second.rank, at, left.id, right, found->second.merged});
  std::push_heap(workspace->heap.begin(), workspace->heap.end(), later);
}

void MergeTable::merge(std::vector<TokenId>* ids, Workspace* workspace) const {
  if (ids->size() < 2) return;
  auto& symbols = workspace->symbols;
  auto& heap = workspace->heap;
  const auto count = static_cast<std::int32_t>(ids->size());
  symbols.clear();
  heap.clear();
  for (std::int32_t i = 0; i < count; ++i) {
    symbols.push_back({(*ids)[static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1});
  }
  for (std::int32_t i = 0; i + 1 < count; ++i) push(i, workspace);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const auto best = heap.back();
    heap.pop_back();
    auto& left = symbols[static_cast<std::size_t>(best.at)];
    // Stale when a neighbour has merged since; an absorbed symbol has id kNoToken.
    if (left.id != best.left || left.next < 0) continue;
    auto& right = symbols[static_cast<std::size_t>(left.next)];
    if (right.id != best.right) continue;
    left.id = best.merged;
    left.next = right.next;
    right.id = kNoToken;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = best.at;
    push(left.previous, workspace);
    push(best.at, workspace);
  }
  ids->clear();
  for (std::int32_t i = 0; i >= 0; i = symbols[static_cast<std::size_t>(i)].next) {
    ids->push_back(symbols[static_cast<std::size_t>(i)].id);
  }
}

}  // namespace rrs_llm
