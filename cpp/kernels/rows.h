// Many rows of one model: rows_tile. Activations lie transposed, (outputs, rows), so no output size
// wastes a vector lane.
//
//   rows_tile: vector lanes are V * kLanes rows, here O = 3 outputs
//
//                rows 0 ..
//     output o   [acc acc ..] [acc acc ..]     acc[row] = fma(x[k][row], w[k][o], acc[row])
//     output o+1 [acc acc ..] [acc acc ..]
//     output o+2 [acc acc ..] [acc acc ..]
#pragma once

#include "kernels/activations.h"
#include "kernels/stream.h"
#include "kernels/transpose.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

static_assert(3 * kLanes <= kPassRows && kLanes / 2 <= kPassRows, "a pass fits the scratch memory");

// V vectors of rows x O outputs. x (in, V * kLanes), y (O, V * kLanes). `w` points at the first
// output's bias. The rows of the panel, `width` floats each, are biases, scales (if Scaled) and
// weights.
template <class Weight, bool Scaled, int V, int O>
inline void rows_tile(const float* w, int64_t width, int64_t in, bool with_relu, const float* x,
                      float* y, const PrefetchPlan<Weight>& ahead) {
  const float* const header = w;
  Vec acc[O][V];
  UNROLL for (int o = 0; o < O; ++o) {
    UNROLL for (int v = 0; v < V; ++v) acc[o][v] = broadcast(Scaled ? 0.0f : w[o]);
  }
  if (Scaled) w += width;
  const float* next_row = ahead.rows;
  for (int64_t k = 0; k < in; ++k) {
    w += width;
    Vec xk[V];
    UNROLL for (int v = 0; v < V; ++v) xk[v] = load(x + (k * V + v) * kLanes);
    prefetch(ahead.weights + k * O);
    prefetch(next_row);
    next_row += ahead.row_step;
    UNROLL for (int o = 0; o < O; ++o) {
      const Vec wk = broadcast(w[o]);
      UNROLL for (int v = 0; v < V; ++v) acc[o][v] = fma(xk[v], wk, acc[o][v]);
    }
  }
  UNROLL for (int o = 0; o < O; ++o) {
    UNROLL for (int v = 0; v < V; ++v) {
      if (Scaled) acc[o][v] = fma(acc[o][v], broadcast(header[width + o]), broadcast(header[o]));
      store(y + (o * V + v) * kLanes, with_relu ? relu(acc[o][v]) : acc[o][v]);
    }
  }
}

// The outputs of one panel in tiles of O, the last one as wide as what is left.
template <class Weight, bool Scaled, int V, int O>
inline void rows_panel(const float* w, int64_t width, int64_t left, int64_t in,
                       const ActivationCall& activation, const float* x, float* y,
                       PrefetchPlan<Weight>& ahead) {
  for (; left >= O; left -= O, w += O, y += O * V * kLanes) {
    const bool with_relu = activation.activation == Activation::relu;
    rows_tile<Weight, Scaled, V, O>(w, width, in, with_relu, x, y, ahead);
    if (kActivateTiles && !is_at(Stage::tile, activation.activation)) {
      activate_vectors(activation, y, O * V * kLanes);
    }
    ahead.end_tile(in, O);
  }
  if constexpr (O > 1) {
    if (left > 0) {
      rows_panel<Weight, Scaled, V, O - 1>(w, width, left, in, activation, x, y, ahead);
    }
  }
}

// Floats from `count` elements. The last vector overlaps the one before it, since behind the
// elements there may be no memory. (Fewer than a vector are read as one: the layout leaves room.)
template <class Weight>
inline void to_floats(const Weight* from, int64_t count, float* to) {
  int64_t i = 0;
#pragma GCC unroll 4
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  if (i == count) return;
  i = count > kLanes ? count - kLanes : 0;
  store(to + i, load(from + i));
}

// A panel in float32: as it lies in the block, or converted into `buffer` right before its use. So
// it stays in L1.
template <class Weight>
inline const float* float_panel(const Bytes* panel, int64_t width, int64_t in, float* buffer) {
  if (kIsFloat<Weight>) return header_of(panel);
  const int64_t header = kHeaderBytes<Weight> / 4 * width;
  memcpy(buffer, panel, sizeof(float) * header);
  to_floats(weights_of<Weight>(panel, width), in * width, buffer + header);
  return buffer;
}

