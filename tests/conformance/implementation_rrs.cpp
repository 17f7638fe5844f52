// This library, as check.cpp asks for it.
#include "implementation.hpp"

#include <cstring>
#include <stdexcept>

#include "rrs/rrs.hpp"

namespace conformance {
namespace {

void require(const rrs::Status& status, const std::string& what) {
  if (!status.ok()) throw std::runtime_error(what + ": " + status.message());
}

rrs::Scheme to_rrs(const Scheme& c) {
  rrs::Scheme s;
  constexpr rrs::RotationKind kRotations[] = {rrs::RotationKind::kNone, rrs::RotationKind::kBlock,
                                              rrs::RotationKind::kFull};
  constexpr rrs::WindowKind kWindows[] = {rrs::WindowKind::kOne, rrs::WindowKind::kRows,
                                          rrs::WindowKind::kWhole, rrs::WindowKind::kFrozen};
  s.rotation.kind = kRotations[static_cast<int>(c.rotation)];
  s.rotation.block = c.block;
  s.rotation.random_signs = c.sign_seed.has_value();
  s.rotation.sign_seed = c.sign_seed.value_or(0);
  s.activation.bits = c.activation_bits;
  s.activation.window.kind = kWindows[static_cast<int>(c.window)];
  s.activation.window.rows = c.window_rows;
  s.activation.group = c.activation_group;
  s.activation.range = c.full_range ? rrs::Range::kFull : rrs::Range::kSymmetric;
  s.activation.clip = c.clip;
  s.weight.bits = c.weight_bits;
  s.weight.group = c.weight_group;
  s.weight.scale = rrs::WeightScale::kAbsmax;
  return s;
}

// Quantizes W as it is (no rotation), into codes and scales, then packs them for the whole scheme.
rrs::PreparedWeight quantize_weight(const Case& c, const rrs::Scheme& scheme, Result* out) {
  const std::int64_t groups = rrs::group_count(c.k, scheme.weight.group);
  std::vector<rrs::f16> scales(static_cast<std::size_t>(c.n * groups));
  std::vector<std::int8_t> codes(static_cast<std::size_t>(c.n * c.k));
  for (std::int64_t n = 0; n < c.n; ++n) {
    if (!rrs::rtn_row(c.w.data() + n * c.k, c.k, scheme.weight, scales.data() + n * groups,
                      codes.data() + n * c.k)) {
      throw std::runtime_error("rtn_row failed");
    }
  }
  out->weight_codes.assign(codes.begin(), codes.end());
  for (const rrs::f16 v : scales) out->weight_scales.push_back(v.bits);
  rrs::Result<rrs::PreparedWeight> weight = rrs::weight_from_quantized(
      rrs::MatrixView<const std::int8_t>(codes.data(), c.n, c.k),
      rrs::MatrixView<const rrs::f16>(scales.data(), c.n, groups), scheme);
  require(weight.status(), "weight_from_quantized");
  return std::move(*weight);
}

// Codes, scales and zero points as they are given.
rrs::PreparedWeight take_weight(const Case& c, const rrs::Scheme& scheme, Result* out) {
  const std::int64_t groups = rrs::group_count(c.k, scheme.weight.group);
  std::vector<rrs::f16> scales;
  for (const std::uint16_t bits : c.given_scales) scales.push_back(rrs::f16{bits});
  rrs::CodesOptions options;
  options.bits = scheme.weight.bits;
  options.group = scheme.weight.group;
  options.activation = scheme.activation;
  options.zero_points = {c.zero_points.data(), c.n, groups};
  rrs::Result<rrs::PreparedWeight> weight =
      rrs::weight_from_codes(rrs::MatrixView<const std::uint8_t>(c.unsigned_codes.data(), c.n, c.k),
                             rrs::MatrixView<const rrs::f16>(scales.data(), c.n, groups), options);
  require(weight.status(), "weight_from_codes");
  out->weight_codes.assign(c.unsigned_codes.begin(), c.unsigned_codes.end());
  out->weight_scales = c.given_scales;
  return std::move(*weight);
}

rrs::PreparedWeight make_weight(const Case& c, const rrs::Scheme& scheme, Result* out) {
  rrs::PreparedWeight weight =
      c.zero_points.empty() ? quantize_weight(c, scheme, out) : take_weight(c, scheme, out);
  const rrs::WeightView& view = weight;
  out->panels.assign(view.panels, view.panels + rrs::panel_count(c.n) * view.panel_bytes);
  if (c.l_a.empty()) return weight;
  const auto rank = static_cast<std::int64_t>(c.l_a.size()) / c.n;
  rrs::Result<rrs::PreparedWeight> with =
      rrs::attach_low_rank(weight, rrs::MatrixView<const float>(c.l_a.data(), c.n, rank),
                           rrs::MatrixView<const float>(c.l_b.data(), rank, c.k), c.rank_bits);
  require(with.status(), "attach_low_rank");
  return std::move(*with);
}

// Codes from the scalar level, whose tiles are those of pack/layout.hpp at every precision.
void read_activation(const rrs::PreparedActivation& a, Result* out) {
  for (std::int64_t t = 0; t < a.m; ++t) {
    out->token_scales.push_back(rrs::float_bits(a.token_scales[t]));
  }
  if (a.scheme.activation.bits == rrs::kActivationFloat) return;
  const int most = rrs::select_gemm_kernel(*a.table, a.scheme).max_rows;
  const rrs::RowTiles tiles = rrs::make_row_tiles(a.m, most);
  const auto* packed = static_cast<const std::int8_t*>(a.codes);
  for (std::int64_t tile = 0; tile < tiles.tiles; ++tile) {
    const std::int64_t rows = tiles.rows_in(tile), first = tiles.first_row(tile);
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t k = 0; k < a.k; ++k) {
        out->codes.push_back(packed[first * a.k_padded + k / 4 * rows * 4 + row * 4 + k % 4]);
      }
    }
  }
  for (std::int64_t t = 0; t < a.m; ++t) {
    for (std::int64_t g = 0; g < a.activation_groups; ++g) {
      out->scales.push_back(rrs::float_bits(rrs::scale_at(a, t, g)));
    }
  }
}

