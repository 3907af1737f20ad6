// What lies in a panel, and the walk over the panels of a layer. The picture is in kernel.h.
//
//       +--------------------+  <- panel
//       | biases, float32    |  kHeaderBytes for each output
//       | scales, if kScaled |
//       +--------------------+  <- weights_of(panel)
//       | weights of input 0 |
//       |  :                 |
//       +--------------------+
//
// A width counts columns of the panel: outputs, in the lane layout times kTileModels.
#pragma once

#include "kernels/kernel.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

// Whether an output has a scale. int8 weights are summed as they are; the sum is scaled at the end.
template <class Weight>
constexpr bool kScaled = false;
template <>
constexpr bool kScaled<int8_t> = true;

template <class Weight>
constexpr bool kIsFloat = false;
template <>
constexpr bool kIsFloat<float> = true;

// Bytes of a panel's header for each column.
template <class Weight, bool Scaled = kScaled<Weight>>
constexpr int64_t kHeaderBytes = Scaled ? 8 : 4;

// Bytes of a panel for each column.
template <class Weight, bool Scaled = kScaled<Weight>>
constexpr int64_t column_bytes(int64_t in) {
  return kHeaderBytes<Weight, Scaled> + in * static_cast<int64_t>(sizeof(Weight));
}

template <class Weight>
inline int64_t panel_bytes(int64_t in, int64_t width) {
  return column_bytes<Weight>(in) * width;
}

inline const float* header_of(const Bytes* panel) { return reinterpret_cast<const float*>(panel); }

template <class Weight>
inline const Weight* weights_of(const Bytes* panel, int64_t width) {
  return reinterpret_cast<const Weight*>(panel + kHeaderBytes<Weight> * width);
}

// Where a layer with prelu has its slopes, one for each model of the block: behind its panels, at a
// multiple of 4 bytes. `layer` is the address of the layer.
template <class Address>
inline Address slopes_behind(Address layer, int64_t bytes_of_panels) {
  return layer + (bytes_of_panels + 3) / 4 * 4;
}

// One panel of a layer: its address, its first output and its number of outputs.
template <class Address>
struct PanelRange {
  Address address;
  int64_t first, outputs;
};

// Calls visit(PanelRange) for each panel of a layer, in the order of memory. `address` is that of
// the layer: a pointer, or bytes from the start of the block. `output_bytes` are the bytes of one
// output in a panel, of all models of a block.
template <class Address, class Visit>
inline void for_each_panel(Address address, int64_t outputs, int64_t panel_width,
                           int64_t output_bytes, Visit visit) {
  int64_t first = 0;
  for (int64_t left = outputs; left > 0; left -= panel_width, first += panel_width) {
    const int64_t width = left < panel_width ? left : panel_width;
    visit(PanelRange<Address>{address, first, width});
    address += width * output_bytes;
  }
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
