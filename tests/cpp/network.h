// Random networks, and their forward in double arithmetic.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "engine/inference.h"
#include "weights/architecture.h"
#include "weights/layout.h"
#include "weights/weights.h"

namespace mlpbank {

using Floats = std::vector<float>;

inline constexpr LayoutKind kLayouts[] = {LayoutKind::panel, LayoutKind::lane};
inline constexpr int64_t kSizes[] = {1, 2, 3, 7, 15, 16, 17, 31, 33, 63, 65, 127};

inline std::mt19937& generator() {
  static std::mt19937 twister(1);
  return twister;
}

inline int64_t random_below(int64_t n) {
  return std::uniform_int_distribution<int64_t>(0, n - 1)(generator());
}

inline Floats random_floats(int64_t n, float scale = 1.0f) {
  // Uniform, as far from 0 as `scale` says on average: cheap also where a sanitizer checks every
  // step.
  Floats values(static_cast<std::size_t>(n));
  for (float& value : values)
    value = (static_cast<float>(generator()()) * 0x1p-32f - 0.5f) * 3.5f * scale;
  return values;
}

inline bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline Architecture mlp(const std::vector<int64_t>& sizes, const char* activation = "tanh") {
  std::vector<LayerSpec> layers;
  for (std::size_t i = 0; i + 1 < sizes.size(); ++i) {
    layers.push_back({sizes[i], sizes[i + 1], activation_from_name(activation)});
  }
  return Architecture(layers);
}

// Stacked weights and biases of some models, as users hold them.
struct Parameters {
  std::vector<Floats> weight, bias, slope;  // slopes: of layers with prelu, else empty

  Parameters(const Architecture& architecture, int64_t models) {
    for (const LayerSpec& layer : architecture.layers()) {
      weight.push_back(random_floats(models * layer.input_size * layer.output_size,
                                     1.0f / std::sqrt(static_cast<float>(layer.input_size))));
      bias.push_back(random_floats(models * layer.output_size));
      slope.push_back(layer.has_slope() ? random_floats(models) : Floats());
    }
  }

  std::vector<LayerView> views() const {
    std::vector<LayerView> result;
    for (std::size_t l = 0; l < weight.size(); ++l)
      result.push_back({weight[l].data(), bias[l].data(), slope[l].data()});
    return result;
  }

  Parameters negated() const {
    Parameters result = *this;
    for (auto* group : {&result.weight, &result.bias, &result.slope}) {
      for (Floats& values : *group) {
        for (float& value : values) value = -value;
      }
    }
    return result;
  }
};

struct Network {
  Architecture architecture;
  int64_t models;
  Parameters parameters;
  int64_t roundings = 1;  // of each term of a sum, beside one for each input

  Network(const std::vector<int64_t>& sizes, int64_t n, const char* activation = "tanh")
      : architecture(mlp(sizes, activation)), models(n), parameters(architecture, n) {}

  std::shared_ptr<BatchedWeights> weights(LayoutKind kind) const {
    auto result = std::make_shared<BatchedWeights>(models, architecture, kind);
    result->load(0, models, parameters.views(), 2);
    return result;
  }

  Floats inputs(int64_t entries, int64_t rows) const {
    return random_floats(entries * rows * architecture.input_size());
  }
};

inline Floats forward(const BatchedInference& inference, const Floats& x, int64_t rows,
                      int threads = 1) {
  const BatchedWeights& weights = inference.weights();
  Floats y(
      static_cast<std::size_t>(weights.num_models() * rows * weights.architecture().output_size()));
  inference.forward(x.data(), rows, y.data(), {threads, Missing::error});
  return y;
}

// One row through one model in double: y, and how far a float result may be off.
inline void reference(const Network& net, int64_t model, const float* x, std::vector<double>& y,
                      std::vector<double>& error) {
  constexpr double u = 0x1p-24;
  y.assign(x, x + net.architecture.input_size());
  error.assign(y.size(), 0.0);
  for (std::size_t l = 0; l < net.parameters.weight.size(); ++l) {
    const LayerSpec& layer = net.architecture.layers()[l];
    const int64_t in = layer.input_size, out = layer.output_size;
    const float* w = net.parameters.weight[l].data() + model * in * out;
    const double n = static_cast<double>(in + net.roundings), gamma = n * u / (1 - n * u);
    std::vector<double> z(static_cast<std::size_t>(out)), e(z.size());
    for (int64_t o = 0; o < out; ++o) {
      const double b = net.parameters.bias[l][static_cast<std::size_t>(model * out + o)];
      double sum = b, magnitude = std::abs(b), carried = 0;
      for (int64_t k = 0; k < in; ++k) {
        const auto i = static_cast<std::size_t>(k);
        const double weight = w[k * out + o];
        sum += y[i] * weight;
        magnitude += (std::abs(y[i]) + error[i]) * std::abs(weight);
        carried += error[i] * std::abs(weight);
      }
      const std::string& name = activation_name(layer.activation);
      const auto i = static_cast<std::size_t>(o);
      e[i] = carried + gamma * magnitude;
      z[i] = name == "tanh" ? std::tanh(sum) : name == "relu" ? std::max(sum, 0.0) : sum;
      if (layer.has_slope()) {
        const double slope = net.parameters.slope[l][static_cast<std::size_t>(model)];
        if (sum < 0) z[i] = slope * sum;
        e[i] *= std::max(1.0, std::abs(slope));
      }
      if (name == "tanh" || layer.has_slope())
        e[i] += 8 * u * (std::abs(z[i]) + e[i]);  // its own 4 ULP
    }
    y = z;
    error = e;
  }
}

}  // namespace mlpbank
