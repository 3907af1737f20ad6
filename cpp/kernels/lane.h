// The hot loop of the lane layout: models_tile. See kernel.cpp.
#pragma once

#include "kernels/activations.h"
#include "kernels/panel.h"
#include "kernels/stream.h"
#include "kernels/transpose.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

static_assert(kModelsRows <= kTileRows, "activations of models_tile fit the scratch memory");

// From this many rows per model on, a tile is transposed and its models computed one by one: transposing costs as much
// as computing 11 to 16 rows, after that rows_tile is 1.3 to 1.7 times as fast as models_tile (10-20-1: 32 rows 3.0 us a
// tile against 3.5 transposed, 48 rows 4.6 against 4.7, AVX2 8.2 against 7.7).
constexpr int64_t kUnpackRows = 48;

// R rows x O outputs of all models of the tile. x (R, in, 16), y (R, O, 16), rows of either `stride` apart.
template <class Weight, int R, int O>
__attribute__((noinline)) void models_tile(const LayerPlan& layer, const Bytes* panel, const float* x, float* y,
                                           int64_t stride, int64_t ahead) {
  constexpr int kWidth = O * kTileModels;
  const bool with_relu = layer.activation == Activation::relu;
  UNROLL for (int lane = 0; lane < kTileModels; lane += kLanes) {
    const float* header = header_of(panel) + lane;
    Vec acc[R][O];
    UNROLL for (int o = 0; o < O; ++o) {
      UNROLL for (int r = 0; r < R; ++r) acc[r][o] = kScaled<Weight> ? broadcast(0.0f) : load(header + o * kTileModels);
    }
    const Weight* w = weights_of<Weight>(panel, kWidth) + lane;
    const float* from = x + lane;
    const auto step = [&](int k) {
      Vec xk[R];
      UNROLL for (int r = 0; r < R; ++r) xk[r] = load(from + r * stride + k * kTileModels);
      UNROLL for (int o = 0; o < O; ++o) {
        const Weight* wk = w + k * kWidth + o * kTileModels;
        if (lane == 0) prefetch_ahead(wk, ahead);
        UNROLL for (int r = 0; r < R; ++r) acc[r][o] = fma(xk[r], load(wk), acc[r][o]);
      }
    };
    steps<O * R>(layer.in, step, [&](int n) { w += n * kWidth, from += n * kTileModels; });
    UNROLL for (int r = 0; r < R; ++r) {
      UNROLL for (int o = 0; o < O; ++o) {
        if (kScaled<Weight>) {
          acc[r][o] = fma(acc[r][o], load(header + (O + o) * kTileModels), load(header + o * kTileModels));
        }
        store(y + lane + r * stride + o * kTileModels, with_relu ? relu(acc[r][o]) : acc[r][o]);
      }
    }
  }
}

template <class Weight, int R>
constexpr decltype(&models_tile<Weight, R, 1>) kModelsTiles[] = {
    nullptr,
    models_tile<Weight, R, 1>,
    models_tile<Weight, R, 2>,
    models_tile<Weight, R, 3>,
    models_tile<Weight, R, 4>,
    models_tile<Weight, R, 5>,
    models_tile<Weight, R, 6>,
    models_tile<Weight, R, 7>,
    models_tile<Weight, R, 8>,
};

// One row of each model of the tile: to lanes, where models that the tile lacks get zeros, and back.
__attribute__((noinline)) void row_to_lanes(const LaneJob& job, int64_t row, int64_t in, float* to) {
  const float* from = job.x + row * in;
  if (job.models == kTileModels) return transpose_inline(from, job.x_stride, kTileModels, in, to, kTileModels);
  memset(to, 0, sizeof(float) * in * kTileModels);
  transpose(from, job.x_stride, job.models, in, to, kTileModels);
}
__attribute__((noinline)) void row_from_lanes(const LaneJob& job, int64_t row, int64_t out, const float* from) {
  float* to = job.y + row * out;
  if (job.models == kTileModels) return transpose_inline(from, kTileModels, out, kTileModels, to, job.y_stride);
  transpose(from, kTileModels, out, job.models, to, job.y_stride);
}

