// The hot loop of the lane layout: models_tile. See kernel.cpp.
#pragma once

#include "activations.h"
#include "kernel_panel.h"
#include "kernel_stream.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

// From this many rows per model on, a tile of the lane layout is transposed and its models computed one by one:
// transposing costs as much as computing 4 rows, after that rows_tile is three times as fast as models_tile.
constexpr int64_t kUnpackRows = 16;

// R rows x O outputs x the kLanes models from `lane` on. x (R, in, 16), y (R, O, 16), each row x_stride or y_stride
// apart.
template <class Weight, int R, int O>
inline void models_tile(const Bytes* panel, int lane, int64_t in, bool with_relu, const float* x, int64_t x_stride,
                        float* y, int64_t y_stride, int64_t ahead) {
  const float* header = header_of(panel) + lane;
  Vec acc[R][O];
  UNROLL for (int o = 0; o < O; ++o) {
    UNROLL for (int r = 0; r < R; ++r) acc[r][o] = kScaled<Weight> ? broadcast(0.0f) : load(header + o * kTileModels);
  }
  const Weight* w = weights_of<Weight>(panel, O * kTileModels) + lane;
  for (int64_t k = 0; k < in; ++k, w += O * kTileModels) {
    Vec xk[R];
    UNROLL for (int r = 0; r < R; ++r) xk[r] = load(x + r * x_stride + lane + k * kTileModels);
    UNROLL for (int o = 0; o < O; ++o) {
      const Vec wk = load(w + o * kTileModels);
      prefetch_ahead(w + o * kTileModels, ahead);
      UNROLL for (int r = 0; r < R; ++r) acc[r][o] = fma(xk[r], wk, acc[r][o]);
    }
  }
  UNROLL for (int r = 0; r < R; ++r) {
    UNROLL for (int o = 0; o < O; ++o) {
      if (kScaled<Weight>) {
        acc[r][o] = fma(acc[r][o], load(header + (O + o) * kTileModels), load(header + o * kTileModels));
      }
      store(y + r * y_stride + lane + o * kTileModels, with_relu ? relu(acc[r][o]) : acc[r][o]);
    }
  }
}

// The `width` outputs of one panel, at most O, for R rows.
template <class Weight, int R, int O>
inline void models_outputs(const Bytes* panel, int64_t width, int64_t in, bool with_relu, const float* x,
                           int64_t x_stride, float* y, int64_t y_stride, int64_t ahead) {
  if (width == O) {
    for (int lane = 0; lane < kTileModels; lane += kLanes) {
      models_tile<Weight, R, O>(panel, lane, in, with_relu, x, x_stride, y, y_stride, ahead);
    }
    return;
  }
  if constexpr (O > 1) {
    models_outputs<Weight, R, O - 1>(panel, width, in, with_relu, x, x_stride, y, y_stride, ahead);
  }
}

// One panel for all rows: its weights come from L1 for all rows but the first.
template <class Weight, int R = kModelsRows>
inline void models_panel(const Bytes* panel, int64_t width, int64_t in, bool with_relu, const float* x,
                         int64_t x_stride, int64_t rows, float* y, int64_t y_stride, int64_t ahead) {
  for (; rows >= R; rows -= R, x += R * x_stride, y += R * y_stride) {
    models_outputs<Weight, R, kLanePanelWidth>(panel, width, in, with_relu, x, x_stride, y, y_stride, ahead);
  }
  if constexpr (R > 1) {
    models_panel<Weight, R - 1>(panel, width, in, with_relu, x, x_stride, rows, y, y_stride, ahead);
  }
}

