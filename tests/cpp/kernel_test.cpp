// Every tile of every instruction set, layout and dtype gives the bits of
// kernels/reference_layer.h.
//
// Kernels are called as the engine calls them, over sizes that need each shape of each tile.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "buffer.h"
#include "engine/engine.h"
#include "kernels/reference_layer.h"
#include "network.h"
#include "weights/codec.h"
#include "weights/layout.h"

namespace {

using namespace mlpbank;

// Outputs: every width of a tail panel, then panels side by side. Rows: every tile of few rows,
// then whole and partial vectors, passes, and what is left over.
constexpr int64_t kOutputs[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                12, 13, 14, 15, 16, 17, 31, 33, 48, 65, 113};
constexpr int64_t kRows[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  12, 13, 15,
                             16, 17, 24, 25, 31, 32, 33, 40, 47, 48, 49, 57};
constexpr int64_t kMostRows = 57;

// A kernel's multiply-add. Without a fused one, the product is rounded by itself.
float multiply_add(bool fused, float a, float b, float c) {
  return fused ? std::fma(a, b, c) : a * b + c;
}

template <class Weight>
float rounded_to(float f) {
  Weight stored;
  encode(f, stored);
  return decode(stored);
}

// The layers of some models as they are stored: weights rounded to the dtype, scales for int8.
struct Stored {
  std::vector<Floats> weight, bias, scale;

  Stored(const Network& net, Dtype dtype)
      : weight(net.parameters.weight), bias(net.parameters.bias) {
    for (std::size_t l = 0; l < weight.size(); ++l) {
      const LayerSpec& layer = net.architecture.layers()[l];
      const int64_t in = layer.input_size, out = layer.output_size;
      scale.emplace_back(bias[l].size());
      for (int64_t m = 0; m < net.models; ++m) {
        for (int64_t o = 0; o < out; ++o) {
          float* column = weight[l].data() + m * in * out + o;
          float largest = 0.0f;
          for (int64_t k = 0; k < in; ++k) largest = std::max(largest, std::abs(column[k * out]));
          float& divisor = scale[l][static_cast<std::size_t>(m * out + o)];
          divisor = largest / 127.0f;
          for (int64_t k = 0; k < in; ++k) {
            column[k * out] = round(column[k * out], dtype, divisor);
          }
        }
      }
    }
  }

  static float round(float w, Dtype dtype, float divisor) {
    switch (dtype) {
      case Dtype::int8:
        return rounded_to<int8_t>(w / divisor);
      case Dtype::float16:
        return rounded_to<Half>(w);
      case Dtype::bfloat16:
        return rounded_to<BFloat>(w);
      default:
        return w;
    }
  }
};

// One model of one layout, instruction set and dtype.
class Kernels {
 public:
  Kernels(const Network& net, const std::string& isa, LayoutKind kind, Dtype dtype)
      : net_(net),
        kernel_(choose_kernel(isa)),
        layout_(net.architecture, kind, dtype),
        plan_(layout_.plan()),
        block_(AlignedBuffer::of_bytes(plan_.block_bytes)),
        scratch_(scratch_floats(kind, plan_)) {
    layout_.pack(net.parameters.views(), 0, net.models, block_.bytes(), 0);
  }

  // The size of the scratch memory, as Kernel states it.
  static int64_t scratch_floats(LayoutKind kind, const Plan& plan) {
    const int64_t panel = (plan.buffer_width + 3) * kPanelWidth;
    const int64_t tiles = 2 * kTileModels * plan.model_floats;
    return kScratchRows * plan.buffer_width + (kind == LayoutKind::lane ? tiles : panel);
  }

  // Model m's rows at x + m * x_stride, its results at y + m * y_stride.
  void run(const float* x, int64_t x_stride, int64_t rows, float* y, int64_t y_stride) {
    const auto dtype = static_cast<std::size_t>(layout_.dtype());
    const Bytes* const block = block_.bytes();
    if (layout_.kind() == LayoutKind::lane) {
      const LaneJob job = {block, block, x, x_stride, y, y_stride, rows, net_.models};
      return kernel_.lane[dtype](plan_, job, scratch_.data());
    }
    kernel_.panel[dtype](plan_, {block, block, x, y, rows}, scratch_.data());
  }

 private:
  const Network& net_;
  const Kernel& kernel_;
  const Layout layout_;
  const Plan plan_;
  AlignedBuffer block_, scratch_;
};

// The kernel's own activation of single values: a layer that changes nothing else.
class OneValue {
 public:
  OneValue(const char* activation, const std::string& isa) : net_({1, 1}, 1, activation) {
    net_.parameters.weight[0] = {1.0f};
    net_.parameters.bias[0] = {-0.0f};
    kernels_.emplace_back(net_, isa, LayoutKind::panel, Dtype::float32);
  }
  float operator()(float x) {
    float y;
    kernels_.front().run(&x, 1, 1, &y, 1);
    return y;
  }

