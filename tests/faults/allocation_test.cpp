// Memory runs out at every allocation of every offline function, one after the other, for good and
// for that one allocation: a Status says so (or std::bad_alloc does, in calibrate/), nothing leaks
// (run under a sanitizer), nothing is half-written, and with memory again the call succeeds.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "faults/failing_memory.hpp"
#include "rrs/c/rrs.h"
#include "rrs/calibrate/aser.hpp"
#include "rrs/calibrate/gptq.hpp"
#include "rrs/calibrate/hessian_basis.hpp"
#include "rrs/calibrate/smoothquant.hpp"
#include "rrs/calibrate/smoothquant_search.hpp"
#include "rrs/calibrate/spikes.hpp"
#include "rrs/calibrate/statistics.hpp"
#include "rrs/calibrate/zigzag.hpp"
#include "rrs/pipeline/weight_file.hpp"
#include "rrs/rrs.hpp"
#include "support/layer.hpp"

namespace {

using rrs::MatrixView;
using rrs::Status;
using rrs::StatusCode;

constexpr std::int64_t kN = 40, kK = 96;
const rrs_test::LayerData kLayer = rrs_test::make_layer(50, kN, kK, 1);

enum class Throws { kNever, kMay };

struct Outcome {
  Status status;
  bool thrown = false;
  bool ok() const { return !thrown && status.ok(); }
};

template <class Call>
Outcome run_failing(const Call& call, int after, rrs_test::Fails fails) {
  Outcome o;
  const rrs_test::FailAllocations fail(after, fails);
  try {
    o.status = call();
  } catch (const std::bad_alloc&) {
    o.thrown = true;
  }
  return o;
}

void expect_out_of_memory(const Outcome& o) {
  if (o.thrown) return;
  EXPECT_EQ(o.status.code, StatusCode::kOutOfMemory) << o.status.message();
}

// call() -> Status, with memory running out after 0, 1, 2, ... allocations until it succeeds.
// Returns the number of faults; after each, unharmed() must hold.
template <class Call, class Unharmed>
int every_allocation(const char* name, Throws throws, const Call& call, const Unharmed& unharmed) {
  int faults = 0, thrown = 0;
  for (;; ++faults) {
    const Outcome o = run_failing(call, faults, rrs_test::Fails::kAllFromThere);
    thrown += o.thrown ? 1 : 0;
    if (o.ok()) break;
    expect_out_of_memory(o);
    EXPECT_TRUE(unharmed()) << name << " after " << faults << " allocations";
    if (faults > 100000) return ADD_FAILURE() << name << " never succeeds", faults;
  }
  if (throws == Throws::kNever) {
    EXPECT_EQ(thrown, 0) << name;
  }
  std::printf("%s: %d faults, %d of them thrown\n", name, faults, thrown);
  return faults;
}

// A call that may succeed again and again: also with one allocation alone failing, which a call may
// survive (a stable sort does without its buffer).
template <class Call>
int every_allocation(const char* name, Throws throws, const Call& call) {
  const int faults = every_allocation(name, throws, call, [] { return true; });
  int thrown = 0;
  for (int i = 0; i < faults; ++i) {
    const Outcome o = run_failing(call, i, rrs_test::Fails::kOne);
    thrown += o.thrown ? 1 : 0;
    if (!o.ok()) expect_out_of_memory(o);
  }
  if (throws == Throws::kNever) {
    EXPECT_EQ(thrown, 0) << name;
  }
  std::printf("%s, one allocation: %d faults, %d of them thrown\n", name, faults, thrown);
  EXPECT_TRUE(call().ok()) << name;
  return 2 * faults;
}

template <class T>
Status status_of(const rrs::Result<T>& result) {
  return result.status();
}

TEST(Allocation, WeightsSayOutOfMemoryAndThrowNothing) {
  int faults = 0;
  std::vector<std::int32_t> order(kK);
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(kK - 1 - i);
  rrs::WeightOptions options;
  options.channels.input_permutation = order.data();
  for (const rrs::Scheme& s : {rrs::presets::rrs(), rrs::presets::quarot()}) {
    faults += every_allocation("prepare_weight", Throws::kNever, [&] {
      return status_of(rrs::prepare_weight(kLayer.W(), s, options));
    });
    std::vector<float> y(kLayer.w.size(), -1.0f);
    const std::vector<float> before = y;
    faults += every_allocation(
        "transform_weight", Throws::kNever,
        [&] {
          return rrs::transform_weight(kLayer.W(), s, MatrixView<float>(y.data(), kN, kK), options);
        },
        [&] { return y == before; });
    EXPECT_NE(y, before);
  }
  const rrs::PreparedWeight w = rrs_test::prepare(kLayer, rrs::presets::rrs());
  faults += every_allocation("attach_low_rank", Throws::kNever, [&] {
    return status_of(rrs::attach_low_rank(w, {kLayer.w.data(), kN, 4}, {kLayer.x.data(), 4, kK}));
  });
  const std::vector<std::int8_t> codes(kN * kK, 3);
  const std::vector<rrs::f16> scales(kN * 3, rrs::to_f16(0.5f));
  faults += every_allocation("weight_from_quantized", Throws::kNever, [&] {
    return status_of(rrs::weight_from_quantized(MatrixView<const std::int8_t>(codes.data(), kN, kK),
                                                MatrixView<const rrs::f16>(scales.data(), kN, 3),
                                                w.scheme()));
  });
  const std::vector<std::uint8_t> unsigned_codes(kN * kK, 3), zeros(kN * 3, 8);
  rrs::CodesOptions with_zeros;
  with_zeros.zero_points = {zeros.data(), kN, 3};
  faults += every_allocation("weight_from_codes", Throws::kNever, [&] {
    return status_of(
        rrs::weight_from_codes(MatrixView<const std::uint8_t>(unsigned_codes.data(), kN, kK),
                               MatrixView<const rrs::f16>(scales.data(), kN, 3), with_zeros));
  });
  const std::vector<std::uint8_t> blocks(kN * kK / 32 * rrs::kQ4_1Bytes, 1);
  faults += every_allocation("weight_from_q4_0", Throws::kNever, [&] {
    return status_of(rrs::weight_from_q4_0(blocks.data(), kN, kK));
  });
  faults += every_allocation("weight_from_q4_1", Throws::kNever, [&] {
    return status_of(rrs::weight_from_q4_1(blocks.data(), kN, kK));
  });
  EXPECT_GE(faults, 18);
}

// The hot path and the weight file allocate nothing at all.
TEST(Allocation, HotPathAndWeightFileNeedNone) {
  const rrs::PreparedWeight w = rrs_test::prepare(kLayer, rrs::presets::rrs());
  rrs::Workspace ws(rrs::workspace_bytes(kLayer.m, w.view()));
  std::vector<float> y(static_cast<std::size_t>(kLayer.m * kN));
  rrs::AlignedBuffer file(rrs::serialized_bytes(w));
  const rrs_test::FailAllocations fail(0);
  EXPECT_TRUE(rrs::linear(kLayer.X(), w, MatrixView<float>(y.data(), kLayer.m, kN), ws).ok());
  EXPECT_TRUE(rrs::serialize_weight(w, file.data(), static_cast<std::size_t>(file.size())).ok());
  EXPECT_TRUE(rrs::view_weight(file.data(), static_cast<std::size_t>(file.size())).ok());
  EXPECT_EQ(rrs_test::allocations_seen, 0);
}

// A workspace that found no memory is one of size 0, which the call reports.
TEST(Allocation, AWorkspaceWithoutMemoryIsReported) {
  const rrs::PreparedWeight w = rrs_test::prepare(kLayer, rrs::presets::rrs());
  std::vector<float> y(static_cast<std::size_t>(kLayer.m * kN), -1.0f);
  const std::vector<float> before = y;
  const std::size_t bytes = rrs::workspace_bytes(kLayer.m, w.view());
  const rrs_test::FailAllocations fail(0);
  rrs::Workspace ws(bytes);
  const Status status = rrs::linear(kLayer.X(), w, MatrixView<float>(y.data(), kLayer.m, kN), ws);
  EXPECT_EQ(status.code, StatusCode::kWorkspaceTooSmall);
  EXPECT_EQ(y, before);
}

TEST(Allocation, CalibrationFailsCleanly) {
  int faults = 0;
  const auto X = kLayer.X();
  rrs::InputStatistics seen;
  faults += every_allocation("update_statistics", Throws::kMay, [&] {
    seen = rrs::InputStatistics{};
    return rrs::update_statistics(X, true, &seen);
  });
  const rrs::Scheme scheme = rrs::presets::quarot();
  std::vector<double> hessian;
  faults += every_allocation("change_basis", Throws::kMay, [&] {
    hessian = seen.hessian;
    return rrs::change_basis(scheme, {}, kK, true, &hessian);
  });
  rrs::HessianOptions by_size;
  by_size.act_order = true;
  faults += every_allocation("factor_hessian", Throws::kMay,
                             [&] { return status_of(rrs::factor_hessian(hessian, kK, by_size)); });
  const auto factor = rrs::factor_hessian(hessian, kK, by_size);
  ASSERT_TRUE(factor.ok());
  faults += every_allocation("gptaq_correction", Throws::kMay,
                             [&] { return status_of(rrs::gptaq_correction(hessian, *factor)); });
  const auto correction = rrs::gptaq_correction(hessian, *factor);
  ASSERT_TRUE(correction.ok());
  rrs::GptqOptions gptaq;
  gptaq.correction = &*correction;
  faults += every_allocation("gptq", Throws::kMay, [&] {
    return status_of(rrs::gptq(kLayer.W(), *factor, scheme.weight, gptaq));
  });
  const rrs::PreparedWeight w = rrs_test::prepare(kLayer, scheme);
  std::vector<float> full(kLayer.w.size());
  ASSERT_TRUE(
      rrs::transform_weight(kLayer.W(), scheme, MatrixView<float>(full.data(), kN, kK)).ok());
  rrs::AserOptions aser;
  aser.rank = 6;
  faults += every_allocation("aser_weight", Throws::kMay, [&] {
    return status_of(
        rrs::aser_weight(w, MatrixView<const float>(full.data(), kN, kK), hessian, aser));
  });
  faults += every_allocation("aser_smoothing", Throws::kMay, [&] {
    return status_of(rrs::aser_smoothing(seen.sums, seen.relative, 5));
  });
  faults += every_allocation("zigzag_permutation", Throws::kMay,
                             [&] { return status_of(rrs::zigzag_permutation(seen.sums, 32)); });
  std::vector<float> maxima;
  faults += every_allocation(
      "update_channel_maxima", Throws::kMay, [&] { return rrs::update_channel_maxima(X, &maxima); },
      [&] { return maxima.empty(); });
  faults += every_allocation("smoothquant_scales", Throws::kMay,
                             [&] { return status_of(rrs::smoothquant_scales(maxima, maxima)); });
  faults += every_allocation("fold_into_norm", Throws::kMay,
                             [&] { return status_of(rrs::fold_into_norm(maxima, maxima)); });
  rrs::AlphaSearchOptions two;
  two.alphas = {0.25f, 0.5f};
  faults += every_allocation("search_smoothquant_alpha", Throws::kMay, [&] {
    return status_of(rrs::search_smoothquant_alpha(X, {kLayer.W()}, maxima, scheme, two));
  });
  EXPECT_GE(faults, 100);
}

TEST(Allocation, SpikeSearchesFailCleanly) {
  int faults = 0;
  std::vector<float> scales;
  faults += every_allocation("token_scales", Throws::kMay, [&] {
    scales = std::vector<float>();
    return rrs::token_scales(kLayer.X(), &scales);
  });
  faults += every_allocation("spike_ratio", Throws::kMay,
                             [&] { return status_of(rrs::spike_ratio(scales)); });
  faults += every_allocation("search_exemptions", Throws::kMay, [&] {
    return status_of(rrs::search_exemptions({3.0, 1.0, 2.0}, 0.01, [](const auto& exempt) {
      return exempt[0] && exempt[2] ? 10.0 : 20.0;
    }));
  });
  std::vector<std::int32_t> tokens;
  for (std::int32_t t = 0; t < 50; ++t) tokens.push_back(t);
  rrs::SpikeTokens found;
  faults += every_allocation("collect_spike_tokens", Throws::kMay, [&] {
    found = rrs::SpikeTokens{};
    return rrs::collect_spike_tokens(tokens, scales, 0, &found);
  });
  ASSERT_EQ(found.largest.size(), 3u);
  std::vector<std::int32_t> spikes, contexts;
  faults += every_allocation("top_spike_tokens", Throws::kMay, [&] {
    spikes = rrs::top_spike_tokens(found);
    return Status{};
  });
  faults += every_allocation("most_frequent_tokens", Throws::kMay, [&] {
    contexts = rrs::most_frequent_tokens(tokens, 5);
    return Status{};
  });
  faults += every_allocation("search_prefix", Throws::kMay, [&] {
    return status_of(rrs::search_prefix(1, spikes, contexts, [](const auto& probed) {
      return std::vector<float>(probed.size(), 1.0f);
    }));
  });
  EXPECT_GE(faults, 60);
}

// With the failing allocation inside a task, an executor that is noexcept (and threads that nobody
// guards) must not see an exception.
TEST(Allocation, NoExceptionLeavesATask) {
  rrs::InputStatistics seen;
  const auto executor = [](std::int64_t n, const auto& task) noexcept {
    static_assert(noexcept(task(n)), "tasks are noexcept");
    for (std::int64_t i = 0; i < n; ++i) task(i);
  };
  ASSERT_TRUE(rrs::update_statistics(kLayer.X(), true, &seen, executor).ok());
  const auto factor = rrs::factor_hessian(seen.hessian, kK);
  ASSERT_TRUE(factor.ok());
  const auto result =
      rrs::gptq(kLayer.W(), *factor, rrs::presets::rrs().weight, rrs::GptqOptions{}, executor);
  ASSERT_TRUE(result.ok());
}

TEST(Allocation, TheCInterfaceReturnsItsCode) {
  rrs_scheme scheme{};
  scheme.size = sizeof scheme;
  ASSERT_EQ(rrs_scheme_preset("rrs", &scheme, nullptr), RRS_OK);
  rrs_prepare_args args{};
  args.size = sizeof args;
  args.scheme = &scheme;
  args.w = rrs_matrix{const_cast<float*>(kLayer.w.data()), kN, kK, kK, RRS_F32};
  rrs_weight* weight = nullptr;
  rrs_error error{};
  const int faults = every_allocation(
      "rrs_weight_prepare", Throws::kNever,
      [&] {
        Status status;
        status.code = static_cast<StatusCode>(rrs_weight_prepare(&args, &weight, &error));
        return status;
      },
      [&] { return weight == nullptr; });
  EXPECT_GE(faults, 2);
  ASSERT_NE(weight, nullptr);
  const auto as_status = [](rrs_code code) {
    Status status;
    status.code = static_cast<StatusCode>(code);
    return status;
  };
  rrs::AlignedBuffer file(static_cast<std::size_t>(rrs_weight_serialized_bytes(weight)));
  ASSERT_EQ(rrs_weight_serialize(weight, file.data(), file.size(), nullptr), RRS_OK);
  rrs_weight* seen = nullptr;
  const int view_faults = every_allocation(
      "rrs_weight_view", Throws::kNever,
      [&] { return as_status(rrs_weight_view(file.data(), file.size(), &seen, &error)); },
      [&] { return seen == nullptr; });
  EXPECT_GE(view_faults, 1);
  char text[1024];
  const int explain_faults = every_allocation("rrs_explain", Throws::kNever, [&] {
    std::int64_t needed = 0;
    return as_status(rrs_explain(weight, 5, text, sizeof text, &needed, &error));
  });
  EXPECT_GE(explain_faults, 4);
  rrs_linear_args call{};
  call.size = sizeof call;
  call.weight = weight;
  const int call_faults = every_allocation("rrs_explain_linear", Throws::kNever, [&] {
    return as_status(rrs_explain_linear(&call, text, sizeof text, nullptr, &error));
  });
  EXPECT_GE(call_faults, 4);
  rrs_weight_free(seen);
  rrs_weight_free(weight);
}

}  // namespace
