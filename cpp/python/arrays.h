// Arrays as the Python package passes them, and checks of their sizes.
//
// The package has already converted them. Bindings use noconvert(), since array_t casts silently.
// The checks here are those that memory safety needs; the package has the messages for users.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <vector>

#include "weights/architecture.h"
#include "weights/layout.h"

namespace mlpbank {

namespace py = pybind11;

using Floats = py::array_t<float, py::array::c_style>;
using Doubles = py::array_t<double, py::array::c_style>;
using Integers = py::array_t<int64_t, py::array::c_style>;  // slots, handles, keys
using ByteArray = py::array_t<uint8_t, py::array::c_style>;
using BoolArray = py::array_t<bool>;

inline void expect(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

inline BoolArray bool_array(const std::vector<bool>& values) {
  BoolArray array(static_cast<py::ssize_t>(values.size()));
  std::copy(values.begin(), values.end(), array.mutable_data());
  return array;
}

// The views that BatchedWeights::load takes, over arrays that must hold `count` models each.
inline std::vector<LayerView> layer_views(const Architecture& architecture, int64_t count,
                                          const std::vector<Floats>& weights,
                                          const std::vector<std::optional<Floats>>& biases,
                                          const std::vector<std::optional<Floats>>& slopes) {
  const auto& layers = architecture.layers();
  expect(weights.size() == layers.size() && biases.size() == layers.size() &&
             slopes.size() == layers.size(),
         "expected one weight, bias and slope per layer");
  std::vector<LayerView> views;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const int64_t in = layers[l].input_size, out = layers[l].output_size;
    expect(weights[l].size() == count * in * out, "weight of wrong size");
    expect(!biases[l] || biases[l]->size() == count * out, "bias of wrong size");
    expect(!layers[l].has_slope() || (slopes[l] && slopes[l]->size() == count),
           "slope of wrong size");
    views.push_back({weights[l].data(), biases[l] ? biases[l]->data() : nullptr,
                     slopes[l] ? slopes[l]->data() : nullptr});
  }
  return views;
}

}  // namespace mlpbank
