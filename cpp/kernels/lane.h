// The lane layout: models_tile for few rows. For many, a tile is unpacked and its models go through
// rows.h one by one.
//
//   models_tile: vector lanes are the 16 models of a tile, here O = 2 outputs
//
//                 output o          output o + 1
//     row r     [acc of 16 models] [acc of 16 models]
//     row r + 1 [acc of 16 models] [acc of 16 models]
//
//     acc[m] = fma(x[r][k][m], w[k][o][m], acc[m])
#pragma once

#include "kernels/activations.h"
#include "kernels/rows.h"
#include "kernels/stream.h"
#include "kernels/transpose.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

static_assert(kModelsRows <= kTilePassRows, "a pass fits the scratch memory");

// From this many rows per model on, a tile is unpacked: transposing it costs as much as computing
// 11 to 16 rows, and then rows_tile is faster than models_tile.
constexpr int64_t kUnpackRows = 48;

// R rows x O outputs of all models of the tile. x (R, in, 16), y (R, O, 16), rows of either
// `stride` apart.
template <class Weight, int R, int O>
__attribute__((noinline)) void models_tile(const LayerPlan& layer, const Bytes* panel,
                                           const float* x, float* y, int64_t stride,
                                           int64_t prefetch_distance) {
  constexpr int kWidth = O * kTileModels;
  const bool with_relu = layer.activation.activation == Activation::relu;
  UNROLL for (int lane = 0; lane < kTileModels; lane += kLanes) {
    const float* header = header_of(panel) + lane;
    Vec acc[R][O];
    UNROLL for (int o = 0; o < O; ++o) {
      UNROLL for (int r = 0; r < R; ++r) {
        acc[r][o] = kScaled<Weight> ? broadcast(0.0f) : load(header + o * kTileModels);
      }
    }
    const Weight* w = weights_of<Weight>(panel, kWidth) + lane;
    const float* from = x + lane;
    const auto step = [&](int k) {
      Vec xk[R];
      UNROLL for (int r = 0; r < R; ++r) xk[r] = load(from + r * stride + k * kTileModels);
      UNROLL for (int o = 0; o < O; ++o) {
        const Weight* wk = w + k * kWidth + o * kTileModels;
        if (lane == 0) prefetch_at(wk, prefetch_distance);
        UNROLL for (int r = 0; r < R; ++r) acc[r][o] = fma(xk[r], load(wk), acc[r][o]);
      }
    };
    unrolled_for<O * R>(layer.in, step, [&](int n) { w += n * kWidth, from += n * kTileModels; });
    UNROLL for (int r = 0; r < R; ++r) {
      UNROLL for (int o = 0; o < O; ++o) {
        if (kScaled<Weight>) {
          const float* scale = header + (O + o) * kTileModels;
          acc[r][o] = fma(acc[r][o], load(scale), load(header + o * kTileModels));
        }
        const Vec result = with_relu ? relu(acc[r][o]) : acc[r][o];
        store(y + lane + r * stride + o * kTileModels, result);
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

// The learned slopes of all models of the tile, over (outputs, 16).
__attribute__((noinline)) void prelu_models(const Bytes* slopes, float* values, int64_t outputs) {
  for (int lane = 0; lane < kTileModels; lane += kLanes) {
    const Vec slope = load(reinterpret_cast<const float*>(slopes) + lane);
    for (int64_t o = 0; o < outputs; ++o) {
      float* at = values + o * kTileModels + lane;
      store(at, leaky_relu(load(at), {slope, slope}));
    }
  }
}

// One row of each model of the tile to vector lanes, where models that the tile lacks get zeros.
__attribute__((noinline)) void row_to_lanes(const LaneJob& job, int64_t row, int64_t in,
                                            float* to) {
  const float* from = job.x + row * in;
  if (job.models == kTileModels) {
    return transpose_inline(from, job.x_stride, kTileModels, in, to, kTileModels);
  }
  memset(to, 0, sizeof(float) * in * kTileModels);
  transpose(from, job.x_stride, job.models, in, to, kTileModels);
}
// The way back.
__attribute__((noinline)) void row_from_lanes(const LaneJob& job, int64_t row, int64_t out,
                                              const float* from) {
  float* to = job.y + row * out;
  if (job.models == kTileModels) {
    return transpose_inline(from, kTileModels, out, kTileModels, to, job.y_stride);
  }
  transpose(from, kTileModels, out, job.models, to, job.y_stride);
}

// All layers for R rows of each model of the tile, from job.x's row `first` on. More rows than that
// read the weights again, from L1: tiles of networks small enough for this layout fit.
template <class Weight, int R>
__attribute__((noinline)) void models_pass(const Plan& plan, const LaneJob& job, int64_t first,
                                           float* scratch) {
  const BlockStream stream = {job.weights, job.next_weights, plan.block_bytes, false};
  const int64_t stride = plan.buffer_width * kTileModels;
  const int64_t in = plan.layers[0].in, out = plan.layers[plan.num_layers - 1].out;
  for (int r = 0; r < R; ++r) row_to_lanes(job, first + r, in, scratch + r * stride);
  const float* x = scratch;
  float* y = scratch + R * stride;
  const LayerPlan* const end = plan.layers + plan.num_layers;
  for (const LayerPlan* layer = plan.layers; layer != end; ++layer) {
    const int64_t bytes = column_bytes<Weight>(layer->in) * kTileModels;
    const auto activation = activation_of<Weight, kScaled<Weight>>(*layer, stream.layer(*layer));
    for_each_panel(stream.layer(*layer), layer->out, kLanePanelWidth, bytes, [&](auto panel) {
      const int64_t distance = stream.prefetch_distance<Weight>(panel.address);
      float* const outputs = y + panel.first * kTileModels;
      kModelsTiles<Weight, R>[panel.outputs](*layer, panel.address, x, outputs, stride, distance);
    });
    if (activation.activation == Activation::prelu) {
      const Bytes* slopes = slopes_behind(stream.layer(*layer), bytes * layer->out);
      for (int r = 0; r < R; ++r) prelu_models(slopes, y + r * stride, layer->out);
    } else {
      for (int r = 0; r < R; ++r) {
        activate_columns(activation, y + r * stride, layer->out, kTileModels);
      }
    }
    x = y;
    y = y == scratch ? scratch + R * stride : scratch;
  }
  for (int r = 0; r < R; ++r) row_from_lanes(job, first + r, out, x + r * stride);
}

// The rows from `first` on.
template <class Weight, int R = kModelsRows>
inline void models_passes(const Plan& plan, const LaneJob& job, int64_t first, float* scratch) {
  for (; first + R <= job.rows; first += R) models_pass<Weight, R>(plan, job, first, scratch);
  if constexpr (R > 1) models_passes<Weight, R - 1>(plan, job, first, scratch);
}

// A tile in float32, panel after panel without gaps.
template <class Weight>
void unpack_tile(const Plan& plan, const Bytes* tile, float* to) {
  for (int64_t i = 0; i < plan.num_layers; ++i) {
    const LayerPlan& layer = plan.layers[i];
    const int64_t bytes = column_bytes<Weight>(layer.in) * kTileModels;
    for_each_panel(tile + layer.offset, layer.out, kLanePanelWidth, bytes, [&](auto panel) {
      const int64_t width = panel.outputs * kTileModels;
      const int64_t header = kHeaderBytes<Weight> / 4 * width;
      memcpy(to, panel.address, sizeof(float) * header);
      to_floats(weights_of<Weight>(panel.address, width), layer.in * width, to + header);
      to += header + layer.in * width;
    });
    if (layer.activation.activation == Activation::prelu) {
      memcpy(to, slopes_behind(tile + layer.offset, bytes * layer.out), kTileModels * 4);
      to += kTileModels;
    }
  }
}

// Many rows: the tile in float32, transposed, is 16 models in panels of kLanePanelWidth. Returns
// how many rows are done.
template <class Weight>
__attribute__((noinline)) int64_t unpacked_models(const Plan& plan, const LaneJob& job,
                                                  float* scratch) {
  const int64_t floats = plan.model_floats, rows = rows_in_vectors(job.rows);
  float* tile = scratch + kScratchRows * plan.buffer_width;
  float* models = tile + kTileModels * floats;
  unpack_tile<Weight>(plan, job.weights, tile);
  transpose(tile, kTileModels, floats, kTileModels, models, floats);
  for (int64_t m = 0; m < job.models; ++m, models += floats) {
    const auto* bytes = reinterpret_cast<const Bytes*>(models);
    const BlockStream unpacked = {bytes, bytes + 4 * floats, 4 * floats, true};
    rows_passes<float, kScaled<Weight>>(plan, unpacked, job.x + m * job.x_stride, rows,
                                        job.y + m * job.y_stride, scratch);
  }
  return rows;
}

template <class Weight>
void lane(const Plan& plan, const LaneJob& job, float* scratch) {
  if (job.rows == 1) return models_pass<Weight, 1>(plan, job, 0, scratch);  // the usual case first
  int64_t done = 0;
  if (job.rows >= kUnpackRows) done = unpacked_models<Weight>(plan, job, scratch);
  models_passes<Weight>(plan, job, done, scratch);
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
