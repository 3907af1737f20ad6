// Layout: where each weight of a model lies in its block, and how models are packed and unpacked.
//
// A block is what one kernel call reads: a model in the panel layout, a tile of 16 models in the
// lane layout. Pictures are in kernels/kernel.h. The last 64 bytes of a tile hold its present mask.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "weights/architecture.h"
#include "kernels/kernel.h"

namespace mlpbank {

// Every kind of layout. The enum, the names and the look-up of a name are made from this list;
// files hold names, so its order is free.
#define MLPBANK_LAYOUTS(X) X(panel) X(lane)

#define MLPBANK_MEMBER(name) name,
enum class LayoutKind { MLPBANK_LAYOUTS(MLPBANK_MEMBER) };
#undef MLPBANK_MEMBER

// "panel" or "lane".
const char* layout_name(LayoutKind kind);
// "auto" picks the faster kind for this architecture. Throws std::invalid_argument.
LayoutKind layout_from_name(const std::string& name, const Architecture& architecture);

constexpr int64_t kBlockAlignment = 64;  // bytes

// Names as users write them ("float16"), in the order of the enum.
const std::vector<std::string>& dtype_names();
Dtype dtype_from_name(const std::string& name);

// One layer of one model as users hold it: weight (input_size, output_size) row-major. A null bias
// means zeros. `slope` is one float, looked at where the layer has one.
struct LayerView {
  const float* weight;
  const float* bias;
  const float* slope = nullptr;
};
// Where one layer of one model is unpacked to. `slope` may be null where the layer has none.
struct LayerTarget {
  float* weight;
  float* bias;
  float* slope = nullptr;
};

class Layout {
 public:
  Layout(const Architecture& architecture, LayoutKind kind, Dtype dtype = Dtype::float32);

  // The kind that is faster for this architecture.
  static LayoutKind plan_kind(const Architecture& architecture);

  LayoutKind kind() const { return kind_; }
  Dtype dtype() const { return dtype_; }
  int64_t block_models() const { return kind_ == LayoutKind::lane ? kTileModels : 1; }
  int64_t block_bytes() const { return block_bytes_; }
  // Blocks that hold so many models.
  int64_t num_blocks(int64_t models) const {
    return models / block_models() + (models % block_models() != 0);
  }
  int64_t panel_width() const { return kind_ == LayoutKind::lane ? kLanePanelWidth : kPanelWidth; }
  Plan plan() const;

  // Copies `models` models into lanes lane, lane + 1, ... of the block and marks them as present.
  // views[l] is layer l of model 0; the weights (biases, slopes) of the next model follow directly
  // behind.
  // The first model that is copied is number `source` of the views. A panel block has lane 0 only.
  void pack(const std::vector<LayerView>& views, int64_t source, int64_t models, Bytes* block,
            int64_t lane) const;
  // The inverse for one model: targets[l] receives layer l.
  void unpack(const Bytes* block, int64_t lane, const std::vector<LayerTarget>& targets) const;

  // Copies one model as it is stored, from lane to lane, and marks it as present.
  void copy_model(const Bytes* from, int64_t from_lane, Bytes* to, int64_t to_lane) const;
  // Copies all models of a tile into blocks of `panels`, the panel layout of the same architecture
  // and dtype; `to` holds zeros. Of a model that is absent, what its lane holds.
  void copy_tile(const Bytes* tile, const Layout& panels, Bytes* to) const;
  // Clears a model of a tile: nothing of its weights is left.
  void remove(Bytes* block, int64_t lane) const;

  // Bit i says whether the model in lane i is present. The one of a panel block always is.
  uint32_t present_mask(const Bytes* block) const {
    uint32_t mask = 1;
    if (kind_ == LayoutKind::lane) std::memcpy(&mask, mask_address(block), sizeof mask);
    return mask;
  }
  bool has_model(const Bytes* block, int64_t lane) const {
    return (present_mask(block) >> lane & 1) != 0;
  }
  int64_t models_in(const Bytes* block) const { return __builtin_popcount(present_mask(block)); }

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
  // Calls visit(layer, offset in bytes of lane 0) for each layer that has slopes.
  template <class Visit>
  void for_each_slope(Visit visit) const;
  template <class Weight>
  void pack_panel(const Panel& panel, const LayerView& view, int64_t source, int64_t models,
                  Bytes* block, int64_t lane) const;
  template <class Weight>
  void unpack_panel(const Panel& panel, const Bytes* block, int64_t lane, float* weight,
                    float* bias) const;
  template <class Byte>
  Byte* mask_address(Byte* block) const {
    return block + block_bytes_ - kBlockAlignment;
  }
  void set_present_mask(Bytes* block, uint32_t mask) const {
    std::memcpy(mask_address(block), &mask, sizeof mask);
  }
  int64_t panels_bytes(int64_t in, int64_t out) const;
  int64_t layer_bytes(const LayerSpec& layer) const;

  LayoutKind kind_;
  Dtype dtype_;
  std::vector<LayerPlan> layers_;
  int64_t block_bytes_ = 0;
  int64_t num_panels_ = 0;
  int64_t model_floats_ = 0;
  int64_t buffer_width_ = 0;
  int64_t widest_pair_ = 0;
};

}  // namespace mlpbank
