// Layout: sizes and offsets, packing, unpacking, and the choice of a kind.
#include "weights/layout.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "names.h"
#include "weights/codec.h"

#define MLPBANK_ISA portable  // transpose() and for_each_panel() in the form every CPU has
#include "kernels/panels.h"
#include "kernels/transpose.h"

namespace mlpbank {
namespace {

using portable::transpose;

// Up to this many parameters a model goes into the lane layout. Beyond it, lane gains less than
// twice in memory, and a call for a few of the models reads and computes whole tiles. The
// measurements are in docs/internals.md, "Panel or lane layout".
constexpr int64_t kLaneMaxParameters = 256;

int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

int64_t element_bytes(Dtype dtype) {
#define MLPBANK_SIZE(name, type) sizeof(type),
  constexpr int64_t kBytes[] = {MLPBANK_DTYPES(MLPBANK_SIZE)};
#undef MLPBANK_SIZE
  return kBytes[static_cast<std::size_t>(dtype)];
}

// Calls `visit` with a value of the C++ type that weights are stored in.
template <class Visit>
void with_weight_type(Dtype dtype, Visit visit) {
  switch (dtype) {
#define MLPBANK_CASE(name, type) \
  case Dtype::name:              \
    return visit(type());
    MLPBANK_DTYPES(MLPBANK_CASE)
#undef MLPBANK_CASE
  }
}

// float32 rows in front of a panel's weights: biases and, for int8, scales.
int64_t header_rows(Dtype dtype) { return dtype == Dtype::int8 ? 2 : 1; }

// An activation as the kernels take it: celu with alpha 1 is elu, which is faster; with another
// alpha it gets 1 / alpha, too.
ActivationSpec computed_spec(const LayerSpec& layer) {
  const float alpha = layer.first;
  if (layer.activation != Activation::celu) return {layer.activation, layer.first, layer.second};
  if (alpha == 1.0f) return {Activation::elu, alpha, 0.0f};
  return {Activation::celu, alpha, 1.0f / alpha};
}

}  // namespace

const std::vector<std::string>& dtype_names() {
  static const std::vector<std::string> names = {MLPBANK_DTYPES(MLPBANK_NAME)};
  return names;
}

Dtype dtype_from_name(const std::string& name) {
  return static_cast<Dtype>(index_of_name("dtype", dtype_names(), name));
}

const char* layout_name(LayoutKind kind) {
  constexpr const char* kNames[] = {MLPBANK_LAYOUTS(MLPBANK_NAME)};
  return kNames[static_cast<std::size_t>(kind)];
}

LayoutKind layout_from_name(const std::string& name, const Architecture& architecture) {
  static const std::vector<std::string> names = {"auto", MLPBANK_LAYOUTS(MLPBANK_NAME)};
  const std::size_t i = index_of_name("layout", names, name);
  return i == 0 ? Layout::plan_kind(architecture) : static_cast<LayoutKind>(i - 1);
}

LayoutKind Layout::plan_kind(const Architecture& architecture) {
  return architecture.num_parameters() <= kLaneMaxParameters ? LayoutKind::lane : LayoutKind::panel;
}

Layout::Layout(const Architecture& architecture, LayoutKind kind, Dtype dtype)
    : kind_(kind), dtype_(dtype) {
  int64_t offset = 0, widest = architecture.input_size();
  for (const LayerSpec& layer : architecture.layers()) {
    layers_.push_back(
        {layer.input_size, layer.output_size, offset, model_floats_, computed_spec(layer)});
    offset = round_up(offset + layer_bytes(layer), kBlockAlignment);
    model_floats_ += (layer.input_size + header_rows(dtype)) * layer.output_size;
    if (layer.has_slope()) ++model_floats_;
    widest = std::max(widest, layer.output_size);
    widest_pair_ = std::max(widest_pair_, layer.input_size + layer.output_size);
    num_panels_ += (layer.output_size + panel_width() - 1) / panel_width();
  }
  if (kind == LayoutKind::panel) {
    // Leaves room for reads of whole vectors, see kernel.h: of biases, of scales, of the last
    // weights of a panel. A layer's last panel, or the one before it, is read furthest. A loop over
    // all panels would take too long: a file can state any architecture.
    int64_t end = offset;
    for (const LayerPlan& layer : layers_) {
      const int64_t last = (layer.out - 1) / kPanelWidth * kPanelWidth;
      for (int64_t o = std::max<int64_t>(0, last - kPanelWidth); o <= last; o += kPanelWidth) {
        const int64_t width = std::min(kPanelWidth, layer.out - o);
        const int64_t start =
            layer.offset + (layer.in * element_bytes(dtype) + 4 * header_rows(dtype)) * o;
        const int64_t header = 4 * header_rows(dtype) * width;
        const int64_t last_row = header + (layer.in - 1) * width * element_bytes(dtype);
        const int64_t header_end = 4 * ((header_rows(dtype) - 1) * width + kPanelWidth);
        end = std::max(end,
                       start + std::max(header_end, last_row + kPanelWidth * element_bytes(dtype)));
      }
    }
    offset = round_up(end, kBlockAlignment);
  } else {
    offset += kBlockAlignment;  // a tile ends with its present mask
  }
  block_bytes_ = offset;
  model_floats_ = round_up(model_floats_, kBlockAlignment / 4);
  buffer_width_ = round_up(widest, kBlockAlignment / 4);
}

int64_t Layout::panels_bytes(int64_t in, int64_t out) const {
  return (in * element_bytes(dtype_) + 4 * header_rows(dtype_)) * out * block_models();
}

int64_t Layout::layer_bytes(const LayerSpec& layer) const {
  const int64_t panels = panels_bytes(layer.input_size, layer.output_size);
  return layer.has_slope() ? portable::slopes_behind(int64_t{0}, panels) + 4 * block_models()
                           : panels;
}

Plan Layout::plan() const {
  const auto num_layers = static_cast<int64_t>(layers_.size());
  return {layers_.data(), num_layers,    block_bytes_,  panel_width(),
          num_panels_,    model_floats_, buffer_width_, widest_pair_};
}

// Visits the panels in the order of memory.
template <class Visit>
void Layout::for_each_panel(Visit visit) const {
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const LayerPlan& layer = layers_[l];
    const int64_t column_bytes = layer.in * element_bytes(dtype_) + 4 * header_rows(dtype_);
    const int64_t output_bytes = column_bytes * block_models();
    portable::for_each_panel(layer.offset, layer.out, panel_width(), output_bytes, [&](auto panel) {
      visit(Panel{l, panel.first, panel.outputs, panel.address});
    });
  }
}

