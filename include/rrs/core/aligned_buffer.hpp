// AlignedBuffer: owning, 64-byte aligned bytes. Move-only; moving keeps the address.
//
// Allocation never throws: a failure is Status kOutOfMemory. Contents start uninitialized.
// from: prepare_weight, calibrate/ (offline).  to: PreparedWeight.  Hot paths never allocate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include "rrs/core/config.hpp"
#include "rrs/core/status.hpp"

RRS_TYPES_BEGIN

// Alignment of everything that a kernel streams: one cache line, one 512-bit register.
inline constexpr std::size_t kBufferAlignment = 64;

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Allocates `bytes`; on failure data() is null and size() 0.
  RRS_MEMBER explicit AlignedBuffer(std::size_t bytes) noexcept {
    const bool fits = bytes <= static_cast<std::size_t>(INT64_MAX);
    if (fits) static_cast<void>(allocate(static_cast<std::int64_t>(bytes)));
  }
  RRS_MEMBER AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  RRS_MEMBER AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  RRS_MEMBER ~AlignedBuffer() {
    if (data_ != nullptr) ::operator delete (data_, std::align_val_t{kBufferAlignment});
  }

  // Replaces the contents by `bytes` uninitialized bytes (0: empty). On failure nothing changes.
  RRS_MEMBER Status allocate(std::int64_t bytes) noexcept {
    if (bytes < 0) {
      return Status{
          StatusCode::kInvalidArgument, "bytes", "must not be negative", bytes, 0, nullptr};
    }
    void* fresh = nullptr;
    if (bytes > 0) {
      // More than half of the address space cannot exist; some allocators abort instead of failing.
      constexpr std::int64_t kMost = INT64_MAX / 2;
      if (bytes <= kMost) {
        fresh = ::operator new (static_cast<std::size_t>(bytes), std::align_val_t{kBufferAlignment},
                                std::nothrow);
      }
      if (fresh == nullptr) {
        return Status{
            StatusCode::kOutOfMemory, "bytes", "could not be allocated", bytes, kMost, nullptr};
      }
    }
    if (data_ != nullptr) ::operator delete (data_, std::align_val_t{kBufferAlignment});
    data_ = static_cast<std::byte*>(fresh);
    size_ = bytes;
    return Status{};
  }

  RRS_MEMBER std::byte* data() noexcept { return data_; }
  RRS_MEMBER const std::byte* data() const noexcept { return data_; }
  RRS_MEMBER std::int64_t size() const noexcept { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::int64_t size_ = 0;
};

RRS_TYPES_END
