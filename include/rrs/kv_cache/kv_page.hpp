// KvPage: 64 tokens of all kv heads, in one block of memory; and the list of pages of a cache.
//
//   page: 64 bytes header (reference count), then per kv head one chunk:
//         K codes | K scales | K zeros | V codes | V scales | V zeros     each a multiple of 64
//         bytes
//   K codes, four blocks of 16 tokens, so that a register holds 16 tokens and no sum is horizontal:
//      4 bits: for each 8 dims 64 bytes; byte (n*4 + j) = token n, low nibble dim j, high dim 4 + j
//      8 bits: for each 4 dims 64 bytes; byte (n*4 + j) = token n, dim j
//     16 bits: for each dim 16 f16, one per token
//   V codes, one row per token, so that a register holds 16 dims:
//      4 bits: for each 32 dims 16 bytes; byte i = low nibble dim i, high nibble dim 16 + i
//      8 bits: one byte per dim;  16 bits: one f16 per dim
//   scales f16 [group][64 tokens]; zeros u8 [group][64 tokens], asymmetric only
// K dims are padded to a multiple of 8 (none at 16 bits), V dims to 16 (32 at 4 bits), in 64-byte
// units. Padding is zero bytes and multiplies a zero query or is never copied out. A token owns its
// bytes, so writing one never reads another.
//
// Pages are shared by forked caches and counted; a shared page is never written.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "rrs/core/aligned_buffer.hpp"
#include "rrs/core/config.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/types.hpp"
#include "rrs/kv_cache/kv_scheme.hpp"

RRS_TYPES_BEGIN

inline constexpr int kKvPageTokens = 64;
inline constexpr int kKvBlockTokens = 16;
inline constexpr std::int64_t kKvPageHeader = 64;
inline constexpr std::int64_t kKvMaxHeadSize = 1024;
inline constexpr std::int64_t kKvMaxHeads = 65536;

// K or V of one head in a page. Offsets in bytes from the head's chunk.
struct KvTensorLayout {
  int bits = 4;
  int group = kRowGroup;    // dims per scale; kRowGroup: the head
  std::int64_t groups = 1;  // 0 at 16 bits
  bool has_zeros = false;
  std::int64_t dims = 0;  // padded
  std::int64_t unit = 0;  // bytes of one block of 16 tokens (K) or of one token (V)
  std::int64_t codes = 0;
  std::int64_t scales = 0;
  std::int64_t zeros = 0;
};

struct KvPageLayout {
  KvTensorLayout k;
  KvTensorLayout v;
  std::int64_t head_bytes = 0;
  std::int64_t page_bytes = 0;
};

namespace internal {

// The start of a page's memory.
struct KvPage {
  std::atomic<std::int64_t> owners{1};
};
static_assert(sizeof(KvPage) <= kKvPageHeader, "header");

// Owning list of counted pages; move-only. Growing copies pointers, never pages.
class KvPageList {
 public:
  KvPageList() = default;
  RRS_MEMBER KvPageList(KvPageList&& other) noexcept
      : table_(std::move(other.table_)), count_(std::exchange(other.count_, 0)) {}
  RRS_MEMBER KvPageList& operator=(KvPageList&& other) noexcept {
    table_ = std::move(other.table_);  // swaps
    std::swap(count_, other.count_);
    return *this;
  }
  KvPageList(const KvPageList&) = delete;
  KvPageList& operator=(const KvPageList&) = delete;
  RRS_MEMBER ~KvPageList() { shrink(0); }

  RRS_MEMBER std::int64_t count() const noexcept { return count_; }
  RRS_MEMBER std::byte* bytes(std::int64_t page) const noexcept {
    return reinterpret_cast<std::byte*>(pages()[page]);
  }

  // Releases the pages from `count` on.
  RRS_MEMBER void shrink(std::int64_t count) noexcept {
    while (count_ > count) release(pages()[--count_]);
  }

  // Appends zeroed pages until there are `count`; on failure nothing changes.
  RRS_MEMBER Status grow(std::int64_t count, std::int64_t page_bytes) noexcept {
    if (Status status = reserve(count); !status) return status;
    const std::int64_t before = count_;
    while (count_ < count) {
      KvPage* page = allocate(page_bytes);
      if (page == nullptr) {
        shrink(before);
        return out_of_memory(page_bytes);
      }
      pages()[count_++] = page;
    }
    return Status{};
  }

  // Makes page `index` this list's alone.
  RRS_MEMBER Status own(std::int64_t index, std::int64_t page_bytes) noexcept {
    KvPage* page = pages()[index];
    if (page->owners.load(std::memory_order_acquire) == 1) return Status{};
    KvPage* copy = allocate(page_bytes);
    if (copy == nullptr) return out_of_memory(page_bytes);
    std::memcpy(reinterpret_cast<std::byte*>(copy) + kKvPageHeader,
                reinterpret_cast<std::byte*>(page) + kKvPageHeader,
                static_cast<std::size_t>(page_bytes - kKvPageHeader));
    pages()[index] = copy;
    release(page);
    return Status{};
  }

