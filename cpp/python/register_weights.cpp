// BatchedWeights and their snapshots.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/float_mode.h"
#include "engine/threads.h"
#include "python/arrays.h"
#include "python/direct.h"
#include "python/gil.h"
#include "python/register.h"
#include "weights/weights.h"

namespace mlpbank {
namespace {

using Weights = BatchedWeights;

std::shared_ptr<Weights> make_weights(int64_t num_models, const Architecture& architecture,
                                      const std::string& layout, const std::string& dtype) {
  return std::make_shared<Weights>(num_models, architecture, layout_from_name(layout, architecture),
                                   dtype_from_name(dtype));
}

// Weights that stay in the memory of an array.
std::shared_ptr<Weights> from_buffer(int64_t num_models, const Architecture& architecture,
                                     const std::string& layout, const std::string& dtype,
                                     const ByteArray& blocks, bool is_mapped,
                                     const std::vector<int64_t>& vacant) {
  return std::make_shared<Weights>(
      num_models, architecture, layout_from_name(layout, architecture), dtype_from_name(dtype),
      ReadOnly{blocks.data(), blocks.nbytes(), keep(blocks), is_mapped}, vacant);
}

void load(Weights& self, int64_t first, int64_t count, const std::vector<Floats>& weights,
          const std::vector<std::optional<Floats>>& biases,
          const std::vector<std::optional<Floats>>& slopes) {
  const auto views = layer_views(self.architecture(), count, weights, biases, slopes);
  const ReleasedGil released;
  self.load(first, count, views, count == 1 ? 1 : cpu_budget().threads);
}

// Weight, bias and, where it has one, slope of each layer.
using LayerArrays = std::tuple<Floats, Floats, std::optional<Floats>>;

std::vector<LayerArrays> get(const Weights& self, int64_t slot) {
  std::vector<LayerArrays> layers;
  std::vector<LayerTarget> targets;
  for (const LayerSpec& layer : self.architecture().layers()) {
    Floats weight({layer.input_size, layer.output_size}), bias(layer.output_size);
    std::optional<Floats> slope;
    if (layer.has_slope()) slope = Floats(std::vector<py::ssize_t>{});
    targets.push_back(
        {weight.mutable_data(), bias.mutable_data(), slope ? slope->mutable_data() : nullptr});
    layers.emplace_back(std::move(weight), std::move(bias), std::move(slope));
  }
  const ReleasedGil released;
  self.get(slot, targets);
  return layers;
}

// All blocks as they lie in memory, for pickles.
struct BlocksCopy {
  int64_t num_models;
  ByteArray blocks;
  std::vector<bool> present;  // by block; the bytes of others are zero
};

BlocksCopy copy_blocks(const Weights& self) {
  const int64_t models = self.num_models();
  BlocksCopy copy = {
      models, ByteArray(self.layout().num_blocks(models) * self.layout().block_bytes()), {}};
  uint8_t* to = copy.blocks.mutable_data();
  const py::ssize_t bytes = copy.blocks.size();
  const ReleasedGil released;
  std::fill_n(to, bytes, uint8_t{0});
  copy.present = self.copy_blocks(models, to);
  return copy;
}

void restore_blocks(Weights& self, const ByteArray& blocks, const std::vector<bool>& present) {
  const int64_t expected = self.layout().num_blocks(self.num_models());
  expect(static_cast<int64_t>(present.size()) == expected &&
             blocks.size() == expected * self.layout().block_bytes(),
         "units: not of this version of mlpbank");
  const uint8_t* from = blocks.data();
  const ReleasedGil released;
  self.restore_blocks(from, present);
}

// Blocks that are made apart from the weights, to be written to a file.

Bytes* block_at(const Weights& self, ByteArray& out) {
  expect(out.nbytes() == self.layout().block_bytes(), "out of wrong size");
  return out.mutable_data();
}

// The block that holds a slot as it is now; zeros where there is none.
void copy_block(const Weights& self, int64_t slot, ByteArray& out) {
  const int64_t block = slot / self.layout().block_models();
  Bytes* const to = block_at(self, out);
  const Weights::ReadGuard guard(self);
  const bool exists = block < self.layout().num_blocks(self.num_models());
  const Bytes* const from = exists ? guard.block(block) : nullptr;
  if (from == nullptr) {
    std::fill_n(to, out.nbytes(), Bytes{0});
  } else {
    std::copy_n(from, out.nbytes(), to);
  }
}

// Writes the model of a slot into its block.
void pack(const Weights& self, int64_t slot, const std::vector<Floats>& weights,
          const std::vector<std::optional<Floats>>& biases,
          const std::vector<std::optional<Floats>>& slopes, ByteArray& out) {
  const auto views = layer_views(self.architecture(), 1, weights, biases, slopes);
  Bytes* const to = block_at(self, out);
  const DefaultFloatMode mode;
  self.layout().pack(views, 0, 1, to, slot % self.layout().block_models());
}

// The entry of a dict that is an array of some shape and needs nothing done to it; null: none is.
py::handle ready_array(const py::dict& model, const std::string& name,
                       std::initializer_list<py::ssize_t> shape) {
  const py::handle found = PyDict_GetItemString(model.ptr(), name.c_str());
  if (!found || !is_direct<float>(found)) return {};
  const auto array = py::reinterpret_borrow<py::array>(found);
  const bool fits = array.ndim() == static_cast<py::ssize_t>(shape.size()) &&
                    std::equal(shape.begin(), shape.end(), array.shape());
  return fits ? found : py::handle();
}

// The matrices, biases and slopes of a dict that has them just as they are kept, which most models
// have. None where the package has to look: it converts, or says what is wrong.
py::object ready_model(const Weights& self, const py::object& object) {
  if (!PyDict_CheckExact(object.ptr()) || self.layout().dtype() != Dtype::float32) {
    return py::none();
  }
  const auto model = py::reinterpret_borrow<py::dict>(object);
  const auto& layers = self.architecture().layers();
  py::list weights, biases, slopes;
  std::size_t found = 0;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const py::ssize_t in = layers[l].input_size, out = layers[l].output_size;
    const std::string name = "layer_" + std::to_string(l), bias = name + ".bias";
    const py::handle matrix = ready_array(model, name, {in, out});
    if (!matrix) return py::none();
    weights.append(matrix);
    const py::handle row = ready_array(model, bias, {out});
    biases.append(row ? row : py::handle(Py_None));
    found += row ? 2 : 1;
    if (!layers[l].has_slope()) {
      slopes.append(py::none());
      continue;
    }
    const py::handle slope = ready_array(model, name + ".slope", {});
    if (!slope) return py::none();
    slopes.append(slope);
    ++found;
  }
  if (found != model.size()) return py::none();
  return py::make_tuple(weights, biases, slopes);
}

void clear_lane(const Weights& self, int64_t slot, ByteArray& out) {
  expect(self.layout().block_models() > 1, "expected a tile");
  self.layout().remove(block_at(self, out), slot % self.layout().block_models());
}

void copy_snapshot(const Weights::Snapshot& self, const Integers& slots, ByteArray& out) {
  expect(out.nbytes() == self.copied_bytes(slots.size()), "out of wrong size");
  const int64_t* from = slots.data();
  const py::ssize_t count = slots.size();
  uint8_t* to = out.mutable_data();
  const ReleasedGil released;
  self.copy(from, count, to);
}

}  // namespace

