// H H^T = I in full, for every order 1..512, through the kernels themselves: the identity matrix is
// rotated twice. H is symmetric (checked too), so the second rotation is the product with H^T.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <vector>

#include "rrs/rotate/rotate.hpp"
#include "support/sanitizer.hpp"

namespace {

std::vector<float> rotated(const std::vector<float>& x, std::int64_t n) {
  rrs::Rotation rotation;
  rotation.kind = rrs::RotationKind::kFull;
  std::vector<float> y(x.size(), NAN);
  std::vector<unsigned char> workspace(rrs::rotate_workspace_bytes(n, n, rotation));
  const rrs::Status status =
      rrs::rotate(rrs::MatrixView<const float>(x.data(), n, n), rotation,
                  rrs::MatrixView<float>(y.data(), n, n), workspace.data(), workspace.size());
  EXPECT_TRUE(status.ok()) << status.message();
  return y;
}

// Largest |a[i][j] - b[i][j]|, or infinity when anything is NaN.
template <class A, class B>
double largest_difference(std::size_t n, const A& a, const B& b) {
  double worst = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      const double d = std::abs(static_cast<double>(a(i, j)) - static_cast<double>(b(i, j)));
      if (!(d <= worst)) worst = std::isnan(d) ? INFINITY : d;
    }
  }
  return worst;
}

// Every order; under the address sanitizer, which looks for other things and takes 20 times as
// long, and where RRS_TEST_QUICK is set, every ninth.
std::size_t order_step() {
  return rrs_test::kSanitized || std::getenv("RRS_TEST_QUICK") != nullptr ? 9 : 1;
}

TEST(Orthogonal, EveryOrderUpTo512InFull) {
  int orders = 0;
  double worst = 0.0;
  for (std::size_t n = 1; n <= 512; n += order_step()) {
    std::vector<float> identity(n * n, 0.0f);
    for (std::size_t i = 0; i < n; ++i) identity[i * n + i] = 1.0f;
    const std::vector<float> h = rotated(identity, static_cast<std::int64_t>(n));
    const std::vector<float> product = rotated(h, static_cast<std::int64_t>(n));
    const auto at = [n](const std::vector<float>& m) {
      return [&m, n](std::size_t i, std::size_t j) { return m[i * n + j]; };
    };
    const auto transposed = [&h, n](std::size_t i, std::size_t j) { return h[j * n + i]; };
    ASSERT_LT(largest_difference(n, at(h), transposed), 1e-6) << "symmetry of order " << n;
    const double error = largest_difference(n, at(product), at(identity));
    ASSERT_LT(error, 1e-5) << "order " << n;
    worst = error > worst ? error : worst;
    ++orders;
  }
  EXPECT_EQ(orders, order_step() == 1 ? 512 : 57);
  EXPECT_GT(worst, 1e-5 / 50);  // the bound means something
}

}  // namespace
