#include "layout.h"

#include <algorithm>
#include <cstring>

#define MLPBANK_ISA baseline  // of simd.h only transpose() is used here, in the form every CPU has
#include "simd.h"

namespace mlpbank {
namespace {

using baseline::transpose;

constexpr int64_t kAlignFloats = 16;  // 64 bytes
// Up to this many parameters a model goes into the lane layout. Speed of lane over panel, AVX-512, one thread:
//
//                  58 parameters  212   612..881  1089..2177  3699   6337      (4-8-2, 8-16-4, ..., 32-64-64-1)
//   1 row, in L2       3.4        1.8   1.2        1.1         1.1    1.3
//   1 row, in memory   2.3        1.2   1.2        1.1         1.0    1.0
//   7 rows             2.2        1.5   0.8..1.0   0.8         0.6    0.6
//   16 rows            0.9        0.8   0.6        0.5         0.5    0.4
//
// Between 256 and 1,000 parameters lane gains a little for one row per model and loses more for many rows, and a call
// for a few of the models reads whole tiles there; so they go into the panel layout too.
constexpr int64_t kLaneMaxParameters = 256;

int64_t round_up(int64_t n) { return (n + kAlignFloats - 1) / kAlignFloats * kAlignFloats; }

}  // namespace

LayoutKind Layout::plan_kind(const Architecture& architecture) {
  return architecture.num_parameters() <= kLaneMaxParameters ? LayoutKind::lane : LayoutKind::panel;
}

Layout::Layout(const Architecture& architecture, LayoutKind kind) : kind_(kind) {
  int64_t offset = 0, widest = architecture.input_size();
  for (const LayerSpec& layer : architecture.layers()) {
    layers_.push_back({layer.input_size, layer.output_size, offset, layer.activation});
    offset = round_up(offset + (layer.input_size + 1) * layer.output_size * unit_models());
    widest = std::max(widest, layer.output_size);
  }
  // Room for the whole-vector reads of the last layer's tail panel, see kernel.h.
  const int64_t tail = architecture.output_size() % kPanelWidth;
  if (kind == LayoutKind::panel && tail != 0) {
    const LayerPlan& last = layers_.back();
    offset = round_up(last.offset + (last.in + 1) * last.out + kPanelWidth - tail);
  }
  unit_floats_ = offset;
  buffer_width_ = round_up(widest);
}

Plan Layout::plan() const {
  const auto num_layers = static_cast<int64_t>(layers_.size());
  return {layers_.data(), num_layers, unit_floats_, unit_models(), panel_width(), buffer_width_};
}

// Calls visit(layer, panel's first output, its width, its offset in the unit) in the order of memory.
template <class Visit>
void Layout::for_each_panel(Visit visit) const {
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    int64_t offset = layers_[l].offset;
    for (int64_t o = 0; o < layers_[l].out; o += panel_width()) {
      const int64_t width = std::min(panel_width(), layers_[l].out - o);
      visit(l, o, width, offset);
      offset += (layers_[l].in + 1) * width * unit_models();
    }
  }
}

void Layout::pack(const std::vector<LayerView>& views, int64_t begin, int64_t end, int64_t first,
                  float* buffer) const {
  if (kind_ == LayoutKind::panel) {
    for (int64_t m = begin; m < end; ++m) pack_model(views, m, buffer + (first + m) * unit_floats_);
    return;
  }
  for (int64_t m = begin; m < end;) {
    const int64_t lane = (first + m) % kTileModels;
    const int64_t models = std::min(kTileModels - lane, end - m);
    pack_lanes(views, m, models, buffer + (first + m) / kTileModels * unit_floats_ + lane);
    m += models;
  }
}

void Layout::pack_model(const std::vector<LayerView>& views, int64_t m, float* unit) const {
  for_each_panel([&](std::size_t l, int64_t o, int64_t width, int64_t offset) {
    const int64_t in = layers_[l].in, out = layers_[l].out;
    const std::size_t bytes = sizeof(float) * static_cast<std::size_t>(width);
    float* to = unit + offset;
    if (views[l].bias != nullptr) {
      std::memcpy(to, views[l].bias + m * out + o, bytes);
    } else {
      std::memset(to, 0, bytes);
    }
    const float* from = views[l].weight + m * in * out + o;
    if (width == kPanelWidth) {  // a size the compiler knows becomes four moves
      for (int64_t k = 0; k < in; ++k) std::memcpy(to += kPanelWidth, from + k * out, sizeof(float) * kPanelWidth);
    } else {
      for (int64_t k = 0; k < in; ++k) std::memcpy(to += width, from + k * out, bytes);
    }
  });
}

// `models` models, the first at `lane` of their tile: rows of `width` outputs, one for each model, become columns.
void Layout::pack_lanes(const std::vector<LayerView>& views, int64_t m, int64_t models, float* lane) const {
  for_each_panel([&](std::size_t l, int64_t o, int64_t width, int64_t offset) {
    const int64_t in = layers_[l].in, out = layers_[l].out;
    float* to = lane + offset;
    if (views[l].bias != nullptr) {
      transpose(views[l].bias + m * out + o, out, models, width, to, kTileModels);
    } else {
      for (int64_t j = 0; j < width; ++j) std::fill_n(to + j * kTileModels, models, 0.0f);
    }
    const float* from = views[l].weight + m * in * out + o;
    for (int64_t k = 0; k < in; ++k) {
      to += width * kTileModels;
      transpose(from + k * out, in * out, models, width, to, kTileModels);
    }
  });
}

void Layout::unpack(const float* buffer, int64_t model, const std::vector<float*>& weight,
                    const std::vector<float*>& bias) const {
  const int64_t step = unit_models();
  const float* unit = buffer + model / step * unit_floats_ + model % step;
  for_each_panel([&](std::size_t l, int64_t o, int64_t width, int64_t offset) {
    const float* from = unit + offset;
    for (int64_t j = 0; j < width; ++j, from += step) bias[l][o + j] = *from;
    for (int64_t k = 0; k < layers_[l].in; ++k) {
      for (int64_t j = 0; j < width; ++j, from += step) weight[l][k * layers_[l].out + o + j] = *from;
    }
  });
}

}  // namespace mlpbank