// All layers for up to kTileRows rows of each model of the tile, from job.x's row `first` on.
template <class Weight>
void models_block(const Plan& plan, const Stream& stream, const LaneJob& job, int64_t first, int64_t rows,
                  float* scratch) {
  float* buffers[2] = {scratch, scratch + kScratchRows / 2 * plan.buffer_width};
  const int64_t stride = plan.buffer_width * kTileModels;
  const int64_t in = plan.layers[0].in, out = plan.layers[plan.num_layers - 1].out;
  for (int64_t r = 0; r < rows; ++r) {
    float* to = buffers[0] + r * stride;
    if (job.models < kTileModels) memset(to, 0, sizeof(float) * in * kTileModels);
    transpose(job.x + (first + r) * in, job.x_stride, job.models, in, to, kTileModels);
  }
  int turn = 0;
  for (int64_t i = 0; i < plan.num_layers; ++i, turn ^= 1) {
    const LayerPlan& layer = plan.layers[i];
    const Bytes* panel = stream.weights + layer.offset;
    float* to = buffers[turn ^ 1];
    for (int64_t o = 0; o < layer.out; o += kLanePanelWidth) {
      const int64_t width = layer.out - o < kLanePanelWidth ? layer.out - o : kLanePanelWidth;
      models_panel<Weight>(panel, width, layer.in, layer.activation == Activation::relu, buffers[turn], stride, rows,
                           to + o * kTileModels, stride, stream.ahead<Weight>(panel));
      panel += panel_bytes<Weight>(layer.in, width * kTileModels);
    }
    for (int64_t r = 0; r < rows; ++r) apply_columns(layer.activation, to + r * stride, layer.out, kTileModels);
  }
  for (int64_t r = 0; r < rows; ++r) {
    transpose(buffers[turn] + r * stride, kTileModels, out, job.models, job.y + (first + r) * out, job.y_stride);
  }
}

// A tile in float32, panel after panel without gaps. The last vector of a panel may be written past its end, where the
// next one follows; behind the last there is room.
template <class Weight>
void unpack_tile(const Plan& plan, const Bytes* tile, float* to, int64_t ahead) {
  for (int64_t i = 0; i < plan.num_layers; ++i) {
    const LayerPlan& layer = plan.layers[i];
    const Bytes* panel = tile + layer.offset;
    for (int64_t o = 0; o < layer.out; o += kLanePanelWidth) {
      const int64_t width = kTileModels * (layer.out - o < kLanePanelWidth ? layer.out - o : kLanePanelWidth);
      const int64_t header = kHeaderBytes<Weight> / 4 * width;
      memcpy(to, panel, sizeof(float) * header);
      to_floats(weights_of<Weight>(panel, width), layer.in * width, to + header, ahead);
      to += header + layer.in * width;
      panel += panel_bytes<Weight>(layer.in, width);
    }
  }
}

template <class Weight>
void lane(const Plan& plan, const LaneJob& job, float* scratch) {
  const Stream stream = {job.weights, job.next_weights, plan.unit_bytes, false};
  int64_t row = 0;
  if (job.rows >= kUnpackRows) {
    // The tile in float32, transposed, is 16 models in panels of kLanePanelWidth.
    const int64_t floats = plan.model_floats;
    float* tile = scratch + kScratchRows * plan.buffer_width;
    float* models = tile + kTileModels * floats;
    unpack_tile<Weight>(plan, job.weights, tile, stream.ahead<Weight>(job.weights));
    transpose(tile, kTileModels, floats, kTileModels, models, floats);
    row = rows_in_vectors(job.rows);
    for (int64_t m = 0; m < job.models; ++m, models += floats) {
      const auto* bytes = reinterpret_cast<const Bytes*>(models);
      const Stream unpacked = {bytes, bytes + 4 * floats, 4 * floats, true};
      rows_blocks<float, kScaled<Weight>>(plan, unpacked, job.x + m * job.x_stride, row, job.y + m * job.y_stride,
                                          scratch);
    }
  }
  for (; row < job.rows; row += kTileRows) {
    models_block<Weight>(plan, stream, job, row, job.rows - row < kTileRows ? job.rows - row : kTileRows, scratch);
  }
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