namespace {

// Copies `rows` rows of `width` values of each of `models` models. Rows lie `from_stride` apart,
// models `model_stride`. A row of all models becomes width * step elements: element j of model i
// goes to j * step + i.
template <class To>
void copy_rows(const float* from, int64_t from_stride, int64_t rows, int64_t width, int64_t models,
               int64_t model_stride, To* to, int64_t step) {
  for (int64_t k = 0; k < rows; ++k, from += from_stride, to += width * step) {
    if constexpr (std::is_same_v<To, float>) {
      if (step > 1) {
        transpose(from, model_stride, models, width, to, step);
      } else if (width == kPanelWidth) {  // a known size compiles to four moves
        std::memcpy(to, from, sizeof(float) * kPanelWidth);
      } else {
        std::memcpy(to, from, sizeof(float) * static_cast<std::size_t>(width));
      }
    } else if (step == 1) {
      for (int64_t j = 0; j < width; ++j) encode(from[j], to[j]);
    } else {
      float columns[kLanePanelWidth * kTileModels];
      transpose(from, model_stride, models, width, columns, kTileModels);
      for (int64_t j = 0; j < width; ++j) {
        for (int64_t i = 0; i < models; ++i) encode(columns[j * kTileModels + i], to[j * step + i]);
      }
    }
  }
}

}  // namespace

