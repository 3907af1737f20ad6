// Where each weight of each model lies in the buffer; packing and unpacking. Pictures in kernel.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "architecture.h"
#include "kernel.h"

namespace mlpbank {

enum class LayoutKind { panel, lane };

// One layer of one model as users hold it: weight (input_size, output_size) row-major; a null bias means zeros.
struct LayerView {
  const float* weight;
  const float* bias;
};

class Layout {
 public:
  Layout(const Architecture& architecture, LayoutKind kind);

  // The kind that is faster for this architecture.
  static LayoutKind plan_kind(const Architecture& architecture);

  LayoutKind kind() const { return kind_; }
  // A unit is what one kernel call reads: a model in the panel layout, a tile of 16 models in the lane layout.
  int64_t unit_models() const { return kind_ == LayoutKind::lane ? kTileModels : 1; }
  int64_t unit_floats() const { return unit_floats_; }
  int64_t panel_width() const { return kind_ == LayoutKind::lane ? kLanePanelWidth : kPanelWidth; }
  Plan plan() const;

  // Copies models [begin, end) of `views` to the places of models first + begin, ... in `buffer`. views[l] is layer l of
  // model 0; each next model's weight (bias) follows directly behind it.
  void pack(const std::vector<LayerView>& views, int64_t begin, int64_t end, int64_t first, float* buffer) const;
  // The inverse for one model: weight[l] and bias[l] receive layer l.
  void unpack(const float* buffer, int64_t model, const std::vector<float*>& weight,
              const std::vector<float*>& bias) const;

 private:
  template <class Visit>
  void for_each_panel(Visit visit) const;
  void pack_model(const std::vector<LayerView>& views, int64_t m, float* unit) const;
  void pack_lanes(const std::vector<LayerView>& views, int64_t m, int64_t models, float* lane) const;

  LayoutKind kind_;
  std::vector<LayerPlan> layers_;
  int64_t unit_floats_ = 0;
  int64_t buffer_width_ = 0;
};

}  // namespace mlpbank