// All layers for R rows of each model of the tile, from job.x's row `first` on. More rows than that read the weights
// again, from L1: the tiles of networks small enough for this layout fit.
template <class Weight, int R>
__attribute__((noinline)) void models_rows(const Plan& plan, const LaneJob& job, int64_t first, float* scratch) {
  const Stream stream = {job.weights, job.next_weights, plan.unit_bytes, false};
  const int64_t stride = plan.buffer_width * kTileModels;
  const int64_t in = plan.layers[0].in, out = plan.layers[plan.num_layers - 1].out;
  for (int r = 0; r < R; ++r) row_to_lanes(job, first + r, in, scratch + r * stride);
  const float* x = scratch;
  float* y = scratch + R * stride;
  const LayerPlan* const end = plan.layers + plan.num_layers;
  for (const LayerPlan* layer = plan.layers; layer != end; ++layer) {
    const Bytes* panel = stream.weights + layer->offset;
    float* to = y;
    for (int64_t left = layer->out; left > 0; left -= kLanePanelWidth) {
      const int64_t width = left < kLanePanelWidth ? left : kLanePanelWidth;
      kModelsTiles<Weight, R>[width](*layer, panel, x, to, stride, stream.ahead<Weight>(panel));
      panel += panel_bytes<Weight>(layer->in, width * kTileModels);
      to += width * kTileModels;
    }
    for (int r = 0; r < R; ++r) apply_columns(layer->activation, y + r * stride, layer->out, kTileModels);
    x = y;
    y = y == scratch ? scratch + R * stride : scratch;
  }
  for (int r = 0; r < R; ++r) row_from_lanes(job, first + r, out, x + r * stride);
}

// The rows from `from` on.
template <class Weight, int R = kModelsRows>
inline void all_rows(const Plan& plan, const LaneJob& job, int64_t from, float* scratch) {
  for (; from + R <= job.rows; from += R) models_rows<Weight, R>(plan, job, from, scratch);
  if constexpr (R > 1) all_rows<Weight, R - 1>(plan, job, from, scratch);
}

// A tile in float32, panel after panel without gaps.
template <class Weight>
void unpack_tile(const Plan& plan, const Bytes* tile, float* to) {
  for (int64_t i = 0; i < plan.num_layers; ++i) {
    const LayerPlan& layer = plan.layers[i];
    const Bytes* panel = tile + layer.offset;
    for (int64_t o = 0; o < layer.out; o += kLanePanelWidth) {
      const int64_t width = kTileModels * (layer.out - o < kLanePanelWidth ? layer.out - o : kLanePanelWidth);
      const int64_t header = kHeaderBytes<Weight> / 4 * width;
      memcpy(to, panel, sizeof(float) * header);
      to_floats(weights_of<Weight>(panel, width), layer.in * width, to + header);
      to += header + layer.in * width;
      panel += panel_bytes<Weight>(layer.in, width);
    }
  }
}

// Many rows: the tile in float32, transposed, is 16 models in panels of kLanePanelWidth. Returns how many rows are
// done.
template <class Weight>
__attribute__((noinline)) int64_t unpacked_models(const Plan& plan, const LaneJob& job, float* scratch) {
  const int64_t floats = plan.model_floats, rows = rows_in_vectors(job.rows);
  float* tile = scratch + kScratchRows * plan.buffer_width;
  float* models = tile + kTileModels * floats;
  unpack_tile<Weight>(plan, job.weights, tile);
  transpose(tile, kTileModels, floats, kTileModels, models, floats);
  for (int64_t m = 0; m < job.models; ++m, models += floats) {
    const auto* bytes = reinterpret_cast<const Bytes*>(models);
    const Stream unpacked = {bytes, bytes + 4 * floats, 4 * floats, true};
    rows_blocks<float, kScaled<Weight>>(plan, unpacked, job.x + m * job.x_stride, rows, job.y + m * job.y_stride,
                                        scratch);
  }
  return rows;
}

template <class Weight>
void lane(const Plan& plan, const LaneJob& job, float* scratch) {
  if (job.rows == 1) return models_rows<Weight, 1>(plan, job, 0, scratch);  // straight to the most frequent case
  all_rows<Weight>(plan, job, job.rows >= kUnpackRows ? unpacked_models<Weight>(plan, job, scratch) : 0, scratch);
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