rrs::KvScheme to_rrs(const KvCase& c) {
  rrs::KvScheme s;
  s.bits = c.bits;
  s.group = c.group == 0 ? rrs::kKvHeadGroup : c.group;
  s.range = static_cast<rrs::KvRange>(c.range);
  s.clip = c.clip;
  s.rotate_k = s.rotate_v = c.rotated;
  return s;
}

int kv_code(const rrs::KvTensorLayout& t, bool is_k, const std::uint8_t* unit, int n,
            std::int64_t d) {
  if (is_k) {
    return t.bits == 4 ? rrs::scalar::kv_k_code<4>(unit, n, d)
                       : rrs::scalar::kv_k_code<8>(unit, n, d);
  }
  return t.bits == 4 ? rrs::scalar::kv_v_code<4>(unit, d) : rrs::scalar::kv_v_code<8>(unit, d);
}

// What the first page holds, out of the layout of kv_page.hpp.
KvTensor read_kv(const rrs::internal::KvState& cache, const KvCase& c, bool is_k) {
  KvTensor out;
  const rrs::KvTensorLayout& t = is_k ? cache.main.layout.k : cache.main.layout.v;
  const std::byte* page = cache.main.pages.bytes(0) + rrs::kKvPageHeader;
  const auto* head = reinterpret_cast<const std::uint8_t*>(page);
  for (int token = 0; token < c.tokens; ++token) {
    const int row = is_k ? token / rrs::kKvBlockTokens : token;
    for (std::int64_t d = 0; d < c.head; ++d) {
      out.codes.push_back(
          kv_code(t, is_k, head + t.codes + row * t.unit, token % rrs::kKvBlockTokens, d));
    }
    for (std::int64_t g = 0; g < t.groups; ++g) {
      const std::int64_t at = g * rrs::kKvPageTokens + token;
      out.scales.push_back(rrs::scalar::load_f16(head + t.scales, at).bits);
      out.zeros.push_back(t.has_zeros ? head[t.zeros + at] : 1 << (t.bits - 1));
    }
  }
  return out;
}

}  // namespace

