// BatchedInference: three forwards over arrays, and a fast path for the usual call.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>

#include "engine/inference.h"
#include "errors.h"
#include "python/arrays.h"
#include "python/direct.h"
#include "python/register.h"

namespace mlpbank {
namespace {

using Inference = BatchedInference;

// What the three forwards share: checks the sizes of x and y, then calls forward(x, rows, y). The
// call reads blocks of at most `models` models.
template <class Forward>
void forward_arrays(const Inference& self, const Floats& x, int64_t x_entries, Floats& y,
                    int64_t y_entries, int64_t models, Forward forward) {
  const Architecture& architecture = self.weights().architecture();
  const int64_t in = architecture.input_size(), out = architecture.output_size();
  const int64_t rows = x_entries == 0 ? 0 : x.size() / (x_entries * in);
  expect(x.size() == x_entries * rows * in && y.size() == y_entries * rows * out,
         "x or y of wrong size");
  const float* from = x.data();
  float* to = y.mutable_data();
  run(self.runs_inline(models, rows), [&] { forward(from, rows, to); });
}

// `num_models` is the number that the Python package saw when it checked shapes. The weights may
// have grown since, in another thread.
ForwardOptions dense_options(const Inference& self, int64_t num_models, int num_threads,
                             bool missing_nan) {
  expect(num_models > 0 && num_models <= self.weights().num_models(),
         "models: more than the bank has");
  return {num_threads, missing_nan ? Missing::nan : Missing::error, num_models};
}

void forward(const Inference& self, const Floats& x, Floats& y, int64_t num_models, int num_threads,
             bool missing_nan) {
  const ForwardOptions options = dense_options(self, num_models, num_threads, missing_nan);
  forward_arrays(
      self, x, num_models, y, num_models, num_models,
      [&](const float* from, int64_t rows, float* to) { self.forward(from, rows, to, options); });
}

void forward_shared(const Inference& self, const Floats& x, Floats& y, int64_t num_models,
                    int num_threads, bool missing_nan) {
  const ForwardOptions options = dense_options(self, num_models, num_threads, missing_nan);
  forward_arrays(self, x, 1, y, num_models, num_models,
                 [&](const float* from, int64_t rows, float* to) {
                   self.forward_shared(from, rows, to, options);
                 });
}

// False: the moment that it was to see has passed.
bool forward_models(const Inference& self, const Integers& slots, const Floats& x, Floats& y,
                    int num_threads, bool missing_nan, std::optional<uint64_t> moment) {
  const Missing missing = missing_nan ? Missing::nan : Missing::error;
  const ForwardOptions options = {num_threads, missing, 0, moment};
  const int64_t* const first = slots.data();
  const int64_t entries = slots.size();
  // Scattered models of the lane layout are a tile each.
  const int64_t most = entries * self.weights().layout().block_models();
  try {
    forward_arrays(self, x, entries, y, entries, most,
                   [&](const float* from, int64_t rows, float* to) {
                     self.forward_models(first, entries, from, rows, to, options);
                   });
  } catch (const MomentPassed&) {
    return false;
  }
  return true;
}

// forward() without the Python package's checks, which take as long as a small model's whole
// forward. Returns the result, or None where an argument needs the package's attention.
py::object forward_direct(const Inference& self, const py::object& x_object,
                          const py::object& out) {
  if (!is_direct<float>(x_object)) return py::none();
  const auto x = py::reinterpret_borrow<py::array>(x_object);
  const Architecture& architecture = self.weights().architecture();
  const py::ssize_t models = self.weights().num_models(), dimensions = x.ndim();
  if (dimensions != 2 && dimensions != 3) return py::none();
  if (x.shape(0) != models || x.shape(dimensions - 1) != architecture.input_size()) {
    return py::none();
  }
  const int64_t rows = dimensions == 3 ? x.shape(1) : 1;
  py::array y;
  if (!make_result(x, architecture.output_size(), out, y)) return py::none();
  const auto* from = static_cast<const float*>(x.data());
  auto* to = static_cast<float*>(y.mutable_data());
  const ForwardOptions options = {0, Missing::error, models};
  run(self.runs_inline(models, rows), [&] { self.forward(from, rows, to, options); });
  return y;
}

}  // namespace

void register_inference(py::module_& m) {
  py::class_<Inference, std::shared_ptr<Inference>>(m, "BatchedInference")
      .def(py::init<std::shared_ptr<BatchedWeights>, Engine>(), py::arg("weights"),
           py::arg("engine"))
      .def("forward_direct", &forward_direct, py::arg("x"), py::arg("out"))
      .def("forward", &forward, py::arg("x").noconvert(), py::arg("y").noconvert(),
           py::arg("num_models"), py::arg("num_threads"), py::arg("missing_nan"))
      .def("forward_shared", &forward_shared, py::arg("x").noconvert(), py::arg("y").noconvert(),
           py::arg("num_models"), py::arg("num_threads"), py::arg("missing_nan"))
      .def("forward_models", &forward_models, py::arg("slots").noconvert(),
           py::arg("x").noconvert(), py::arg("y").noconvert(), py::arg("num_threads"),
           py::arg("missing_nan"), py::arg("moment") = py::none());
}

}  // namespace mlpbank
