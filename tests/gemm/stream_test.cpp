// What the streaming leaves fetch ahead: while a block of weights is read, every line of the next
// one, once.
#include "rrs/gemm/stream.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace rrs_test {
namespace {

#if RRS_X86_64

// The lines that the steps of one block fetch, if its first step is at `first` bytes of it.
std::vector<std::uintptr_t> fetched(std::uintptr_t block, std::uintptr_t first) {
  constexpr std::uintptr_t kStep = 64 * rrs::stream::kLines;
  std::vector<std::uintptr_t> lines;
  for (std::uintptr_t at = block + first; at < block + rrs::stream::kBlock; at += kStep) {
    const std::uintptr_t ahead = rrs::stream::ahead(reinterpret_cast<const std::uint8_t*>(at));
    for (int i = 0; i < rrs::stream::kLines; ++i) {
      lines.push_back(rrs::stream::line_ahead(ahead, i));
    }
  }
  std::sort(lines.begin(), lines.end());
  return lines;
}

TEST(GemmStream, EveryLineOfTheNextBlockIsFetchedOnce) {
  const std::uintptr_t block = 5 * rrs::stream::kBlock, next = block + rrs::stream::kBlock;
  std::vector<std::uintptr_t> all;
  for (std::uintptr_t line = 0; line < rrs::stream::kBlock; line += 64) all.push_back(next + line);
  // Panels of any K begin at any line: the first step may begin at any line of a step.
  for (std::uintptr_t first = 0; first < 64 * rrs::stream::kLines; first += 64) {
    EXPECT_EQ(fetched(block, first), all) << "first step at byte " << first;
  }
}

#endif

}  // namespace
}  // namespace rrs_test
