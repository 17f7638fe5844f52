// An unknown RRS_ISA is an error that every entry point reports: never a silent fallback. The
// variable is read once per process, so this program sets it before anything else.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "rrs/rrs.hpp"

namespace {

const int kSet = setenv("RRS_ISA", "avx1024", 1);

void expect_named(const rrs::Status& status) {
  EXPECT_EQ(status.code, rrs::StatusCode::kUnsupportedIsa);
  EXPECT_NE(status.message().find("RRS_ISA"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("'avx1024'"), std::string::npos) << status.message();
}

TEST(IsaEnvironment, UnknownNameIsReportedByEveryEntry) {
  ASSERT_EQ(kSet, 0);
  const rrs::Scheme scheme = rrs::presets::rrs();
  std::vector<float> x(64, 1.0f), w(16 * 64, 1.0f), y(16, -1.0f);
  const rrs::MatrixView<const float> X(x.data(), 1, 64), W(w.data(), 16, 64);
  rrs::Workspace ws(rrs::workspace_bytes(1, 64, scheme));
  rrs::PreparedActivation a;
  expect_named(rrs::smooth_rotate_quantize(X, scheme, ws, a));
  expect_named(rrs::explain(scheme, 1, 16, 64).status);
  expect_named(rrs::prepare_weight(W, scheme).status());
  std::vector<float> rotated(64);
  std::vector<unsigned char> memory(rrs::rotate_workspace_bytes(1, 64, scheme.rotation));
  expect_named(rrs::rotate(X, scheme.rotation, rrs::MatrixView<float>(rotated.data(), 1, 64),
                           memory.data(), memory.size()));
  // A per-call level overrides the environment.
  rrs::ActivationOptions options;
  options.isa = rrs::Isa::kScalar;
  EXPECT_TRUE(rrs::smooth_rotate_quantize(X, scheme, ws, a, rrs::SerialExecutor{}, options).ok());
}

}  // namespace
