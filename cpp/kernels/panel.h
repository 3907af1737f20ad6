// The panel layout: few rows through outputs_tile, many through rows.h.
//
//   outputs_tile: vector lanes are the outputs of P panels, here P = 2
//
//                 panel p      panel p + 1
//     row r     [acc acc ..] [acc acc ..]     acc[o] = fma(x[r][k], w[k][o], acc[o])
//     row r + 1 [acc acc ..] [acc acc ..]
#pragma once

#include "kernels/activations.h"
#include "kernels/rows.h"
#include "kernels/stream.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

// R rows x P panels, of each panel its first V vectors. x (R, in), y (R, P * 16 at least). `width`
// is the panel's.
template <class Weight, int R, int P, int V>
__attribute__((always_inline)) inline void outputs_tile(const LayerPlan& layer,
                                                        const BlockStream& stream,
                                                        const Bytes* panel, int64_t width,
                                                        const float* x, int64_t x_stride, float* y,
                                                        int64_t y_stride) {
  constexpr int kInputBytes = kPanelWidth * static_cast<int>(sizeof(Weight));  // of a whole panel
  const bool with_relu = layer.activation.activation == Activation::relu;
  const int64_t bytes = panel_bytes<Weight>(layer.in, width);
  // Each panel has a distance of its own: four panels of 64 inputs are 16 KB, so the last ones
  // already prefetch from the next block.
  int64_t distance[P];
  UNROLL for (int p = 0; p < P; ++p) {
    distance[p] = stream.prefetch_distance<Weight>(panel + p * bytes);
  }
  Vec acc[P * V][R];
  UNROLL for (int c = 0; c < P * V; ++c) {
    const Vec bias = load(header_of(panel + c / V * bytes) + c % V * kLanes);
    UNROLL for (int r = 0; r < R; ++r) acc[c][r] = kScaled<Weight> ? broadcast(0.0f) : bias;
  }
  const Bytes* w = panel + kHeaderBytes<Weight> * width;
  const auto step = [&](int k) {
    Vec xk[R];
    UNROLL for (int r = 0; r < R; ++r) xk[r] = broadcast(x[r * x_stride + k]);
    if (k * kInputBytes % 64 == 0) {  // once for each 64 bytes, in narrow panels more often
      UNROLL for (int p = 0; p < P; ++p) prefetch_at(w + p * bytes, distance[p]);
    }
    UNROLL for (int c = 0; c < P * V; ++c) {
      const Vec wk = load(reinterpret_cast<const Weight*>(w + c / V * bytes) + c % V * kLanes);
      UNROLL for (int r = 0; r < R; ++r) acc[c][r] = fma(xk[r], wk, acc[c][r]);
    }
    w += width * static_cast<int64_t>(sizeof(Weight));
  };
  unrolled_for<P * V * R>(layer.in, step, [&](int n) { x += n; });
  UNROLL for (int c = 0; c < P * V; ++c) {
    UNROLL for (int r = 0; r < R; ++r) {
      if (kScaled<Weight>) {
        const float* header = header_of(panel + c / V * bytes) + c % V * kLanes;
        acc[c][r] = fma(acc[c][r], load(header + width), load(header));
      }
      store(y + r * y_stride + c * kLanes, with_relu ? relu(acc[c][r]) : acc[c][r]);
    }
  }
}

