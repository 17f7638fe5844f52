// Attention over the library's cache: scores on codes, p * V on codes, one pass per query and head.
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

#include "attention.hpp"
#include "float_kernels.hpp"
#include "rrs/kv_cache/kv_cache.hpp"

namespace rrs_llm {
namespace {

constexpr std::int64_t kTileTokens = 16;  // queries of one task

[[noreturn]] void fail(const rrs::Status& status) {
  throw std::runtime_error("KV cache: " + status.message());
}

class KvCacheStore final : public KvStore {
 public:
  KvCacheStore(const AttentionShape& shape, const rrs::KvScheme& scheme) : shape_(shape) {
    rrs::Result<rrs::KvCache> made = rrs::KvCache::create(scheme, shape.kv_heads, shape.head_size);
    if (!made) fail(made.status());
    cache_ = std::move(*made);
  }
  KvCacheStore(const AttentionShape& shape, rrs::KvCache cache)
      : shape_(shape), cache_(std::move(cache)) {}

  void append(const float* k, const float* v, std::int64_t tokens) override {
    if (const rrs::Status status = cache_.append(k, v, tokens); !status) fail(status);
  }

  void append_exact(const float* k, const float* v, std::int64_t tokens) override {
    if (const rrs::Status status = cache_.append_exact(k, v, tokens); !status) fail(status);
  }
  std::unique_ptr<KvStore> fork() const override {
    rrs::Result<rrs::KvCache> made = cache_.fork();
    if (!made) fail(made.status());
    return std::make_unique<KvCacheStore>(shape_, std::move(*made));
  }

  void attend(const float* q, std::int64_t tokens, float* out,
              const ThreadPool& pool) const override {
    const std::int64_t tiles = (tokens + kTileTokens - 1) / kTileTokens;
    std::vector<rrs::Status> failures(static_cast<std::size_t>(tiles * shape_.heads));
    // Long tiles first; heads of one KV head next to each other, so that they share its pages.
    pool(tiles * shape_.heads, [&](std::int64_t task) noexcept {
      const std::int64_t first = (tiles - 1 - task / shape_.heads) * kTileTokens;
      const std::int64_t last = (std::min)(first + kTileTokens, tokens);
      failures[static_cast<std::size_t>(task)] =
          attend_tile(q, tokens, first, last, task % shape_.heads, out);
    });
    for (const rrs::Status& status : failures) {
      if (!status) fail(status);
    }
  }

  std::int64_t length() const noexcept override { return cache_.tokens(); }
  std::int64_t bytes() const noexcept override { return cache_.bytes(); }

 private:
  rrs::Status attend_tile(const float* q, std::int64_t tokens, std::int64_t first,
                          std::int64_t last, std::int64_t head, float* out) const {
    thread_local rrs::KvQuery query;
    thread_local std::vector<float> scores;
    const FloatKernels& kernels = float_kernels();
    const float scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_size));
    const std::int64_t kv_head = head / shape_.group();
    for (std::int64_t t = first; t < last; ++t) {
      const std::int64_t at = (t * shape_.heads + head) * shape_.head_size;
      const std::int64_t keys = cache_.tokens() - tokens + t + 1;
      const std::int64_t padded = padded16(keys);
      scores.resize(static_cast<std::size_t>(padded));
      if (rrs::Status s = cache_.prepare_query(q + at, &query); !s) return s;
      if (rrs::Status s = cache_.scores(query, kv_head, 0, keys, scores.data()); !s) return s;
      for (std::int64_t j = 0; j < keys; ++j) scores[static_cast<std::size_t>(j)] *= scale;
      for (std::int64_t j = keys; j < padded; ++j) {
        scores[static_cast<std::size_t>(j)] = -std::numeric_limits<float>::infinity();
      }
      const float most = kernels.max_row(scores.data(), keys);
      const float inverse = 1.0f / kernels.exp_row(scores.data(), padded, most);
      float* o = out + at;
      for (std::int64_t d = 0; d < shape_.head_size; ++d) o[d] = 0.0f;
      if (rrs::Status s = cache_.accumulate(scores.data(), kv_head, 0, keys, o); !s) return s;
      if (rrs::Status s = cache_.finish_output(o); !s) return s;
      for (std::int64_t d = 0; d < shape_.head_size; ++d) o[d] *= inverse;
    }
    return rrs::Status{};
  }

  AttentionShape shape_;
  rrs::KvCache cache_;
};

}  // namespace

std::unique_ptr<KvStore> make_quantized_store(const AttentionShape& shape,
                                              const rrs::KvScheme& scheme) {
  return std::make_unique<KvCacheStore>(shape, scheme);
}

}  // namespace rrs_llm