  // Becomes another owner of all pages of `other`; this list must be empty.
  RRS_MEMBER Status share(const KvPageList& other) noexcept {
    if (Status status = reserve(other.count_); !status) return status;
    for (; count_ < other.count_; ++count_) {
      pages()[count_] = other.pages()[count_];
      pages()[count_]->owners.fetch_add(1, std::memory_order_relaxed);
    }
    return Status{};
  }

 private:
  RRS_MEMBER KvPage** pages() noexcept { return reinterpret_cast<KvPage**>(table_.data()); }
  RRS_MEMBER KvPage* const* pages() const noexcept {
    return reinterpret_cast<KvPage* const*>(table_.data());
  }
  RRS_MEMBER static Status out_of_memory(std::int64_t bytes) noexcept {
    return Status{
        StatusCode::kOutOfMemory, "kv page", "could not be allocated", bytes, INT64_MAX, nullptr};
  }
  RRS_MEMBER static KvPage* allocate(std::int64_t bytes) noexcept {
    void* memory = ::operator new (static_cast<std::size_t>(bytes),
                                   std::align_val_t{kBufferAlignment}, std::nothrow);
    if (memory == nullptr) return nullptr;
    std::memset(memory, 0, static_cast<std::size_t>(bytes));
    return ::new (memory) KvPage;
  }
  RRS_MEMBER static void release(KvPage* page) noexcept {
    if (page->owners.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    page->~KvPage();
    ::operator delete (static_cast<void*>(page), std::align_val_t{kBufferAlignment});
  }
  // Room for `count` pointers.
  RRS_MEMBER Status reserve(std::int64_t count) noexcept {
    constexpr auto kPointer = static_cast<std::int64_t>(sizeof(void*));
    if (count * kPointer <= table_.size()) return Status{};
    const std::int64_t wanted = count < 2 * count_ ? 2 * count_ : (count < 16 ? 16 : count);
    AlignedBuffer fresh;
    if (Status status = fresh.allocate(wanted * kPointer); !status) return status;
    if (count_ > 0) {
      std::memcpy(fresh.data(), table_.data(), static_cast<std::size_t>(count_ * kPointer));
    }
    table_ = std::move(fresh);
    return Status{};
  }

  AlignedBuffer table_;
  std::int64_t count_ = 0;
};

}  // namespace internal

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

RRS_FORCE_INLINE std::int64_t round_up(std::int64_t n, std::int64_t to) noexcept {
  return (n + to - 1) / to * to;
}

// Places one tensor at byte `at` of the chunk; returns the byte after it.
inline std::int64_t place_kv_tensor(bool is_k, int bits, int group, bool has_zeros,
                                    std::int64_t head_size, std::int64_t at,
                                    KvTensorLayout* t) noexcept {
  t->bits = bits;
  t->group = group <= 0 || group >= head_size || bits == 16 ? kRowGroup : group;
  t->groups = bits == 16 ? 0 : group_count(head_size, t->group);
  t->has_zeros = has_zeros && bits != 16;
  if (is_k) {
    t->dims = bits == 16 ? head_size : round_up(head_size, 8);
    t->unit = t->dims * bits * kKvBlockTokens / 8;
  } else {
    t->dims = round_up(head_size, bits == 4 ? 32 : 16);
    t->unit = t->dims * bits / 8;
  }
  t->codes = at;
  t->scales = round_up(at + t->unit * (is_k ? kKvPageTokens / kKvBlockTokens : kKvPageTokens), 64);
  // Kernels also read the scales of groups that are padding altogether (80 dims in groups of 16).
  const std::int64_t slots = bits == 16 ? 0 : group_count(t->dims, t->group);
  t->zeros = t->scales + slots * kKvPageTokens * 2;
  return t->zeros + (t->has_zeros ? slots * kKvPageTokens : 0);
}

// Requires a valid scheme and sizes within the limits above.
inline KvPageLayout kv_page_layout(const KvScheme& s, std::int64_t kv_heads,
                                   std::int64_t head_size) noexcept {
  KvPageLayout layout;
  const bool zeros = s.range == KvRange::kAsymmetric;
  const std::int64_t v = place_kv_tensor(true, s.bits, s.group, zeros, head_size, 0, &layout.k);
  layout.head_bytes =
      place_kv_tensor(false, kv_v_bits(s), kv_v_group(s), zeros, head_size, v, &layout.v);
  layout.page_bytes = kKvPageHeader + kv_heads * layout.head_bytes;
  return layout;
}

}  // namespace detail

RRS_FUNCTIONS_END
