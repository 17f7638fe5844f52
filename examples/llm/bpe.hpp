#pragma once
// Byte-pair merges on token ids.
//
// From: a piece's bytes as ids; to: the ids left after every applicable merge, lowest rank first,
// leftmost first among equals. Cost: n log n for a piece of n bytes (a heap over a linked list), so
// a text without a single split stays affordable.

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace rrs_llm {

using TokenId = std::int32_t;

inline constexpr TokenId kNoToken = -1;

class MergeTable {
 public:
  void reserve(std::size_t merges) { merges_.reserve(merges); }
  // A pair that was added before keeps its lower rank.
  void add(TokenId left, TokenId right, TokenId merged);

  // Scratch memory, kept from piece to piece.
  class Workspace {
    friend class MergeTable;
    struct Symbol {
      TokenId id;
      std::int32_t previous;
      std::int32_t next;
    };
    struct Candidate {
      std::uint32_t rank;
      std::int32_t at;  // index of the left symbol
      TokenId left;
      TokenId right;
      TokenId merged;
    };
    // NOLINTBEGIN(readability-identifier-naming): the type is private, its members are not.
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
    // NOLINTEND(readability-identifier-naming)
  };

  // Replaces `ids` by the merged ids. kNoToken never merges.
  void merge(std::vector<TokenId>* ids, Workspace* workspace) const;

 private:
  struct Merge {
    std::uint32_t rank;
    TokenId merged;
  };
  static std::uint64_t key(TokenId left, TokenId right) noexcept;
  static bool later(const Workspace::Candidate& a, const Workspace::Candidate& b) noexcept;
  void push(std::int32_t at, Workspace* workspace) const;

  std::unordered_map<std::uint64_t, Merge> merges_;
};

}  // namespace rrs_llm
