// The Python module mlpbank._core. Nothing else knows Python; nothing here computes.
//
// Arrays come converted by the Python package and are taken as they are (noconvert): array_t would cast silently. What
// is checked here is what memory safety needs; messages for users are the Python package's.
#include "python/bindings.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "engine/engine.h"
#include "engine/float_mode.h"
#include "engine/inference.h"
#include "engine/roofline.h"
#include "engine/threads.h"

namespace {

using LayerTuple = std::tuple<int64_t, int64_t, std::string>;

Architecture make_architecture(const std::vector<LayerTuple>& layers) {
  std::vector<LayerSpec> specs;
  for (const auto& [in, out, activation] : layers) specs.push_back({in, out, activation_from_name(activation)});
  return Architecture(std::move(specs));
}

LayoutKind layout_kind(const Architecture& architecture, const std::string& name) {
  if (name == "auto") return Layout::plan_kind(architecture);
  if (name == "panel") return LayoutKind::panel;
  if (name == "lane") return LayoutKind::lane;
  throw std::invalid_argument("layout: expected one of 'auto', 'panel', 'lane', got '" + name + "'");
}

const char* layout_name(LayoutKind kind) { return kind == LayoutKind::lane ? "lane" : "panel"; }

// `models` is what the Python package saw when it checked shapes; another thread may have let the bank grow since.
void check_models(const BatchedInference& self, int64_t models) {
  expect(models > 0 && models <= self.weights().num_models(), "models: more than the bank has");
}

// Rows of each entry, from the sizes of x and y.
int64_t rows_of(const BatchedInference& self, int64_t x_entries, int64_t y_entries, const Floats& x, const Floats& y) {
  const int64_t in = self.weights().architecture().input_size(), out = self.weights().architecture().output_size();
  const int64_t rows = x_entries == 0 ? 0 : x.size() / (x_entries * in);
  expect(x.size() == x_entries * rows * in && y.size() == y_entries * rows * out, "x or y of wrong size");
  return rows;
}

// Whether an object is exactly what the core computes on: a plain native float32 array, C-contiguous and aligned.
bool is_direct(py::handle object, bool writeable) {
  using py::detail::npy_api;
  static PyObject* const float32 = py::dtype::of<float>().release().ptr();
  if (Py_TYPE(object.ptr()) != npy_api::get().PyArray_Type_) return false;
  const auto* array = py::detail::array_proxy(object.ptr());
  const int wanted = npy_api::NPY_ARRAY_C_CONTIGUOUS_ | npy_api::NPY_ARRAY_ALIGNED_ |
                     (writeable ? npy_api::NPY_ARRAY_WRITEABLE_ : 0);
  return array->descr == float32 && (array->flags & wanted) == wanted;
}

// Runs a forward without the GIL, or with it if it is brief: 16 threads that call for 6 us each had 0.7 of one thread's
// throughput when each handed the GIL over twice in a call. (Pages of a mapped file may have to come from disk, so that
// is never brief.)
template <class Forward>
void run_forward(bool brief, Forward forward) {
  if (brief) return forward();
  const ReleasedGil released;
  forward();
}

ForwardOptions options(int num_threads, bool missing_nan, int64_t models = 0) {
  return {num_threads, missing_nan ? Missing::nan : Missing::error, models};
}

// An array as memory that the core keeps.
ReadOnly read_only(const ByteArray& array) { return {array.data(), array.nbytes(), keep(array)}; }

// The everyday call without a detour: the result, or None where an argument needs the Python package's attention.
// Checking here costs 0.1 us, there 1 us, as much as a small model's whole forward.
py::object forward_direct(const BatchedInference& self, const py::object& inputs, const py::object& out) {
  if (!is_direct(inputs, false)) return py::none();
  const auto x = py::reinterpret_borrow<py::array>(inputs);
  const Architecture& architecture = self.weights().architecture();
  const py::ssize_t models = self.weights().num_models(), last = x.ndim() - 1;
  if ((last != 1 && last != 2) || x.shape(0) != models || x.shape(last) != architecture.input_size()) return py::none();
  std::array<py::ssize_t, 3> shape = {models, last == 2 ? x.shape(1) : architecture.output_size(),
                                      architecture.output_size()};
  py::array y;
  if (out.is_none()) {
    y = Floats(std::vector<py::ssize_t>(shape.begin(), shape.begin() + x.ndim()));
  } else {
    if (!is_direct(out, true)) return py::none();
    y = py::reinterpret_borrow<py::array>(out);
    if (y.ndim() != x.ndim() || !std::equal(y.shape(), y.shape() + y.ndim(), shape.begin())) return py::none();
    const auto x_begin = reinterpret_cast<uintptr_t>(x.data()), y_begin = reinterpret_cast<uintptr_t>(y.data());
    if (x_begin < y_begin + static_cast<uintptr_t>(y.nbytes()) &&
        y_begin < x_begin + static_cast<uintptr_t>(x.nbytes())) {
      return py::none();
    }
  }
  const auto* from = static_cast<const float*>(x.data());
  auto* to = static_cast<float*>(y.mutable_data());
  const int64_t rows = last == 2 ? x.shape(1) : 1;
  run_forward(self.is_brief(models, rows), [&] { self.forward(from, rows, to, options(0, false, models)); });
  return y;
}

constexpr const char* kRefusal = "mlpbank: expected the main interpreter, got a subinterpreter";

bool is_subinterpreter() { return PyInterpreterState_Get() != PyInterpreterState_Main(); }

}  // namespace