void register_weights(py::module_& m) {
  py::class_<BlocksCopy>(m, "BlocksCopy")
      .def_readonly("num_models", &BlocksCopy::num_models)
      .def_readonly("blocks", &BlocksCopy::blocks)
      .def_readonly("present", &BlocksCopy::present);

  py::class_<Weights, std::shared_ptr<Weights>>(m, "BatchedWeights")
      .def(py::init(&make_weights), py::arg("num_models"), py::arg("architecture"),
           py::arg("layout"), py::arg("dtype"))
      .def_static("from_buffer", &from_buffer, py::arg("num_models"), py::arg("architecture"),
                  py::arg("layout"), py::arg("dtype"), py::arg("blocks").noconvert(),
                  py::arg("is_mapped"), py::arg("vacant") = std::vector<int64_t>())
      .def_property_readonly("num_models", &Weights::num_models)
      .def_property_readonly("nbytes", &Weights::nbytes)
      .def_property_readonly(
          "dtype",
          [](const Weights& self) {
            return dtype_names()[static_cast<std::size_t>(self.layout().dtype())];
          })
      .def_property_readonly("layout",
                             [](const Weights& self) { return layout_name(self.layout().kind()); })
      .def_property_readonly(
          "address", [](const Weights& self) { return reinterpret_cast<uintptr_t>(self.data()); })
      .def("loaded_flags", [](const Weights& self) { return bool_array(self.loaded_flags()); })
      .def("revision", &Weights::revision, py::arg("slot"))
      .def(
          "unload", [](Weights& self, int64_t slot) { self.unload(slot); }, py::arg("slot"),
          py::call_guard<ReleasedGil>())
      .def("grow", &Weights::grow, py::arg("count"), py::call_guard<ReleasedGil>())
      .def("load", &load, py::arg("first"), py::arg("count"), py::arg("weights").noconvert(),
           py::arg("biases").noconvert(), py::arg("slopes").noconvert())
      .def("get", &get, py::arg("slot"))
      .def("copy_blocks", &copy_blocks)
      .def("copy_block", &copy_block, py::arg("slot"), py::arg("out").noconvert())
      .def("pack", &pack, py::arg("slot"), py::arg("weights").noconvert(),
           py::arg("biases").noconvert(), py::arg("slopes").noconvert(), py::arg("out").noconvert())
      .def("ready_model", &ready_model, py::arg("model"))
      .def("clear_lane", &clear_lane, py::arg("slot"), py::arg("out").noconvert())
      .def("restore_blocks", &restore_blocks, py::arg("blocks").noconvert(), py::arg("present"));

  py::class_<Weights::Snapshot, std::shared_ptr<Weights::Snapshot>>(m, "Snapshot")
      .def(py::init<std::shared_ptr<const Weights>>(), py::arg("weights"))
      .def("copy", &copy_snapshot, py::arg("slots").noconvert(), py::arg("out").noconvert());
}

}  // namespace mlpbank