template <class Weight>
void Layout::pack_panel(const Panel& panel, const LayerView& view, int64_t source, int64_t models,
                        Bytes* block, int64_t lane) const {
  const LayerPlan& layer = layers_[panel.layer];
  const int64_t in = layer.in, out = layer.out, width = panel.width, step = block_models();
  auto* header = reinterpret_cast<float*>(block + panel.offset) + lane;
  if (view.bias != nullptr) {
    copy_rows(view.bias + source * out + panel.first_output, out, 1, width, models, out, header,
              step);
  } else {
    for (int64_t j = 0; j < width; ++j) std::fill_n(header + j * step, models, 0.0f);
  }
  const float* from = view.weight + source * in * out + panel.first_output;
  auto* to =
      reinterpret_cast<Weight*>(block + panel.offset + 4 * header_rows(dtype_) * width * step) +
      lane;
  if constexpr (!std::is_same_v<Weight, int8_t>) {
    copy_rows(from, out, in, width, models, in * out, to, step);
  } else {
    // Symmetric, with one scale for each output of each model: the largest weight becomes 127.
    float* scales = header + width * step;
    for (int64_t i = 0; i < models; ++i) {
      const float* const matrix = from + i * in * out;
      float largest[kPanelWidth] = {}, divisor[kPanelWidth];
      for (int64_t k = 0; k < in; ++k) {
        for (int64_t j = 0; j < width; ++j)
          largest[j] = std::max(largest[j], std::abs(matrix[k * out + j]));
      }
      for (int64_t j = 0; j < width; ++j) {
        const float scale = largest[j] / 127.0f;
        scales[j * step + i] = scale;
        divisor[j] = scale > 0.0f ? scale : 1.0f;  // 0 or so small that it underflowed
      }
      for (int64_t k = 0; k < in; ++k) {
        for (int64_t j = 0; j < width; ++j) {
          // A subnormal scale can make the quotient leave the range.
          const float quotient = std::clamp(matrix[k * out + j] / divisor[j], -127.0f, 127.0f);
          encode(quotient, to[(k * width + j) * step + i]);
        }
      }
    }
  }
}

template <class Weight>
void Layout::unpack_panel(const Panel& panel, const Bytes* block, int64_t lane, float* weight,
                          float* bias) const {
  const LayerPlan& layer = layers_[panel.layer];
  const int64_t width = panel.width, step = block_models();
  const auto* header = reinterpret_cast<const float*>(block + panel.offset) + lane;
  const Bytes* weights = block + panel.offset + 4 * header_rows(dtype_) * width * step;
  const auto* from = reinterpret_cast<const Weight*>(weights) + lane;
  for (int64_t j = 0; j < width; ++j) {
    bias[panel.first_output + j] = header[j * step];
    float scale = 1.0f;
    if (dtype_ == Dtype::int8) scale = header[(width + j) * step];
    for (int64_t k = 0; k < layer.in; ++k) {
      const float value = decode(from[(k * width + j) * step]);
      weight[k * layer.out + panel.first_output + j] =
          dtype_ == Dtype::int8 ? value * scale : value;
    }
  }
}

void Layout::pack(const std::vector<LayerView>& views, int64_t source, int64_t models, Bytes* block,
                  int64_t lane) const {
  for_each_panel([&](const Panel& panel) {
    const LayerView& view = views[panel.layer];
    with_weight_type(dtype_, [&](auto zero) {
      pack_panel<decltype(zero)>(panel, view, source, models, block, lane);
    });
  });
  for_each_slope([&](std::size_t layer, int64_t offset) {
    std::memcpy(block + offset + 4 * lane, views[layer].slope + source,
                sizeof(float) * static_cast<std::size_t>(models));
  });
  if (kind_ == LayoutKind::lane)
    set_present_mask(block, present_mask(block) | ((1u << models) - 1) << lane);
}

void Layout::unpack(const Bytes* block, int64_t lane,
                    const std::vector<LayerTarget>& targets) const {
  for_each_panel([&](const Panel& panel) {
    const LayerTarget& to = targets[panel.layer];
    with_weight_type(dtype_, [&](auto zero) {
      unpack_panel<decltype(zero)>(panel, block, lane, to.weight, to.bias);
    });
  });
  for_each_slope([&](std::size_t layer, int64_t offset) {
    std::memcpy(targets[layer].slope, block + offset + 4 * lane, sizeof(float));
  });
}