// By the functions behind rrs::KvCache, which keeps its pages to itself.
KvResult run_kv(const KvCase& c, const std::string& variant) {
  const rrs::ForceIsa force(rrs::isa_by_name(variant.c_str()).value());
  rrs::internal::KvState cache;
  require(rrs::detail::create_kv(to_rrs(c), 1, c.head, &cache), "create_kv");
  const rrs::MatrixView<const float> k(c.k.data(), c.tokens, c.head);
  const rrs::MatrixView<const float> v(c.v.data(), c.tokens, c.head);
  require(rrs::detail::append_kv(cache, false, k, v), "append_kv");
  rrs::KvQuery query;
  require(rrs::detail::prepare_kv_query(cache, c.q.data(), &query), "prepare_kv_query");
  KvResult out;
  out.query.assign(query.codes, query.codes + c.head);
  out.query_scale = {rrs::float_bits(query.scale)};
  out.k = read_kv(cache, c, true);
  out.v = read_kv(cache, c, false);
  std::vector<float> scores(static_cast<std::size_t>(c.tokens));
  std::vector<float> head(static_cast<std::size_t>(c.head));
  require(rrs::detail::scores_kv(cache, query, 0, 0, c.tokens, scores.data()), "scores_kv");
  require(rrs::detail::accumulate_kv(cache, c.p.data(), 0, 0, c.tokens, head.data()),
          "accumulate_kv");
  require(rrs::detail::finish_kv_output(cache, head.data()), "finish_kv_output");
  for (const float score : scores) out.scores.push_back(rrs::float_bits(score));
  for (const float value : head) out.out.push_back(rrs::float_bits(value));
  return out;
}

std::vector<std::string> variants() {
  std::vector<std::string> names;
  for (int i = 0; i < rrs::kIsaCount; ++i) {
    if (rrs::isa_supported(static_cast<rrs::Isa>(i))) names.emplace_back(rrs::kIsaNames[i]);
  }
  return names;
}

Result run(const Case& c, const std::string& variant) {
  Result out;
  const rrs::Scheme scheme = to_rrs(c.scheme);
  const rrs::PreparedWeight weight = make_weight(c, scheme, &out);
  const rrs::MatrixView<const float> x(c.x.data(), c.m, c.k);
  std::vector<float> y(static_cast<std::size_t>(c.m * c.n));
  rrs::Workspace ws(rrs::workspace_bytes(c.m, weight));
  rrs::PreparedActivation a;
  rrs::ActivationOptions options;
  if (!c.scheme.frozen.empty()) options.channels.frozen_scales = c.scheme.frozen.data();
  if (!c.l_a.empty()) {
    options.low_rank = &weight.view().low_rank;
    options.low_rank_count = 1;
  }
  options.isa = rrs::Isa::kScalar;
  require(rrs::smooth_rotate_quantize(x, scheme, ws, a, {}, options), "smooth_rotate_quantize");
  read_activation(a, &out);
  options.isa = rrs::isa_by_name(variant.c_str());
  require(rrs::smooth_rotate_quantize(x, scheme, ws, a, {}, options), "smooth_rotate_quantize");
  const rrs::GemmOptions gemm{c.bias.empty() ? nullptr : c.bias.data(), false};
  require(rrs::gemm(a, weight, rrs::MatrixView<float>(y.data(), c.m, c.n), {}, gemm), "gemm");
  for (const float v : y) out.y.push_back(rrs::float_bits(v));
  return out;
}

}  // namespace conformance
