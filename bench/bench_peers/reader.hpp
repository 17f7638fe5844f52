// Reading memory with plain loads: what decode is measured against.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "support/thread_pool.hpp"

namespace rrs_bench {

inline constexpr std::int64_t kLine = 64;

class Reader {
 public:
  // The pool must outlive it.
  explicit Reader(ThreadPool* pool) : pool_(pool) {}
  // Every cache line of `bytes` bytes, a multiple of 64; each thread takes an equal part.
  void read(const void* data, std::int64_t bytes);

 private:
  ThreadPool* pool_;
  std::atomic<std::uint64_t> sink_{0};  // keeps the loads alive
};

}  // namespace rrs_bench
