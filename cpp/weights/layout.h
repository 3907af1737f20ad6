// Where each weight of each model lies in the buffer; packing and unpacking. Pictures in kernel.h.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "weights/architecture.h"
#include "kernels/kernel.h"

namespace mlpbank {

enum class LayoutKind { panel, lane };

constexpr int64_t kUnitAlignment = 64;  // bytes; the last so many of a tile hold the bits of the models it has

// Names as users write them ("float16"), in the order of the enum.
const std::vector<std::string>& dtype_names();
Dtype dtype_from_name(const std::string& name);

// One layer of one model as users hold it: weight (input_size, output_size) row-major; a null bias means zeros.
struct LayerView {
  const float* weight;
  const float* bias;
};

class Layout {
 public:
  Layout(const Architecture& architecture, LayoutKind kind, Dtype dtype = Dtype::float32);

  // The kind that is faster for this architecture.
  static LayoutKind plan_kind(const Architecture& architecture);

  LayoutKind kind() const { return kind_; }
  Dtype dtype() const { return dtype_; }
  // A unit is what one kernel call reads: a model in the panel layout, a tile of 16 models in the lane layout.
  int64_t unit_models() const { return kind_ == LayoutKind::lane ? kTileModels : 1; }
  int64_t unit_bytes() const { return unit_bytes_; }
  int64_t panel_width() const { return kind_ == LayoutKind::lane ? kLanePanelWidth : kPanelWidth; }
  Plan plan() const;

  // Copies `models` models to lanes lane, lane + 1, ... of the unit (a panel unit has lane 0 only) and marks them as
  // there. The first is number `source` of the views: views[l] is layer l of model 0, and each next model's weight
  // (bias) follows directly behind it.
  void pack(const std::vector<LayerView>& views, int64_t source, int64_t models, Bytes* unit, int64_t lane) const;
  // The inverse for one model: weight[l] and bias[l] receive layer l.
  void unpack(const Bytes* unit, int64_t lane, const std::vector<float*>& weight,
              const std::vector<float*>& bias) const;

  // Copies one model as it is stored, from a lane of one unit to a lane of another, and marks it as there.
  void copy_model(const Bytes* from, int64_t from_lane, Bytes* to, int64_t to_lane) const;

  // Which models of a unit are there: always the one of the panel layout, and the marked ones of a tile.
  bool has_model(const Bytes* unit, int64_t lane) const { return (lanes(unit) >> lane & 1) != 0; }
  int64_t models_in(const Bytes* unit) const { return __builtin_popcount(lanes(unit)); }
  // Forgets a model of a tile: nothing of its weights is left.
  void remove(Bytes* unit, int64_t lane) const;
  // As bits, lane 0 first.
  uint32_t lanes(const Bytes* unit) const {
    uint32_t lanes = 1;
    if (kind_ == LayoutKind::lane) std::memcpy(&lanes, unit + unit_bytes_ - kUnitAlignment, sizeof lanes);
    return lanes;
  }

 private:
  struct Panel {
    std::size_t layer;
    int64_t first_output, width;
    int64_t offset;  // bytes
  };
  template <class Visit>
  void for_each_panel(Visit visit) const;
  template <class Visit>
  void for_each_element(Visit visit) const;
  template <class Weight>
  void pack_panel(const Panel& panel, const LayerView& view, int64_t source, int64_t models, Bytes* unit,
                  int64_t lane) const;
  template <class Weight>
  void unpack_panel(const Panel& panel, const Bytes* unit, int64_t lane, float* weight, float* bias) const;
  void set_lanes(Bytes* unit, uint32_t lanes) const {
    std::memcpy(unit + unit_bytes_ - kUnitAlignment, &lanes, sizeof lanes);
  }
  int64_t layer_bytes(const LayerSpec& layer) const;

  LayoutKind kind_;
  Dtype dtype_;
  std::vector<LayerPlan> layers_;
  int64_t unit_bytes_ = 0;
  int64_t num_panels_ = 0;
  int64_t model_floats_ = 0;
  int64_t buffer_width_ = 0;
  int64_t widest_pair_ = 0;
};

}  // namespace mlpbank
