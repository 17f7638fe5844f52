// KvCache: keys and values of one attention layer at 16, 8 or 4 bits; decode-time dot products on
// the codes.
//
//   K~[t,h,:] = K[t,h,:] H    q~ = q H    V~[t,h,:] = V[t,h,:] H      H: Hadamard of the head size
//   scores      s[t] = q8 . k[t]          q8: q~ at 8 bits, symmetric; k: stored K~
//   accumulate  o[d] += sum_t p[t] v[t,d] in token order;  finish_output: o = o H, once
//
// from: K after RoPE and V, f32 [tokens][kv_heads * head_size], packed or as views with a row
//   stride (slices of a fused QKV buffer).  to: the attention of an engine: append; per query head
//   prepare_query, scores, softmax, accumulate, finish_output.
// A query sees the *quantized* K and V, its own token's included, in prefill as in decode. Scores
// are plain dot products: 1 / sqrt(head_size) is the caller's.
//
// Numeric contract: the same bits on every ISA, however tokens are split over append calls, and
// however a range of tokens is split over scores or accumulate calls; written orders:
// kv_kernels.hpp (reading), kv_append.hpp (writing). Bounds, for finite values:
//   stored value: kv_append.hpp.  Rounding of a score, given codes: (groups + 3) 2^-24 times
//   sum over groups of |scale_q scale_g I_g|; at 16 bits head_size 2^-24 sum |q k|.
//   accumulate: (tokens + 2) 2^-24 sum_t |p[t] v[t,d]|.
// Non-finite K or V rows are stored as NaN: scores of that token and head are NaN, all others are
// as if it were finite; accumulate gives NaN when its range holds a NaN row, even with p = 0. A
// NaN's sign and payload are not specified. append_exact keeps tokens in 16 bits whatever the
// scheme (quantization-free prefix), at the head of the cache only. Against them the query is f32.
//
// Memory: pages of 64 tokens, allocated by append only; growing never moves or copies the past.
// fork() shares pages; whoever appends to a shared last page first copies that page.
// Pointers are aligned to a float. What a call writes must overlap nothing else that it is given,
// nor the memory of a KvQuery (not checked); what it only reads may overlap.
// Errors: kInvalidArgument naming the argument, kInvalidScheme (create), kUnsupportedIsa,
// kOutOfMemory (create, append, fork, a first prepare_query), kNonFinite. But for kNonFinite they
// leave the cache and all output arguments as they were.
// Threads: const calls on one cache from any threads at once, one KvQuery each: prepared by one
// call at a time, then read by any. Caches related by fork are independent. No call uses an
// executor: split heads and ranges of tokens over threads of yours.
// Cost, with D = head_size: a head of append, prepare_query or finish_output takes D times the
// additions of its Hadamard (log2 D for a power of two) and a few operations per value; scores and
// accumulate D multiply-adds per token; fork a pointer per page and the tables of create; truncate
// frees page by page. Measured: bench/bench_kv_cache.cpp.
#pragma once

#include <cstdint>
#include <utility>

#include "rrs/core/config.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/view.hpp"
#include "rrs/kv_cache/kv_read.hpp"
#include "rrs/kv_cache/kv_scheme.hpp"
#include "rrs/kv_cache/kv_state.hpp"

RRS_TYPES_BEGIN

class KvCache {
 public:
  KvCache() = default;  // holds nothing, like a moved-from cache; calls are refused
  KvCache(KvCache&&) = default;
  RRS_MEMBER KvCache& operator=(KvCache&& other) noexcept {
    if (this == &other) return *this;
    const internal::KvState old(std::move(state_));  // so that the swaps below leave other empty
    state_ = std::move(other.state_);
    return *this;
  }

  // kv_heads 1..65536, head_size 1..1024. Memory: tables and scratch of a few rows; no page yet.
  RRS_MEMBER static Result<KvCache> create(const KvScheme& scheme, std::int64_t kv_heads,
                                           std::int64_t head_size) noexcept {
    KvCache cache;
    if (Status e = detail::create_kv(scheme, kv_heads, head_size, &cache.state_); !e) return e;
    return Result<KvCache>(std::move(cache));
  }

