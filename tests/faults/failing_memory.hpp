// Memory that runs out at the n-th allocation: operator new in every form, and the malloc of this
// program's own objects, which Eigen uses (the linker's --wrap=malloc; see tests/CMakeLists.txt).
//
// Include it in one file of a program. Freeing is the standard library's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace rrs_test {

// Allocations to let through before every further one fails; negative: none fails.
inline std::int64_t allocations_left = -1;
inline std::int64_t allocations_seen = 0;
inline bool one_allocation_fails = false;  // and there is memory again after it

inline bool allocation_fails() {
  ++allocations_seen;
  if (allocations_left < 0) return false;
  if (allocations_left > 0) return --allocations_left, false;
  if (one_allocation_fails) allocations_left = -1;
  return true;
}

enum class Fails { kAllFromThere, kOne };

// While it lives, the allocation number `after` (from 0) fails, and all after it, or that one.
struct FailAllocations {
  explicit FailAllocations(std::int64_t after, Fails fails = Fails::kAllFromThere) {
    allocations_seen = 0;
    one_allocation_fails = fails == Fails::kOne;
    allocations_left = after;
  }
  ~FailAllocations() { allocations_left = -1; }
  FailAllocations(const FailAllocations&) = delete;
  FailAllocations& operator=(const FailAllocations&) = delete;
};

}  // namespace rrs_test

extern "C" {
void* __real_malloc(std::size_t bytes);  // NOLINT: the linker's names
void* __wrap_malloc(std::size_t bytes);  // NOLINT
void* __wrap_malloc(std::size_t bytes) {
  return rrs_test::allocation_fails() ? nullptr : __real_malloc(bytes);
}
}

void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return rrs_test::allocation_fails() ? nullptr : __real_malloc(bytes == 0 ? 1 : bytes);
}
void* operator new(std::size_t bytes) {
  void* memory = operator new(bytes, std::nothrow);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new(std::size_t bytes, std::align_val_t align, const std::nothrow_t&) noexcept {
  if (rrs_test::allocation_fails()) return nullptr;
  const auto to = static_cast<std::size_t>(align);
  return std::aligned_alloc(to, (bytes + to - 1) / to * to);
}
void* operator new(std::size_t bytes, std::align_val_t align) {
  void* memory = operator new(bytes, align, std::nothrow);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
// GCC cannot know that both sides are malloc's.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