template <class Visit>
void Layout::for_each_slope(Visit visit) const {
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const LayerPlan& layer = layers_[l];
    if (layer.activation.activation != Activation::prelu) continue;
    visit(l, portable::slopes_behind(layer.offset, panels_bytes(layer.in, layer.out)));
  }
}

// Calls visit(offset, bytes of an element) for each element of lane 0 of a tile. The element of
// lane i lies i elements further.
template <class Visit>
void Layout::for_each_element(Visit visit) const {
  const auto run = [&](int64_t offset, int64_t elements, auto bytes) {
    for (int64_t i = 0; i < elements; ++i, offset += bytes * kTileModels) visit(offset, bytes);
  };
  for_each_panel([&](const Panel& panel) {
    const int64_t headers = header_rows(dtype_) * panel.width,
                  weights = layers_[panel.layer].in * panel.width;
    const int64_t offset = panel.offset + 4 * headers * kTileModels;
    run(panel.offset, headers, std::integral_constant<int64_t, 4>());
    switch (element_bytes(dtype_)) {
      case 4:
        return run(offset, weights, std::integral_constant<int64_t, 4>());
      case 2:
        return run(offset, weights, std::integral_constant<int64_t, 2>());
      default:
        return run(offset, weights, std::integral_constant<int64_t, 1>());
    }
  });
  for_each_slope(
      [&](std::size_t, int64_t offset) { visit(offset, std::integral_constant<int64_t, 4>()); });
}

void Layout::copy_model(const Bytes* from, int64_t from_lane, Bytes* to, int64_t to_lane) const {
  if (kind_ == LayoutKind::panel) {
    std::memcpy(to, from, static_cast<std::size_t>(block_bytes_));
    return;
  }
  for_each_element([&](int64_t offset, auto bytes) {
    std::memcpy(to + offset + bytes * to_lane, from + offset + bytes * from_lane, bytes);
  });
  set_present_mask(to, present_mask(to) | 1u << to_lane);
}

void Layout::copy_tile(const Bytes* tile, const Layout& panels, Bytes* to) const {
  const int64_t bytes = element_bytes(dtype_), headers = header_rows(dtype_);
  // Copies element 0 .. count - 1 of each model, `size` bytes each.
  const auto copy = [&](const Bytes* from, int64_t count, int64_t size, Bytes* model) {
    for (int64_t i = 0; i < count; ++i, model += size) {
      for (int64_t m = 0; m < kTileModels; ++m, from += size) {
        std::memcpy(model + m * panels.block_bytes_, from, static_cast<std::size_t>(size));
      }
    }
  };
  for_each_panel([&](const Panel& panel) {
    // Panels of 8 outputs go into panels of 16.
    const LayerPlan& layer = panels.layers_[panel.layer];
    const int64_t first = panel.first_output / kPanelWidth * kPanelWidth;
    const int64_t width = std::min(kPanelWidth, layer.out - first);
    const int64_t column = panel.first_output - first;
    Bytes* const target = to + layer.offset + (layer.in * bytes + 4 * headers) * first;
    const Bytes* from = tile + panel.offset;
    for (int64_t h = 0; h < headers; ++h, from += 4 * panel.width * kTileModels) {
      copy(from, panel.width, 4, target + 4 * (h * width + column));
    }
    Bytes* weights = target + 4 * headers * width + bytes * column;
    for (int64_t k = 0; k < layer.in; ++k, from += bytes * panel.width * kTileModels) {
      copy(from, panel.width, bytes, weights + bytes * k * width);
    }
  });
  for_each_slope([&](std::size_t l, int64_t offset) {
    const LayerPlan& layer = panels.layers_[l];
    const int64_t slopes =
        portable::slopes_behind(layer.offset, panels.panels_bytes(layer.in, layer.out));
    copy(tile + offset, 1, 4, to + slopes);
  });
}

void Layout::remove(Bytes* block, int64_t lane) const {
  for_each_element(
      [&](int64_t offset, auto bytes) { std::memset(block + offset + bytes * lane, 0, bytes); });
  set_present_mask(block, present_mask(block) & ~(1u << lane));
}

}  // namespace mlpbank