// All layers for V vectors of rows; only the first `rows` rows are real. Scaled says whether the
// panels have scales: an unpacked int8 model is float32 with scales.
template <class Weight, bool Scaled, int V>
void rows_pass(const Plan& plan, const BlockStream& stream, const float* x, int64_t rows, float* y,
               float* scratch) {
  constexpr int64_t kRows = V * kLanes, kOutputs = kRowsOutputs[V];
  float* buffers[2] = {scratch, scratch + kScratchRows / 2 * plan.buffer_width};
  float* panel_buffer = scratch + kScratchRows * plan.buffer_width;
  const int64_t in = plan.layers[0].in, out = plan.layers[plan.num_layers - 1].out;
  if (rows < kRows) memset(buffers[0], 0, sizeof(float) * kRows * in);
  transpose(x, in, rows, in, buffers[0], kRows);
  int64_t inputs = 0;  // that all tiles go through
  for (int64_t i = 0; i < plan.num_layers; ++i) {
    inputs += plan.layers[i].in * ((plan.layers[i].out + kOutputs - 1) / kOutputs);
  }
  PrefetchPlan<Weight> ahead = {
      nullptr, x + rows * in,  (kRows * in + inputs - 1) / inputs,
      y,       y + rows * out, (rows * out / 16 + plan.num_panels) / plan.num_panels};
  int turn = 0;
  for (int64_t i = 0; i < plan.num_layers; ++i, turn ^= 1) {
    const LayerPlan& layer = plan.layers[i];
    const int64_t bytes = column_bytes<Weight, Scaled>(layer.in);
    const ActivationCall activation = activation_of<Weight, Scaled>(layer, stream.layer(layer));
    float* to = buffers[turn ^ 1];
    for_each_panel(stream.layer(layer), layer.out, plan.panel_width, bytes, [&](auto panel) {
      const int64_t width = panel.outputs;
      const float* w = float_panel<Weight>(panel.address, width, layer.in, panel_buffer);
      ahead.begin_panel(stream.prefetch_address<Weight>(panel.address, width * bytes));
      rows_panel<Weight, Scaled, V, kOutputs>(w, width, width, layer.in, activation, buffers[turn],
                                              to + panel.first * kRows, ahead);
      ahead.end_panel();
    });
    if (!kActivateTiles || is_at(Stage::row, activation.activation)) {
      activate_columns(activation, to, layer.out, kRows);
    }
  }
  transpose(buffers[turn], kRows, out, rows, y, out);
}

// How many of `rows` rows go through rows_pass: all but a last vector that would be at most half
// full. Such a rest is faster through outputs_tile.
inline int64_t rows_in_vectors(int64_t rows) {
  const int64_t rest = rows % kLanes;
  return rest > kLanes / 2 ? rows : rows - rest;
}

// Three vectors at a time read fewer weights for each multiply-add than two. But where a layer's
// inputs and outputs outgrow L1 with three and fit with two, two are faster.
inline int64_t vectors_at_once(const Plan& plan) {
  const int64_t bytes = plan.widest_pair * kLanes * static_cast<int64_t>(sizeof(float));
  return kTwoVectorTile && 3 * bytes > (32 << 10) && 2 * bytes <= (48 << 10) ? 2 : 3;
}

template <class Weight, bool Scaled>
void rows_passes(const Plan& plan, const BlockStream& stream, const float* x, int64_t rows,
                 float* y, float* scratch) {
  const int64_t at_once = vectors_at_once(plan);
  const int64_t in = plan.layers[0].in, out = plan.layers[plan.num_layers - 1].out;
  while (rows > 0) {
    const int64_t vectors = (rows + kLanes - 1) / kLanes;
    // Four vectors go as two and two: one alone is the slowest tile.
    const int64_t v = vectors <= 3 ? vectors : vectors == 4 ? 2 : at_once;
    const int64_t n = rows < v * kLanes ? rows : v * kLanes;
    if (v == 3) {
      rows_pass<Weight, Scaled, 3>(plan, stream, x, n, y, scratch);
    } else if (v == 2) {
      rows_pass<Weight, Scaled, 2>(plan, stream, x, n, y, scratch);
    } else {
      rows_pass<Weight, Scaled, 1>(plan, stream, x, n, y, scratch);
    }
    rows -= n;
    x += n * in;
    y += n * out;
  }
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
