// Reading memory: what decode is measured against. One call reads as many bytes as a 4-bit weight
// in groups of 32 has, walking through a buffer of the footprint.
#include <immintrin.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "bench_peers/peer.hpp"
#include "support/thread_pool.hpp"

namespace rrs_bench {
namespace {

constexpr std::int64_t kBytesAhead = 4096;  // farther or nearer is slower on the machines tried
constexpr std::int64_t kLine = 64;

// Reads count lines. A plain loop stays below the limit, hence the prefetch.
__attribute__((target("avx2"))) std::uint64_t read_lines(const std::byte* data,
                                                         std::int64_t count) {
  __m256i a_i64x4 = _mm256_setzero_si256(), b_i64x4 = a_i64x4;
  for (std::int64_t i = 0; i < count; ++i, data += kLine) {
    _mm_prefetch(reinterpret_cast<const char*>(data) + kBytesAhead, _MM_HINT_T0);
    const auto* p = reinterpret_cast<const __m256i*>(data);
    a_i64x4 = _mm256_xor_si256(a_i64x4, _mm256_loadu_si256(p));
    b_i64x4 = _mm256_xor_si256(b_i64x4, _mm256_loadu_si256(p + 1));
  }
  a_i64x4 = _mm256_xor_si256(a_i64x4, b_i64x4);
  const __m128i half_i64x2 =
      _mm_xor_si128(_mm256_castsi256_si128(a_i64x4), _mm256_extracti128_si256(a_i64x4, 1));
  return static_cast<std::uint64_t>(_mm_cvtsi128_si64(half_i64x2));
}

class StreamPeer final : public Peer {
 public:
  std::vector<Subject> open(const Problem& p) override {
    if (!p.wants("read")) return {};
    const std::int64_t bytes = p.n * p.k * 9 / 16 / kLine * kLine;
    const std::int64_t copies = p.copies(bytes);
    data_.assign(static_cast<std::size_t>(bytes * copies), std::byte{1});
    pool_ = std::make_unique<ThreadPool>(p.threads);
    Subject s{"read", "avx2", "layer", "loads with prefetch", bytes, {}};
    s.run = [this, bytes, copies] {
      read(data_.data() + turn_ % copies * bytes, bytes / kLine);
      ++turn_;
    };
    return {s};
  }

 private:
  void read(const std::byte* data, std::int64_t lines) {
    const std::int64_t parts = pool_->threads();
    PoolExecutor{pool_.get()}(parts, [this, data, lines, parts](std::int64_t i) {
      const std::int64_t first = lines * i / parts, last = lines * (i + 1) / parts;
      sink_ ^= read_lines(data + first * kLine, last - first);
    });
  }

  std::vector<std::byte> data_;
  std::unique_ptr<ThreadPool> pool_;
  std::int64_t turn_ = 0;
  std::atomic<std::uint64_t> sink_{0};  // keeps the loads alive
};

}  // namespace

std::unique_ptr<Peer> make_stream_peer() { return std::make_unique<StreamPeer>(); }

}  // namespace rrs_bench
