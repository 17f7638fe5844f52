// The one process-wide request, Linux's permission to use tile registers: not made while a lower
// level is asked for, and where Linux refuses it the amx level is an error like any other that the
// machine lacks. The answer is kept per process, so this program owns its own.
#include <gtest/gtest.h>

#include "rrs/core/config.hpp"

#if RRS_HAS_AMX
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "rrs/rrs.hpp"

namespace {

const int kSet = setenv("RRS_ISA", "avx512vnni", 1);
constexpr std::uint64_t kTileData = 1ull << 18;

// What this process may use; 0 where the kernel does not know the question (before 5.16).
std::uint64_t permitted() {
  constexpr long kGetPermission = 0x1022;
  std::uint64_t mask = 0;
  return syscall(SYS_arch_prctl, kGetPermission, &mask) == 0 ? mask : 0;
}

TEST(AmxPermission, IsNotAskedForWithoutNeedAndMayBeRefused) {
  ASSERT_EQ(kSet, 0);
  if ((rrs::cpu_features() & rrs::kRequiredAmx) != rrs::kRequiredAmx) {
    EXPECT_FALSE(rrs::isa_supported(rrs::Isa::kAmx));
    GTEST_SKIP() << "no tile registers here";
  }
  ASSERT_EQ(permitted() & kTileData, 0u);
  const rrs::Scheme scheme = rrs::presets::rrs();
  std::vector<float> x(16 * 64, 1.0f);
  rrs::Workspace ws(rrs::workspace_bytes(16, 64, scheme));
  rrs::PreparedActivation a;
  const rrs::MatrixView<const float> X(x.data(), 16, 64);
  ASSERT_TRUE(rrs::smooth_rotate_quantize(X, scheme, ws, a).ok());
  EXPECT_EQ(a.table->isa, rrs::Isa::kAvx512Vnni);
  EXPECT_EQ(permitted() & kTileData, 0u) << "asked although RRS_ISA names a lower level";

  // Linux refuses while a thread has a signal stack that could not hold the tiles: 8 KB of them.
  std::vector<char> memory(8192);
  stack_t stack{};
  stack.ss_sp = memory.data();
  stack.ss_size = memory.size();
  ASSERT_EQ(sigaltstack(&stack, nullptr), 0);
  EXPECT_FALSE(rrs::isa_supported(rrs::Isa::kAmx));
  EXPECT_EQ(permitted() & kTileData, 0u);
  rrs::ActivationOptions options;
  options.isa = rrs::Isa::kAmx;
  const rrs::Status refused =
      rrs::smooth_rotate_quantize(X, scheme, ws, a, rrs::SerialExecutor{}, options);
  EXPECT_EQ(refused.code, rrs::StatusCode::kUnsupportedIsa);
  EXPECT_NE(refused.message().find("'amx'"), std::string::npos) << refused.message();
  EXPECT_EQ(rrs::best_isa(), rrs::Isa::kAvx512Vnni);
  stack.ss_flags = SS_DISABLE;
  ASSERT_EQ(sigaltstack(&stack, nullptr), 0);
}

}  // namespace

#else

TEST(AmxPermission, LevelIsAbsent) { SUCCEED(); }

#endif
