// RS as published without groups: one smoothing scale per channel, which no integer product can
// carry. The activations come from reference/, dequantized; the product is the float one.
#include <utility>

#include "linear.hpp"
#include "rrs/reference/pack.hpp"
#include "rrs/reference/smooth.hpp"

namespace rrs_llm {
namespace {

class SimulatedRsLinear final : public Linear {
 public:
  SimulatedRsLinear(std::string name, const rrs::WeightView& weight)
      : stored_bytes_(weight.stored_bytes()) {
    const std::vector<double> dequantized = rrs::reference::dequantize(weight);
    product_ = make_float_linear(std::move(name),
                                 std::vector<float>(dequantized.begin(), dequantized.end()),
                                 weight.n, weight.k);
  }

  const char* apply(InputCache& input, const LinearOutput& out,
                    const ThreadPool& pool) const override {
    const std::vector<double> smooth =
        rrs::reference::rs_ungrouped(input.x(), input.rows(), input.cols());
    const std::vector<float> x(smooth.begin(), smooth.end());
    InputCache simulated;
    simulated.set(x.data(), input.rows(), input.cols());
    return product_->apply(simulated, out, pool);
  }

  LinearInfo info() const override {
    LinearInfo i = product_->info();
    i.precision = "w4a4 simulated";
    i.simulated = true;
    i.stored_bytes = stored_bytes_;
    return i;
  }

 private:
  std::unique_ptr<Linear> product_;
  std::int64_t stored_bytes_;
};

}  // namespace

std::unique_ptr<Linear> make_simulated_rs_linear(std::string name, const rrs::WeightView& weight) {
  return std::make_unique<SimulatedRsLinear>(std::move(name), weight);
}

}  // namespace rrs_llm
