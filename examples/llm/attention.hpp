#pragma once
// Causal grouped-query attention over a growing cache of keys and values, one layer's.
//
//   out[t,h] = sum_j softmax_j(q[t,h] . K[j] / sqrt(size)) V[j],  j <= position of t
//
// From: q, k (after RoPE) and v of the tokens of one call; to: the output projection. A query
// attends to the stored, rounded K and V, its own token's included, so that a whole prompt at once
// and token by token give the same bits. Two stores: 16 bits (f16 values, expanded, in panels for
// the float kernel) and rrs::KvCache at 8 or 4 bits. Both grow by pages without copying the past.
// A prefix stays in 16 bits in both: append_exact once, then one fork per sequence.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "model_config.hpp"
#include "rrs/kv_cache/kv_scheme.hpp"
#include "thread_pool.hpp"

namespace rrs_llm {

struct AttentionShape {
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_size = 0;

  explicit AttentionShape(const ModelConfig& c)
      : heads(static_cast<std::int64_t>(c.heads)),
        kv_heads(static_cast<std::int64_t>(c.kv_heads)),
        head_size(static_cast<std::int64_t>(c.head_size)) {}
  std::int64_t group() const noexcept { return heads / kv_heads; }
};

class KvStore {
 public:
  virtual ~KvStore() = default;
  // Rows of k and v: [tokens][kv_heads * head_size]. Throws when a value is not finite or beyond
  // the store's range (16 bits: 65504), naming the first token of the call that has one.
  virtual void append(const float* k, const float* v, std::int64_t tokens) = 0;
  // The same in 16 bits, whatever the store's width; before any other append.
  virtual void append_exact(const float* k, const float* v, std::int64_t tokens) = 0;
  // A second store with the same keys and values, sharing their pages.
  virtual std::unique_ptr<KvStore> fork() const = 0;
  // The last `tokens` appended attend: q and out are [tokens][heads * head_size].
  virtual void attend(const float* q, std::int64_t tokens, float* out,
                      const ThreadPool& pool) const = 0;
  virtual std::int64_t length() const noexcept = 0;
  // Of all pages as they are held, those shared with forks included.
  virtual std::int64_t bytes() const noexcept = 0;
};

std::unique_ptr<KvStore> make_f16_store(const AttentionShape& shape);
std::unique_ptr<KvStore> make_quantized_store(const AttentionShape& shape,
                                              const rrs::KvScheme& scheme);

}  // namespace rrs_llm