// One layer: x (R, in) to y (R, out rounded up to whole vectors). What is past `out` is garbage
// that the next layer never reads.
template <class Weight, int R>
__attribute__((always_inline)) inline void outputs_layer(const LayerPlan& layer,
                                                         const BlockStream& stream, const float* x,
                                                         int64_t x_stride, float* y,
                                                         int64_t y_stride) {
  constexpr int kVectors = kPanelWidth / kLanes, kPanels = kOutputsPanels[R];
  const Bytes* panel = stream.weights + layer.offset;
  int64_t left = layer.out;
  const auto next = [&](int64_t outputs) {
    panel += panel_bytes<Weight>(layer.in, outputs);
    y += outputs;
    left -= outputs;
  };
  while (left >= kPanels * kPanelWidth) {
    outputs_tile<Weight, R, kPanels, kVectors>(layer, stream, panel, kPanelWidth, x, x_stride, y,
                                               y_stride);
    next(kPanels * kPanelWidth);
  }
  if (kPanels > 2 && left >= 2 * kPanelWidth) {
    outputs_tile<Weight, R, 2, kVectors>(layer, stream, panel, kPanelWidth, x, x_stride, y,
                                         y_stride);
    next(2 * kPanelWidth);
  }
  if (kPanels > 1 && left >= kPanelWidth) {
    outputs_tile<Weight, R, 1, kVectors>(layer, stream, panel, kPanelWidth, x, x_stride, y,
                                         y_stride);
    next(kPanelWidth);
  }
  if (left == 0) return;
  // The tail panel takes only as many vectors as it needs.
  constexpr int kTwo = kVectors < 2 ? kVectors : 2;
  if (left <= kLanes) {
    outputs_tile<Weight, R, 1, 1>(layer, stream, panel, left, x, x_stride, y, y_stride);
  } else if (left <= 2 * kLanes) {
    outputs_tile<Weight, R, 1, kTwo>(layer, stream, panel, left, x, x_stride, y, y_stride);
  } else {
    outputs_tile<Weight, R, 1, kVectors>(layer, stream, panel, left, x, x_stride, y, y_stride);
  }
}

// All layers for R rows, from job.x's row `first` on.
template <class Weight, int R>
__attribute__((noinline)) void outputs_pass(const Plan& plan, const PanelJob& job, int64_t first,
                                            float* scratch) {
  const BlockStream stream = {job.weights, job.next_weights, plan.block_bytes, false};
  const int64_t in = plan.layers[0].in, out = plan.layers[plan.num_layers - 1].out;
  const int64_t stride = plan.buffer_width;
  const float* x = job.x + first * in;
  int64_t x_stride = in;
  float* y = scratch;
  const LayerPlan* const end = plan.layers + plan.num_layers;
  for (const LayerPlan* layer = plan.layers; layer != end; ++layer) {
    outputs_layer<Weight, R>(*layer, stream, x, x_stride, y, stride);
    const auto activation = activation_of<Weight, kScaled<Weight>>(*layer, stream.layer(*layer));
    for (int r = 0; r < R; ++r) activate_row(activation, y + r * stride, layer->out);
    x = y;
    x_stride = stride;
    y = y == scratch ? scratch + R * stride : scratch;
  }
  float* to = job.y + first * out;
  for (int r = 0; r < R; ++r, to += out) {
    const float* from = x + r * stride;
    int64_t o = 0;
    for (; o + kLanes <= out; o += kLanes) store(to + o, load(from + o));
    if (o < out) store_first(to + o, load(from + o), out - o);
  }
}

// outputs_pass for a number of rows known only now, 1 to R.
template <class Weight, int R = kLanes / 2>
inline void few_rows(const Plan& plan, const PanelJob& job, int64_t first, float* scratch) {
  if (job.rows - first == R) return outputs_pass<Weight, R>(plan, job, first, scratch);
  if constexpr (R > 1) few_rows<Weight, R - 1>(plan, job, first, scratch);
}

template <class Weight>
void panel(const Plan& plan, const PanelJob& job, float* scratch) {
  if (job.rows == 1) return outputs_pass<Weight, 1>(plan, job, 0, scratch);  // the usual case first
  const int64_t many = rows_in_vectors(job.rows);
  if (many > 0) {
    const BlockStream stream = {job.weights, job.next_weights, plan.block_bytes, false};
    rows_passes<Weight, kScaled<Weight>>(plan, stream, job.x, many, job.y, scratch);
  }
  if (many < job.rows) few_rows<Weight>(plan, job, many, scratch);
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
