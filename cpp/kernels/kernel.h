// The contract between the engine and the kernels: what lies where, and what one kernel call does.
//
// Both layouts cut a layer's outputs into panels and store, panel by panel, the biases first and then one row of
// weights per input. A kernel therefore reads a whole model with pointers that only move forward.
//
//   PANEL layout: one model after another, panels of 16 outputs, the last panel as wide as what is left (never padded).
//
//            outputs 0..15                          outputs 16..18 (a layer of 19 outputs)
//       +----------------------------+              +----------------+
//       | b0   b1   b2   ...   b15   |              | b16  b17  b18  |   biases
//       | w0,0 w0,1 w0,2 ...   w0,15 |              | w0,16 .. w0,18 |   weights of input 0
//       | w1,0 w1,1 w1,2 ...   w1,15 |              | w1,16 .. w1,18 |   weights of input 1
//       |  :                         |              |  :             |
//       +----------------------------+              +----------------+
//       The vector lanes run over the outputs (few rows) or over the rows (many rows), see kernel.cpp.
//
//   LANE layout: tiles of 16 models side by side, panels of 8 outputs; every scalar above becomes 16 floats, one per
//   model. The vector lanes run over the models, so layers of any size, even one output, fill them.
//
//       +---------------------------------------+
//       | b0 of models 0..15 | b1 of 0..15 | ... |
//       | w0,0 of 0..15      | w0,1        | ... |
//       |  :                                    |
//       +---------------------------------------+
//
// Biases are float32. Weights are float32, float16, bfloat16 or int8; with int8 a row of float32 scales, one per
// output, stands between biases and weights. Each layer starts at a multiple of 64 bytes. A tail panel is read with
// whole vectors, up to 15 elements past the end of its rows; the layout leaves that room inside the model's own place.
//
// For many rows a tile is unpacked first: its models one by one, the same panels in float32 (int8: not yet multiplied
// by the scales), without gaps, in the kernel's scratch memory.
//
// This header is compiled with every instruction set, so it holds plain data only: no inline function, no C++ header
// (the linker might keep the AVX-512 copy of one for everybody).
#pragma once

#include <stdint.h>

namespace mlpbank {

// The order is that of `activation_names` in architecture.cpp.
enum class Activation : uint8_t {
  none,
  relu,
  tanh,
  sigmoid,
  leaky_relu,
  elu,
  gelu,
  gelu_tanh,
  silu,
  softplus,
  softmax,  // over all outputs of the last layer
};

// How weights are stored. The order is that of `dtype_names` in layout.cpp.
enum class Dtype : uint8_t { float32, float16, bfloat16, int8 };
constexpr int kDtypes = 4;
struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

constexpr int64_t kPanelWidth = 16;     // outputs in a panel: 1 zmm, 2 ymm, 4 xmm, so packed bytes do not know the ISA
constexpr int64_t kTileModels = 16;     // models in a tile of the lane layout
constexpr int64_t kLanePanelWidth = 8;  // outputs in a panel of the lane layout: 8 accumulators hide the FMA latency
constexpr int64_t kBlockRows = 48;      // rows of one model carried through all layers together: 3 zmm of rows
constexpr int64_t kTileRows = 3;        // rows of each model of a tile carried through all layers together, at most

using Bytes = unsigned char;

struct LayerPlan {
  int64_t in, out;
  int64_t offset;    // bytes from the start of the unit to this layer's first bias
  int64_t unpacked;  // floats from the start of the unpacked model to it
  Activation activation;
};

struct Plan {
  const LayerPlan* layers;
  int64_t num_layers;
  int64_t unit_bytes;    // one model (panel) or tile (lane)
  int64_t unit_models;   // 1 (panel) or kTileModels (lane)
  int64_t panel_width;   // kPanelWidth or kLanePanelWidth
  int64_t num_panels;    // of all layers
  int64_t model_floats;  // one unpacked model, a multiple of 16
  int64_t buffer_width;  // the widest layer, rounded up to 16: floats per row of an activation buffer
  int64_t widest_pair;   // the most inputs and outputs of one layer together
};

// Activation buffers a kernel call needs: two, used in turn by the layers, each for the most rows that stand in one.
constexpr int64_t kScratchRows = 2 * (kBlockRows > kTileRows * kTileModels ? kBlockRows : kTileRows * kTileModels);

// All layers of one model for `rows` rows. x is (rows, input_size), y is (rows, output_size), both contiguous.
struct PanelJob {
  const Bytes* weights;
  const Bytes* next_weights;  // the model this thread takes next, for prefetching
  const float* x;
  float* y;
  int64_t rows;
};

// All layers of one tile of models. Model m of the tile reads (rows, input_size) at x + m * x_stride and writes
// (rows, output_size) at y + m * y_stride. x_stride 0 gives every model the same rows.
struct LaneJob {
  const Bytes* weights;
  const Bytes* next_weights;
  const float* x;
  int64_t x_stride;
  float* y;
  int64_t y_stride;
  int64_t rows;
  int64_t models;  // 1..16: how many lanes of the tile are real
};

constexpr int kReadVariants = 5;  // of probe_read

// One instruction set's kernels, one for each Dtype. `scratch` is 64-byte aligned. It holds the
// activation buffers and behind them a panel in float32 or, in the lane layout, a tile before and after it is unpacked.
struct Kernel {
  const char* isa;
  void (*panel[kDtypes])(const Plan& plan, const PanelJob& job, float* scratch);
  void (*lane[kDtypes])(const Plan& plan, const LaneJob& job, float* scratch);
  // What roofline.cpp measures with, see probe.h.
  float (*probe_read)(const float* data, int64_t floats, int variant);
  double (*probe_fma)(int64_t steps, float* result);
};

}  // namespace mlpbank
