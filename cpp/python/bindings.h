// What the files of the Python module share.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <vector>

#include "python/gil.h"
#include "weights/weights.h"

namespace py = pybind11;
using namespace mlpbank;

using Floats = py::array_t<float, py::array::c_style>;
using Ids = py::array_t<int64_t, py::array::c_style>;
using ByteArray = py::array_t<uint8_t, py::array::c_style>;

inline void expect(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// The views that BatchedWeights::load takes, over arrays that must hold `count` models each.
inline std::vector<LayerView> layer_views(const Architecture& architecture, int64_t count, const std::vector<Floats>& weights,
                                   const std::vector<std::optional<Floats>>& biases) {
  const auto& layers = architecture.layers();
  expect(weights.size() == layers.size() && biases.size() == layers.size(), "expected one weight and bias per layer");
  std::vector<LayerView> views;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    expect(weights[l].size() == count * layers[l].input_size * layers[l].output_size, "weight of wrong size");
    expect(!biases[l] || biases[l]->size() == count * layers[l].output_size, "bias of wrong size");
    views.push_back({weights[l].data(), biases[l] ? biases[l]->data() : nullptr});
  }
  return views;
}

void register_errors();              // bindings_errors.cpp
void register_bank(py::module_& m);  // bindings_bank.cpp