  // k, v: [tokens][kv_heads * head_size], K after RoPE. On failure the cache is unchanged, except
  // kNonFinite: then all tokens are appended, value is the first one (of this call) with a NaN row.
  RRS_MEMBER Status append(const float* k, const float* v, std::int64_t tokens) noexcept {
    return append(packed(k, tokens), packed(v, tokens));
  }
  // The same from rows with strides of their own, read in place: both views have `tokens` rows and
  // kv_heads * head_size columns.
  RRS_MEMBER Status append(const MatrixView<const float>& k,
                           const MatrixView<const float>& v) noexcept {
    return detail::append_kv(state_, false, k, v);
  }
  // The same in 16 bits; only before the first append of a quantized cache.
  RRS_MEMBER Status append_exact(const float* k, const float* v, std::int64_t tokens) noexcept {
    return append_exact(packed(k, tokens), packed(v, tokens));
  }
  RRS_MEMBER Status append_exact(const MatrixView<const float>& k,
                                 const MatrixView<const float>& v) noexcept {
    return detail::append_kv(state_, true, k, v);
  }

  // q_head [head_size]: rotated with K's rotation, then quantized. A non-finite query is kNonFinite
  // and leaves a query whose scores are all NaN.
  RRS_MEMBER Status prepare_query(const float* q_head, KvQuery* query) const noexcept {
    return detail::prepare_kv_query(state_, q_head, query);
  }
  // out[t - first] = q . k[t], tokens [first, last).
  RRS_MEMBER Status scores(const KvQuery& query, std::int64_t kv_head, std::int64_t first,
                           std::int64_t last, float* out) const noexcept {
    return detail::scores_kv(state_, query, kv_head, first, last, out);
  }
  // out_head[d] += sum over t of p[t - first] v[t,d], d < head_size, in V's stored (rotated) basis.
  RRS_MEMBER Status accumulate(const float* p, std::int64_t kv_head, std::int64_t first,
                               std::int64_t last, float* out_head) const noexcept {
    return detail::accumulate_kv(state_, p, kv_head, first, last, out_head);
  }
  // Undoes V's rotation of out_head [head_size], in place; once per head, after the last
  // accumulate.
  RRS_MEMBER Status finish_output(float* out_head) const noexcept {
    return detail::finish_kv_output(state_, out_head);
  }

  // What is stored of one token and head, [head_size] each or null, in the rotated basis. Slow.
  RRS_MEMBER Status stored(std::int64_t token, std::int64_t kv_head, float* k,
                           float* v) const noexcept {
    return detail::stored_kv(state_, token, kv_head, k, v);
  }

  // A second cache with the same tokens, sharing their pages.
  RRS_MEMBER Result<KvCache> fork() const noexcept {
    KvCache copy;
    if (Status e = detail::fork_kv(state_, &copy.state_); !e) return e;
    return Result<KvCache>(std::move(copy));
  }
  // Forgets the tokens from `tokens` on; their pages are freed but for those that a fork has, too.
  RRS_MEMBER Status truncate(std::int64_t tokens) noexcept {
    return detail::truncate_kv(state_, tokens);
  }

  RRS_MEMBER std::int64_t tokens() const noexcept {
    return state_.exact.tokens + state_.main.tokens;
  }
  RRS_MEMBER std::int64_t exact_tokens() const noexcept { return state_.exact.tokens; }
  RRS_MEMBER std::int64_t kv_heads() const noexcept { return state_.kv_heads; }
  RRS_MEMBER std::int64_t head_size() const noexcept { return state_.head_size; }
  RRS_MEMBER const KvScheme& scheme() const noexcept { return state_.main.scheme; }
  // Of all pages, those shared with forks included.
  RRS_MEMBER std::int64_t bytes() const noexcept {
    return state_.exact.pages.count() * state_.exact.layout.page_bytes +
           state_.main.pages.count() * state_.main.layout.page_bytes;
  }
  // Of a full page, with scales, zeros, padding and header: storage per value of K and V.
  RRS_MEMBER double bits_per_value() const noexcept {
    const std::int64_t values = 2 * kKvPageTokens * state_.kv_heads * state_.head_size;
    return values == 0 ? 0.0
                       : 8.0 * static_cast<double>(state_.main.layout.page_bytes) /
                             static_cast<double>(values);
  }

 private:
  RRS_MEMBER MatrixView<const float> packed(const float* rows, std::int64_t tokens) const noexcept {
    return {rows, tokens, state_.kv_heads * state_.head_size};
  }

  internal::KvState state_;
};

RRS_TYPES_END