// PyInit__core, below, comes before it.
PYBIND11_MODULE(core_of_main_interpreter, m) {
  if (is_subinterpreter()) throw py::import_error(kRefusal);  // from Python 3.13 on, which runs PyInit in the main one
  m.doc() = "The C++ core of mlpbank. Use the package, which validates and converts.";

  register_errors();

  // Calls a function of the Python package whose arithmetic is NumPy's; here, so that no exception can keep the mode.
  m.def("in_default_mode", [](const py::object& function, const py::args& args, const py::kwargs& kwargs) {
    const DefaultFloatMode mode;
    return function(*args, **kwargs);
  });

  m.def("available_isas", &available_isas);
  m.def("activation_names", &activation_names);
  m.def(
      "cpu_budget",
      [](const char* root) {
        const CpuBudget b = cpu_budget(root);
        return std::make_tuple(b.threads, b.reason, b.own_variable, b.openmp_variable, b.affinity, b.cgroup);
      },
      py::arg("root") = "");
  m.def("cgroup_cpus", &cgroup_cpus, py::arg("root") = "");
  m.def("read_bandwidth", &read_bandwidth, py::arg("nbytes"), py::arg("num_threads"), py::arg("repeats"),
        py::call_guard<ReleasedGil>());
  m.def("fma_peak", &fma_peak, py::arg("isa"), py::arg("num_threads"), py::call_guard<ReleasedGil>());

  // (models of a unit, bytes of a unit, the layout's name)
  m.def(
      "unit_of",
      [](const Architecture& architecture, const std::string& layout, const std::string& dtype) {
        const Layout l(architecture, layout_kind(architecture, layout), dtype_from_name(dtype));
        return std::make_tuple(l.unit_models(), l.unit_bytes(), layout_name(l.kind()));
      },
      py::arg("architecture"), py::arg("layout"), py::arg("dtype"));

  py::class_<Architecture>(m, "Architecture")
      .def(py::init(&make_architecture), py::arg("layers"))
      .def("validate", &Architecture::validate)
      .def_property_readonly("input_size", &Architecture::input_size)
      .def_property_readonly("output_size", &Architecture::output_size)
      .def_property_readonly("num_parameters", &Architecture::num_parameters);

  py::class_<Engine>(m, "Engine")
      .def(py::init<int, const std::string&>(), py::arg("num_threads"), py::arg("isa"))
      .def_property_readonly("num_threads", &Engine::num_threads)
      .def_property_readonly("isa", [](const Engine& self) { return self.kernel().isa; });

  py::class_<BatchedWeights, std::shared_ptr<BatchedWeights>>(m, "BatchedWeights")
      .def(py::init([](int64_t num_models, const Architecture& architecture, const std::string& layout,
                       const std::string& dtype) {
             return std::make_shared<BatchedWeights>(num_models, architecture, layout_kind(architecture, layout),
                                                     dtype_from_name(dtype));
           }),
           py::arg("num_models"), py::arg("architecture"), py::arg("layout"), py::arg("dtype"))
      .def_static(
          "over",
          [](int64_t num_models, const Architecture& architecture, const std::string& layout, const std::string& dtype,
             const ByteArray& units) {
            return std::make_shared<BatchedWeights>(num_models, architecture, layout_kind(architecture, layout),
                                                    dtype_from_name(dtype), read_only(units));
          },
          py::arg("num_models"), py::arg("architecture"), py::arg("layout"), py::arg("dtype"),
          py::arg("units").noconvert())
      .def_property_readonly("num_models", &BatchedWeights::num_models)
      .def_property_readonly("nbytes", &BatchedWeights::nbytes)
      .def_property_readonly(
          "dtype", [](const BatchedWeights& w) { return dtype_names()[static_cast<int>(w.layout().dtype())]; })
      .def_property_readonly("address", [](const BatchedWeights& w) { return reinterpret_cast<uintptr_t>(w.data()); })
      .def_property_readonly(
          "layout", [](const BatchedWeights& w) { return layout_name(w.layout().kind()); })
      .def("loaded_flags",
           [](const BatchedWeights& self) {
             const std::vector<bool> flags = self.loaded_flags();
             py::array_t<bool> result(static_cast<py::ssize_t>(flags.size()));
             std::copy(flags.begin(), flags.end(), result.mutable_data());
             return result;
           })
      .def("generation", &BatchedWeights::generation, py::arg("model"))
      .def(
          "unload", [](BatchedWeights& self, int64_t model) { self.unload(model); }, py::arg("model"),
          py::call_guard<ReleasedGil>())
      .def("grow", &BatchedWeights::grow, py::arg("count"), py::call_guard<ReleasedGil>())
      .def("load",
           [](BatchedWeights& self, int64_t first, int64_t count, const std::vector<Floats>& weights,
              const std::vector<std::optional<Floats>>& biases) {
             const auto views = layer_views(self.architecture(), count, weights, biases);
             const ReleasedGil released;
             self.load(first, count, views, count == 1 ? 1 : cpu_budget().threads);
           },
           py::arg("first"), py::arg("count"), py::arg("weights").noconvert(), py::arg("biases").noconvert())
      .def("copy_units",
           [](const BatchedWeights& self) {
             const int64_t models = self.num_models();
             ByteArray units(self.units_for(models) * self.layout().unit_bytes());
             uint8_t* to = units.mutable_data();
             const py::ssize_t bytes = units.size();
             std::vector<bool> there;
             {
               const ReleasedGil released;
               std::fill_n(to, bytes, uint8_t{0});
               there = self.copy_units(models, to);
             }
             return std::make_tuple(models, units, there);
           })
      .def("restore_units",
           [](BatchedWeights& self, const ByteArray& units, const std::vector<bool>& there) {
             const int64_t expected = self.units_for(self.num_models());
             expect(static_cast<int64_t>(there.size()) == expected &&
                        units.size() == expected * self.layout().unit_bytes(),
                    "units: not of this version of mlpbank");
             const uint8_t* from = units.data();
             const ReleasedGil released;
             self.restore_units(from, there);
           },
           py::arg("units").noconvert(), py::arg("there"))
      .def("get", [](const BatchedWeights& self, int64_t model) {
        std::vector<Floats> weights, biases;
        std::vector<float*> weight_data, bias_data;
        for (const LayerSpec& layer : self.architecture().layers()) {
          weight_data.push_back(weights.emplace_back(Floats({layer.input_size, layer.output_size})).mutable_data());
          bias_data.push_back(biases.emplace_back(Floats(layer.output_size)).mutable_data());
        }
        {
          const ReleasedGil released;
          self.get(model, weight_data, bias_data);
        }
        return std::make_pair(weights, biases);
      });

  py::class_<BatchedWeights::Snapshot, std::shared_ptr<BatchedWeights::Snapshot>>(m, "Snapshot")
      .def(py::init<std::shared_ptr<const BatchedWeights>>(), py::arg("weights"))
      .def(
          "copy",
          [](const BatchedWeights::Snapshot& self, const Ids& models, ByteArray& out) {
            expect(out.nbytes() == self.copied_bytes(models.size()), "out of wrong size");
            const int64_t* ids = models.data();
            uint8_t* to = out.mutable_data();
            const ReleasedGil released;
            self.copy(ids, models.size(), to);
          },
          py::arg("models").noconvert(), py::arg("out").noconvert());

  py::class_<BatchedInference>(m, "BatchedInference")
      .def(py::init<std::shared_ptr<BatchedWeights>, Engine>(), py::arg("weights"), py::arg("engine"))
      .def("forward_direct", &forward_direct, py::arg("inputs"), py::arg("out"))
      .def("forward",
           [](const BatchedInference& self, const Floats& x, Floats& y, int64_t models, int num_threads,
              bool missing_nan) {
             check_models(self, models);
             const int64_t rows = rows_of(self, models, models, x, y);
             const float* from = x.data();
             float* to = y.mutable_data();
             const ForwardOptions how = options(num_threads, missing_nan, models);
             run_forward(self.is_brief(models, rows), [&] { self.forward(from, rows, to, how); });
           },
           py::arg("x").noconvert(), py::arg("y").noconvert(), py::arg("models"), py::arg("num_threads"),
           py::arg("missing_nan"))
      .def("forward_shared",
           [](const BatchedInference& self, const Floats& x, Floats& y, int64_t models, int num_threads,
              bool missing_nan) {
             check_models(self, models);
             const int64_t rows = rows_of(self, 1, models, x, y);
             const float* from = x.data();
             float* to = y.mutable_data();
             const ForwardOptions how = options(num_threads, missing_nan, models);
             run_forward(self.is_brief(models, rows), [&] { self.forward_shared(from, rows, to, how); });
           },
           py::arg("x").noconvert(), py::arg("y").noconvert(), py::arg("models"), py::arg("num_threads"),
           py::arg("missing_nan"))
      .def("forward_models",
           [](const BatchedInference& self, const Ids& models, const Floats& x, Floats& y, int num_threads,
              bool missing_nan) {
             const int64_t rows = rows_of(self, models.size(), models.size(), x, y);
             const int64_t* ids = models.data();
             const float* from = x.data();
             float* to = y.mutable_data();
             const ForwardOptions how = options(num_threads, missing_nan);
             const int64_t entries = models.size();
             // Scattered models of the lane layout are a tile each.
             const int64_t most = entries * self.weights().layout().unit_models();
             run_forward(self.is_brief(most, rows), [&] { self.forward_models(ids, entries, from, rows, to, how); });
           },
           py::arg("models").noconvert(), py::arg("x").noconvert(), py::arg("y").noconvert(), py::arg("num_threads"),
           py::arg("missing_nan"));

  register_bank(m);
}

// Python's import calls this. pybind11 waits for ever where it is set up in a subinterpreter that shares its GIL, so
// those are refused before.
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  if (is_subinterpreter()) {
    PyErr_SetString(PyExc_ImportError, kRefusal);
    return nullptr;
  }
  return PyInit_core_of_main_interpreter();
}
