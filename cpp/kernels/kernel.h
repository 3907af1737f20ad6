// The contract between the engine and the kernels: where weights lie, and what one kernel call
// does.
//
// A kernel call reads one block: a model in the panel layout, a tile of 16 models in the lane
// layout. Both layouts cut a layer's outputs into panels. A panel stores its biases first and then
// one row of weights for each input, so a kernel reads a block with pointers that only move
// forward.
//
//   PANEL layout: one model after another, panels of 16 outputs. The last panel is as wide as what
//   is left; it is never padded.
//
//            outputs 0..15                          outputs 16..18 (a layer of 19 outputs)
//       +----------------------------+              +----------------+
//       | b0   b1   b2   ...   b15   |              | b16  b17  b18  |   biases
//       | w0,0 w0,1 w0,2 ...   w0,15 |              | w0,16 .. w0,18 |   weights of input 0
//       | w1,0 w1,1 w1,2 ...   w1,15 |              | w1,16 .. w1,18 |   weights of input 1
//       |  :                         |              |  :             |
//       +----------------------------+              +----------------+
//       Vector lanes run over the outputs (few rows) or over the rows (many rows), see kernel.cpp.
//
//   LANE layout: tiles of 16 models side by side, panels of 8 outputs. Every scalar above becomes
//   16 floats, one for each model. Vector lanes run over the models, so a layer of any size fills
//   them.
//
//       +----------------------------------------+
//       | b0 of models 0..15 | b1 of 0..15 | ... |
//       | w0,0 of 0..15      | w0,1        | ... |
//       |  :                                     |
//       +----------------------------------------+
//
// Biases are float32, weights any Dtype. With int8, a row of float32 scales (one for each output)
// stands between biases and weights. With prelu, the layer's panels are followed by a float32 slope
// for each model of the block. Each layer starts at a multiple of 64 bytes. Kernels read a
// tail panel with whole vectors, up to 15 elements past the end of its rows; the layout leaves that
// room inside the model's own block.
//
// For many rows a tile is unpacked first, into scratch memory: one model after another, the same
// panels in float32 without gaps. (int8: not yet multiplied by the scales.)
//
// Every instruction set compiles this header, so it holds plain data only. Of an inline function
// the linker might keep the AVX-512 copy for all.
#pragma once

#include <stdint.h>

#include "types.h"

namespace mlpbank {

constexpr int64_t kPanelWidth = 16;  // outputs: 1 zmm, 2 ymm, 4 xmm, so packed bytes fit every ISA
constexpr int64_t kTileModels = 16;  // models in a tile of the lane layout
constexpr int64_t kLanePanelWidth = 8;  // outputs: 8 accumulators hide the latency of an FMA
// A pass carries some rows through all layers. These are the most rows of a pass:
constexpr int64_t kPassRows = 48;     // of one model: 3 zmm
constexpr int64_t kTilePassRows = 3;  // of each model of a tile

struct LayerPlan {
  int64_t in, out;
  int64_t offset;           // bytes from the start of the block to this layer's first bias
  int64_t unpacked_offset;  // the same in an unpacked model, in floats
  ActivationSpec activation;
};

struct Plan {
  const LayerPlan* layers;
  int64_t num_layers;
  int64_t block_bytes;
  int64_t panel_width;   // kPanelWidth or kLanePanelWidth
  int64_t num_panels;    // of all layers
  int64_t model_floats;  // one unpacked model, a multiple of 16
  int64_t buffer_width;  // floats for each row of a buffer: the widest layer, rounded up to 16
  int64_t widest_pair;   // the most inputs and outputs of one layer together
};

// Rows of the two activation buffers that layers use in turn.
constexpr int64_t kTileBufferRows = kTilePassRows * kTileModels;
constexpr int64_t kScratchRows = 2 * (kPassRows > kTileBufferRows ? kPassRows : kTileBufferRows);

// All layers of one model for `rows` rows.
struct PanelJob {
  const Bytes* weights;
  const Bytes* next_weights;  // the block this thread reads next, for prefetching
  const float* x;             // (rows, input_size), contiguous
  float* y;                   // (rows, output_size), contiguous
  int64_t rows;
};

// All layers of one tile of models. Model m reads its rows at x + m * x_stride and writes its
// results at y + m * y_stride. x_stride 0 gives every model the same rows.
struct LaneJob {
  const Bytes* weights;
  const Bytes* next_weights;
  const float* x;  // (rows, input_size) of each model
  int64_t x_stride;
  float* y;  // (rows, output_size) of each model
  int64_t y_stride;
  int64_t rows;
  int64_t models;  // 1..16: the first so many vector lanes are real
};

constexpr int kReadVariants = 5;  // of probe_read

// One instruction set's kernels, one for each Dtype. `scratch` is 64-byte aligned. It holds the
// activation buffers and, behind them, a panel in float32 (panel layout) or a tile before and after
// it is unpacked (lane layout).
struct Kernel {
  const char* isa;
  void (*panel[kDtypes])(const Plan& plan, const PanelJob& job, float* scratch);
  void (*lane[kDtypes])(const Plan& plan, const LaneJob& job, float* scratch);
  // What engine/roofline.cpp measures with, see probe.h.
  float (*probe_read)(const float* data, int64_t floats, int variant);
  double (*probe_fma)(int64_t steps, float* result);
};

}  // namespace mlpbank
