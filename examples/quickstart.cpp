// One linear layer in 4 bits: Y = X W^T for 32 tokens, 512 inputs (one of them an outlier), 256
// outputs.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "rrs/rrs.hpp"

int fail(const rrs::Status& s) { return std::fprintf(stderr, "%s\n", s.message().c_str()), 1; }

int main() {
  constexpr int M = 32, N = 256, K = 512;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> X(M * K), W(N * K), Y(M * N);
  for (float& x : X) x = normal(random);
  for (float& w : W) w = normal(random);
  for (std::size_t t = 0; t < M; ++t) X[t * K + 7] *= 50.0f;  // the outlier channel

  const rrs::Scheme scheme = rrs::presets::rrs();  // a plain struct: change any field
  const auto w = rrs::prepare_weight(rrs::MatrixView<const float>(W.data(), N, K), scheme);
  if (!w) return fail(w.status());  // offline, once per layer

  rrs::Workspace workspace(rrs::workspace_bytes(M, K, scheme));  // reused by every call
  rrs::PreparedActivation a;                                     // shared by q, k and v
  const rrs::MatrixView<const float> x(X.data(), M, K);
  if (auto s = rrs::smooth_rotate_quantize(x, scheme, workspace, a); !s) return fail(s);
  if (auto s = rrs::gemm(a, *w, rrs::MatrixView<float>(Y.data(), M, N)); !s) return fail(s);

  double error = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < Y.size(); ++i) {
    double y = 0.0;
    for (std::size_t k = 0; k < K; ++k) y += double(X[i / N * K + k]) * double(W[i % N * K + k]);
    error += (double(Y[i]) - y) * (double(Y[i]) - y);
    norm += y * y;
  }
  std::printf("relative error %.4f at %.2f bits per weight\n", std::sqrt(error / norm),
              w->bits_per_weight());
}
