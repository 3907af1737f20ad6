// Architectures, and the blocks that their models are stored in.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "python/register.h"
#include "weights/architecture.h"
#include "weights/layout.h"

namespace py = pybind11;

namespace mlpbank {
namespace {

// Input size, output size, activation and its two parameters, see ActivationSpec.
using LayerTuple = std::tuple<int64_t, int64_t, std::string, float, float>;

Architecture make_architecture(const std::vector<LayerTuple>& layers) {
  std::vector<LayerSpec> specs;
  for (const auto& [in, out, activation, first, second] : layers) {
    specs.push_back({in, out, activation_from_name(activation), first, second});
  }
  return Architecture(std::move(specs));
}

// What bank files have to know of a block.
struct BlockFormat {
  int64_t models, bytes;
  const char* layout;
};

BlockFormat block_of(const Architecture& architecture, const std::string& layout,
                     const std::string& dtype) {
  const Layout found(architecture, layout_from_name(layout, architecture), dtype_from_name(dtype));
  return {found.block_models(), found.block_bytes(), layout_name(found.kind())};
}

}  // namespace

void register_architecture(py::module_& m) {
  m.def("activation_names", &activation_names);

  py::class_<Architecture>(m, "Architecture")
      .def(py::init(&make_architecture), py::arg("layers"))
      .def("validate", &Architecture::validate)
      .def_property_readonly("input_size", &Architecture::input_size)
      .def_property_readonly("output_size", &Architecture::output_size)
      .def_property_readonly("num_parameters", &Architecture::num_parameters);

  py::class_<BlockFormat>(m, "BlockFormat")
      .def_readonly("models", &BlockFormat::models)
      .def_readonly("bytes", &BlockFormat::bytes)
      .def_readonly("layout", &BlockFormat::layout);
  m.def("block_of", &block_of, py::arg("architecture"), py::arg("layout"), py::arg("dtype"));
}

}  // namespace mlpbank