 private:
  Network net_;
  std::vector<Kernels> kernels_;
};

// All rows of all models through the reference: (models, kMostRows, outputs). activation(value,
// layer, model) is that of one value.
template <class Function>
Floats expected_rows(const Network& net, const Stored& stored, bool scaled, bool fused,
                     const Floats& x, Function activation) {
  const int64_t in = net.architecture.input_size();
  Floats results;
  for (int64_t row = 0; row < net.models * kMostRows; ++row) {
    Floats from(x.begin() + row * in, x.begin() + (row + 1) * in);
    for (std::size_t l = 0; l < stored.weight.size(); ++l) {
      const LayerSpec& layer = net.architecture.layers()[l];
      const int64_t m = row / kMostRows, n = layer.output_size;
      Floats to(static_cast<std::size_t>(n));
      reference_layer(
          layer.input_size, n, from.data(), stored.weight[l].data() + m * layer.input_size * n,
          stored.bias[l].data() + m * n, scaled ? stored.scale[l].data() + m * n : nullptr,
          [&](float a, float b, float c) { return multiply_add(fused, a, b, c); },
          [&](float f) { return activation(f, l, m); }, to.data());
      from = to;
    }
    results.insert(results.end(), from.begin(), from.end());
  }
  return results;
}

void check_every_number_of_rows(Kernels& kernels, const Network& net, const Floats& x,
                                const Floats& expected) {
  const int64_t in = net.architecture.input_size(), out = net.architecture.output_size();
  for (const int64_t rows : kRows) {
    Floats y(static_cast<std::size_t>(net.models * rows * out + 1), 77.0f);  // one behind the end
    kernels.run(x.data(), kMostRows * in, rows, y.data(), rows * out);
    for (int64_t m = 0; m < net.models; ++m) {
      const auto bytes = static_cast<std::size_t>(rows * out) * sizeof(float);
      const float* from = expected.data() + m * kMostRows * out;
      CHECK(std::memcmp(y.data() + m * rows * out, from, bytes) == 0);
    }
    CHECK(y.back() == 77.0f);
  }
}

void check_network(const Network& net, const char* activation, const std::string& isa,
                   LayoutKind kind, Dtype dtype) {
  const Floats x = net.inputs(net.models, kMostRows);
  const Stored stored(net, dtype);
  const bool scaled = dtype == Dtype::int8, fused = isa != "portable";
  Kernels kernels(net, isa, kind, dtype);
  const auto check = [&](auto function) {
    const Floats expected = expected_rows(net, stored, scaled, fused, x, function);
    check_every_number_of_rows(kernels, net, x, expected);
  };
  const std::string name = activation;
  if (name == "none") {
    check([](float f, std::size_t, int64_t) { return f; });
  } else if (name == "relu") {
    check([](float f, std::size_t, int64_t) { return 0.0f > f ? 0.0f : f; });  // keeps NaN and -0
  } else if (name == "prelu") {
    check([&](float f, std::size_t layer, int64_t model) {
      return f < 0.0f ? net.parameters.slope[layer][static_cast<std::size_t>(model)] * f : f;
    });
  } else {
    OneValue one_value(activation, isa);
    check([&](float f, std::size_t, int64_t) { return one_value(f); });
  }
}

void check_tiles(const std::string& isa, LayoutKind kind, Dtype dtype) {
  const char* activations[] = {"none", "relu", "tanh", "sigmoid"};
  int turn = 0;
  for (const int64_t out : kOutputs) {
    for (const int64_t models : {1, 5, 16}) {
      if (kind == LayoutKind::panel && models > 1) continue;
      // 7 inputs leave a rest whether 4, 2 or 1 steps are unrolled.
      check_network(Network({1, out}, models, activations[turn % 4]), activations[turn % 4], isa,
                    kind, dtype);
      ++turn;
      check_network(Network({7, out, 5}, models, activations[turn % 4]), activations[turn % 4], isa,
                    kind, dtype);
      ++turn;
    }
    ++turn;
  }
}

// Each model has a slope of its own for each layer: of any sign, above 1, 0 and -0.
void check_slopes(const std::string& isa, LayoutKind kind, Dtype dtype) {
  for (const int64_t out : {1, 3, 8, 15, 16, 17, 33}) {
    for (const int64_t models : {1, 5, 16}) {
      if (kind == LayoutKind::panel && models > 1) continue;
      Network net({7, out, 5, out}, models, "prelu");
      net.parameters.slope[1].front() = out % 2 ? 0.0f : -0.0f;
      check_network(net, "prelu", isa, kind, dtype);
    }
  }
}

template <class Check>
void with_every_kernel(LayoutKind kind, Check check) {
  for (const std::string& isa : available_isas()) {
    for (int dtype = 0; dtype < kDtypes; ++dtype) check(isa, kind, static_cast<Dtype>(dtype));
  }
}

TEST(panel_layout) { with_every_kernel(LayoutKind::panel, check_tiles); }
TEST(lane_layout) { with_every_kernel(LayoutKind::lane, check_tiles); }
TEST(slopes_in_the_panel_layout) { with_every_kernel(LayoutKind::panel, check_slopes); }
TEST(slopes_in_the_lane_layout) { with_every_kernel(LayoutKind::lane, check_slopes); }

}  // namespace

int main(int argc, char** argv) {
  unsetenv("MLPBANK_ISA");
  return run_tests(argc, argv);
}
