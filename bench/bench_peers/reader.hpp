// Reading memory with plain loads: what decode is measured against.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "support/thread_pool.hpp"

namespace rrs_bench {

inline constexpr std::int64_t kLine = 64;

// A way to read a range. None is the fastest everywhere (pages of 4 KB or 2 MB, DRAM or cache), so
// all are measured, and a share of the read bandwidth is a share of the fastest one's.
struct ReadPattern {
  const char* name;
  std::uint64_t (*read_lines)(const std::byte* data, std::int64_t lines);  // something of each line
};
inline constexpr int kReadPatternCount = 4;
extern const ReadPattern kReadPatterns[kReadPatternCount];

class Reader {
 public:
  // The pool must outlive it.
  explicit Reader(ThreadPool* pool) : pool_(pool) {}
  // Every cache line of `bytes` bytes, a multiple of 64; each thread takes an equal part.
  void read(const ReadPattern& pattern, const void* data, std::int64_t bytes);

 private:
  ThreadPool* pool_;
  std::atomic<std::uint64_t> sink_{0};  // keeps the loads alive
};

}  // namespace rrs_bench
