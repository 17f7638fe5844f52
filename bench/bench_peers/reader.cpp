#include "bench_peers/reader.hpp"

#include <immintrin.h>

namespace rrs_bench {
namespace {

constexpr std::int64_t kBytesAhead = 4096;  // farther or nearer is slower on the machines tried

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

}  // namespace

void Reader::read(const void* data, std::int64_t bytes) {
  const auto* from = static_cast<const std::byte*>(data);
  const std::int64_t lines = bytes / kLine, parts = pool_->threads();
  PoolExecutor{pool_}(parts, [this, from, lines, parts](std::int64_t i) {
    const std::int64_t first = lines * i / parts, last = lines * (i + 1) / parts;
    sink_ ^= read_lines(from + first * kLine, last - first);
  });
}

}  // namespace rrs_bench
