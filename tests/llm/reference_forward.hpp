#pragma once
// The oracle of the engine: the forward pass of a TinyModel in double, plain loops, from the
// architecture's formulas. Shares no code with examples/llm/engine.cpp.

#include <cmath>
#include <string>
#include <vector>

#include "tiny_model.hpp"

namespace rrs_llm_test {

using Row = std::vector<double>;

inline Row reference_linear(const TinyModel& m, const std::string& name, const Row& x) {
  const TinyTensor& w = m.find(name);
  Row y(w.rows, 0.0);
  for (std::size_t n = 0; n < w.rows; ++n) {
    for (std::size_t k = 0; k < w.columns; ++k) {
      y[n] += static_cast<double>(w.values[n * w.columns + k]) * x[k];
    }
  }
  for (const TinyTensor& t : m.tensors) {
    if (t.name != name + ".bias") continue;
    for (std::size_t n = 0; n < y.size(); ++n) y[n] += static_cast<double>(t.values[n]);
  }
  return y;
}

inline Row reference_norm(const TinyModel& m, const std::string& name, const Row& x) {
  double squares = 0.0;
  for (const double v : x) squares += v * v;
  const double scale =
      1.0 / std::sqrt(squares / static_cast<double>(x.size()) + m.config.rms_epsilon);
  Row y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    y[i] = x[i] * scale * static_cast<double>(m.find(name).values[i]);
  }
  return y;
}

// Half-split order, as the TinyModel's q and k rows are.
inline void reference_rope(const TinyModel& m, std::size_t position, Row* head) {
  const std::size_t half = head->size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(head->size());
    const std::vector<float>& divisors = m.config.rope_divisors;
    const double slowed = divisors.empty() ? 1.0 : static_cast<double>(divisors[i]);
    const double angle =
        static_cast<double>(position) / (std::pow(m.config.rope_base, exponent) * slowed);
    const double a = (*head)[i], b = (*head)[i + half];
    (*head)[i] = a * std::cos(angle) - b * std::sin(angle);
    (*head)[i + half] = a * std::sin(angle) + b * std::cos(angle);
  }
}

struct ReferenceCache {
  std::vector<std::vector<Row>> k, v;  // [layer][token]: all KV heads
};

inline std::vector<Row> heads_of(const TinyModel& m, const Row& row, std::size_t count,
                                 const std::string& norm, std::size_t position, bool rotate) {
  std::vector<Row> heads;
  const std::size_t size = m.config.head_size;
  for (std::size_t h = 0; h < count; ++h) {
    Row head(row.begin() + static_cast<std::ptrdiff_t>(h * size),
             row.begin() + static_cast<std::ptrdiff_t>((h + 1) * size));
    if (rotate && m.config.qk_norm) head = reference_norm(m, norm, head);
    if (rotate) reference_rope(m, position, &head);
    heads.push_back(head);
  }
  return heads;
}

inline Row flatten(const std::vector<Row>& heads) {
  Row row;
  for (const Row& head : heads) row.insert(row.end(), head.begin(), head.end());
  return row;
}

inline Row reference_attention(const TinyModel& m, const std::vector<Row>& q,
                               const std::vector<Row>& keys, const std::vector<Row>& values) {
  const std::size_t size = m.config.head_size, group = m.config.heads / m.config.kv_heads;
  Row out;
  for (std::size_t h = 0; h < q.size(); ++h) {
    const std::size_t base = h / group * size;
    Row p;
    double sum = 0.0;
    for (const Row& key : keys) {
      double score = 0.0;
      for (std::size_t d = 0; d < size; ++d) score += q[h][d] * key[base + d];
      p.push_back(std::exp(score / std::sqrt(static_cast<double>(size))));
      sum += p.back();
    }
    for (std::size_t d = 0; d < size; ++d) {
      double value = 0.0;
      for (std::size_t j = 0; j < p.size(); ++j) value += p[j] / sum * values[j][base + d];
      out.push_back(value);
    }
  }
  return out;
}

inline void add(Row* x, const Row& y) {
  for (std::size_t i = 0; i < x->size(); ++i) (*x)[i] += y[i];
}

// Logits of one token at `position`; the cache holds the tokens before it.
inline Row reference_step(const TinyModel& m, std::size_t token, std::size_t position,
                          ReferenceCache* cache) {
  const auto& c = m.config;
  cache->k.resize(c.layers);
  cache->v.resize(c.layers);
  const TinyTensor& embedding = m.find("token_embd");
  Row x;
  for (std::size_t i = 0; i < c.hidden; ++i) {
    x.push_back(static_cast<double>(embedding.values[token * c.hidden + i]));
  }
  for (std::size_t layer = 0; layer < c.layers; ++layer) {
    const std::string p = "blk." + std::to_string(layer) + ".";
    const Row n = reference_norm(m, p + "attn_norm", x);
    const auto q = heads_of(m, reference_linear(m, p + "attn_q", n), c.heads, p + "attn_q_norm",
                            position, true);
    cache->k[layer].push_back(flatten(heads_of(m, reference_linear(m, p + "attn_k", n), c.kv_heads,
                                               p + "attn_k_norm", position, true)));
    cache->v[layer].push_back(reference_linear(m, p + "attn_v", n));
    add(&x, reference_linear(m, p + "attn_output",
                             reference_attention(m, q, cache->k[layer], cache->v[layer])));
    const Row f = reference_norm(m, p + "ffn_norm", x);
    Row gate = reference_linear(m, p + "ffn_gate", f);
    const Row up = reference_linear(m, p + "ffn_up", f);
    for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1.0 + std::exp(-gate[i]));
    add(&x, reference_linear(m, p + "ffn_down", gate));
  }
  return reference_linear(m, c.tied_head ? "token_embd" : "output",
                          reference_norm(m, "output_norm", x));
}

inline std::vector<Row> reference_logits(const TinyModel& m,
                                         const std::vector<rrs_llm::TokenId>& tokens) {
  ReferenceCache cache;
  std::vector<Row> logits;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    logits.push_back(reference_step(m, static_cast<std::size_t>(tokens[t]), t, &cache));
  }
  return logits;
}

}  // namespace rrs_llm_test
