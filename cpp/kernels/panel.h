// The hot loops of the panel layout: outputs_tile for few rows, rows_tile for many. See kernel.cpp.
#pragma once

#include "kernels/activations.h"
#include "kernels/stream.h"
#include "kernels/transpose.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

// Few rows.

// Two models with one row each side by side, so that one's sums need not wait for the other's, gain too little for what
// they cost: 16-32-8 in L2 49 against 57 ns a model, 32-64-64-1 in memory 3 % slower.

// R rows x P panels, of each panel its first V vectors. x (R, in), y (R, P * 16 at least). `width` is the panel's.
template <class Weight, int R, int P, int V>
__attribute__((always_inline)) inline void outputs_tile(const LayerPlan& layer, const Stream& stream,
                                                        const Bytes* panel, int64_t width, const float* x,
                                                        int64_t x_stride, float* y, int64_t y_stride) {
  constexpr int kInputBytes = kPanelWidth * static_cast<int>(sizeof(Weight));  // of one input in a whole panel
  const bool with_relu = layer.activation == Activation::relu;
  const int64_t bytes = panel_bytes<Weight>(layer.in, width);
  // For each panel by itself: four of 64 inputs are 16 KB, and what lies ahead of the last ones is the next model.
  int64_t ahead[P];
  UNROLL for (int p = 0; p < P; ++p) ahead[p] = stream.ahead<Weight>(panel + p * bytes);
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
      UNROLL for (int p = 0; p < P; ++p) prefetch_ahead(w + p * bytes, ahead[p]);
    }
    UNROLL for (int c = 0; c < P * V; ++c) {
      const Vec wk = load(reinterpret_cast<const Weight*>(w + c / V * bytes) + c % V * kLanes);
      UNROLL for (int r = 0; r < R; ++r) acc[c][r] = fma(xk[r], wk, acc[c][r]);
    }
    w += width * static_cast<int64_t>(sizeof(Weight));
  };
  steps<P * V * R>(layer.in, step, [&](int n) { x += n; });
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

// One layer: x (R, in) to y (R, out rounded up to whole vectors; what is past `out` is garbage nobody reads).
template <class Weight, int R>
__attribute__((always_inline)) inline void outputs_layer(const LayerPlan& layer, const Stream& stream, const float* x,
                                                         int64_t x_stride, float* y, int64_t y_stride) {
  constexpr int kVectors = kPanelWidth / kLanes, kPanels = kOutputsPanels[R];
  const Bytes* panel = stream.weights + layer.offset;
  int64_t left = layer.out;
  const auto next = [&](int64_t outputs) {
    panel += panel_bytes<Weight>(layer.in, outputs);
    y += outputs;
    left -= outputs;
  };
  while (left >= kPanels * kPanelWidth) {
    outputs_tile<Weight, R, kPanels, kVectors>(layer, stream, panel, kPanelWidth, x, x_stride, y, y_stride);
    next(kPanels * kPanelWidth);
  }
  if (kPanels > 2 && left >= 2 * kPanelWidth) {
    outputs_tile<Weight, R, 2, kVectors>(layer, stream, panel, kPanelWidth, x, x_stride, y, y_stride);
    next(2 * kPanelWidth);
  }
  if (kPanels > 1 && left >= kPanelWidth) {
    outputs_tile<Weight, R, 1, kVectors>(layer, stream, panel, kPanelWidth, x, x_stride, y, y_stride);
    next(kPanelWidth);
  }
  if (left == 0) return;
  // The tail panel: only as many vectors as it needs.
  if (left <= kLanes) {
    outputs_tile<Weight, R, 1, 1>(layer, stream, panel, left, x, x_stride, y, y_stride);
  } else if (left <= 2 * kLanes) {
    outputs_tile<Weight, R, 1, 2 < kVectors ? 2 : kVectors>(layer, stream, panel, left, x, x_stride, y, y_stride);
  } else {
    outputs_tile<Weight, R, 1, kVectors>(layer, stream, panel, left, x, x_stride, y, y_stride);
  }
}

// All layers for R rows, from job.x's row `first` on.
template <class Weight, int R>
__attribute__((noinline)) void outputs_rows(const Plan& plan, const PanelJob& job, int64_t first, float* scratch) {
  const Stream stream = {job.weights, job.next_weights, plan.unit_bytes, false};
  const int64_t in = plan.layers[0].in, out = plan.layers[plan.num_layers - 1].out, stride = plan.buffer_width;
  const float* x = job.x + first * in;
  int64_t x_stride = in;
  float* y = scratch;
  const LayerPlan* const end = plan.layers + plan.num_layers;
  for (const LayerPlan* layer = plan.layers; layer != end; ++layer) {
    outputs_layer<Weight, R>(*layer, stream, x, x_stride, y, stride);
    for (int r = 0; r < R; ++r) apply_row(layer->activation, y + r * stride, layer->out);
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

// ---------------------------------------------------------------------------------------------------------------------
// Many rows. Activations lie transposed, [unit][row], so no output size wastes a lane.

// What tiles prefetch, a little with every input, because memory cannot keep up with bursts. Weights: as many as a tile
// has itself, so that all tiles of a panel share its lines evenly (when the first fetched all, 1000 x 64-128-64-10 with
// 64 rows made 140 GFLOP/s instead of 154). The rows that this thread takes next, which with dense inputs follow these
// (fetched after each panel instead, 1000 x 256-64-16 with 32 rows made 99 instead of 119, not at all 93).
template <class Weight>
struct Soon {
  const Weight* weights;
  const float* rows;
  int64_t rows_step;  // floats for each input
};

// V vectors of rows x O outputs. x (in, V * kLanes), y (O, V * kLanes). `w` points at the first output's bias; the rows
// of the panel, `width` floats each, are biases, scales if Scaled, and weights.
template <class Weight, bool Scaled, int V, int O>
inline void rows_tile(const float* w, int64_t width, int64_t in, bool with_relu, const float* x, float* y,
                      const Soon<Weight>& soon) {
  const float* const header = w;
  Vec acc[O][V];
  UNROLL for (int o = 0; o < O; ++o) {
    UNROLL for (int v = 0; v < V; ++v) acc[o][v] = broadcast(Scaled ? 0.0f : w[o]);
  }
  if (Scaled) w += width;
  const float* next_row = soon.rows;
  for (int64_t k = 0; k < in; ++k) {
    w += width;
    Vec xk[V];
    UNROLL for (int v = 0; v < V; ++v) xk[v] = load(x + (k * V + v) * kLanes);
    prefetch(soon.weights + k * O);
    prefetch(next_row);
    next_row += soon.rows_step;
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
inline void rows_panel(const float* w, int64_t width, int64_t left, int64_t in, Activation activation, const float* x,
                       float* y, Soon<Weight>& soon) {
  for (; left >= O; left -= O, w += O, y += O * V * kLanes) {
    rows_tile<Weight, Scaled, V, O>(w, width, in, activation == Activation::relu, x, y, soon);
    if (kActivateTiles && !in_tile(activation)) apply(activation, y, O * V * kLanes);
    soon.weights += in * O;
    soon.rows += in * soon.rows_step;
  }
  if constexpr (O > 1) {
    if (left > 0) rows_panel<Weight, Scaled, V, O - 1>(w, width, left, in, activation, x, y, soon);
  }
}

// Floats from `count` elements. The last vector overlaps the one before it: behind the elements there may be no memory.
// (Fewer than a vector are read as one, for which the layout leaves room.)
template <class Weight>
inline void to_floats(const Weight* from, int64_t count, float* to) {
  int64_t i = 0;
#pragma GCC unroll 4
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  if (i == count) return;
  i = count > kLanes ? count - kLanes : 0;
  store(to + i, load(from + i));
}

// A panel in float32 rows: as it lies in the bank, or converted right before its use. Converted into `buffer` it stays
// in L1; a whole model converted at once does not, and took twice the time (float16, 32-64-64-1, 32 rows).
template <class Weight>
inline const float* float_panel(const Bytes* panel, int64_t width, int64_t in, float* buffer) {
  if (kIsFloat<Weight>) return header_of(panel);
  const int64_t header = kHeaderBytes<Weight> / 4 * width;
  memcpy(buffer, panel, sizeof(float) * header);
  to_floats(weights_of<Weight>(panel, width), in * width, buffer + header);
  return buffer;
}

static_assert(3 * kLanes <= kBlockRows && kLanes / 2 <= kBlockRows, "all tiles' rows fit the scratch memory");

// All layers for V vectors of rows, of which `rows` are real. Scaled is that of the panels as they are computed with.
template <class Weight, bool Scaled, int V>
void rows_block(const Plan& plan, const Stream& stream, const float* x, int64_t rows, float* y, float* scratch) {
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
  Soon<Weight> soon = {nullptr, x + rows * in, (kRows * in + inputs - 1) / inputs};
  const float *next_line = y, *y_end = y + rows * out;  // beyond it, other threads write
  const int64_t lines = (rows * out / 16 + plan.num_panels) / plan.num_panels;  // for each panel
  int turn = 0;
  for (int64_t i = 0; i < plan.num_layers; ++i, turn ^= 1) {
    const LayerPlan& layer = plan.layers[i];
    const Bytes* panel = stream.weights + (stream.unpacked ? 4 * layer.unpacked : layer.offset);
    float* to = buffers[turn ^ 1];
    for (int64_t o = 0; o < layer.out; o += plan.panel_width) {
      const int64_t width = layer.out - o < plan.panel_width ? layer.out - o : plan.panel_width;
      const int64_t bytes = (Scaled ? 8 : 4) * width + layer.in * width * static_cast<int64_t>(sizeof(Weight));
      const float* w = float_panel<Weight>(panel, width, layer.in, panel_buffer);
      soon.weights = stream.soon<Weight>(panel, bytes);
      rows_panel<Weight, Scaled, V, kOutputs>(w, width, width, layer.in, layer.activation, buffers[turn],
                                              to + o * kRows, soon);
      for (int64_t n = 0; n < lines && next_line < y_end; ++n, next_line += 16) prefetch_to_write(next_line);
      panel += bytes;
    }
    if (!kActivateTiles || layer.activation == Activation::softmax) {
      apply_columns(layer.activation, to, layer.out, kRows);
    }
  }
  transpose(buffers[turn], kRows, out, rows, y, out);
}

// How many of `rows` rows go through rows_block: all but a last vector that would be at most half full. Such rest is
// faster through the few-rows tiles, also at exactly half (24 rows of 64-64-64: 131 against 100 GFLOP/s).
inline int64_t rows_in_vectors(int64_t rows) {
  const int64_t rest = rows % kLanes;
  return rest > kLanes / 2 ? rows : rows - rest;
}

// Three vectors at a time read fewer weights for each multiply-add than two. But when a layer's inputs and outputs
// outgrow L1 with three and do not with two, two are faster (AVX-512: 256 rows of 128-128-128 139 and 151 GFLOP/s, 192
// of 192-192-192 144 and 149; 20-40-1 122 and 115, 512-512-512 154 and 147). Four beside 6 outputs were between 9 %
// slower (64-64-64) and 5 % faster. AVX2 has no good tile of two.
inline int64_t vectors_at_once(const Plan& plan) {
  const int64_t bytes = plan.widest_pair * kLanes * static_cast<int64_t>(sizeof(float));
  return kLanes == 16 && 3 * bytes > (32 << 10) && 2 * bytes <= (48 << 10) ? 2 : 3;
}

template <class Weight, bool Scaled>
void rows_blocks(const Plan& plan, const Stream& stream, const float* x, int64_t rows, float* y, float* scratch) {
  const int64_t at_once = vectors_at_once(plan);
  const int64_t in = plan.layers[0].in, out = plan.layers[plan.num_layers - 1].out;
  while (rows > 0) {
    const int64_t vectors = (rows + kLanes - 1) / kLanes;
    const int64_t v = vectors <= 3 ? vectors : vectors == 4 ? 2 : at_once;  // none left alone: the slowest tile
    const int64_t n = rows < v * kLanes ? rows : v * kLanes;
    if (v == 3) {
      rows_block<Weight, Scaled, 3>(plan, stream, x, n, y, scratch);
    } else if (v == 2) {
      rows_block<Weight, Scaled, 2>(plan, stream, x, n, y, scratch);
    } else {
      rows_block<Weight, Scaled, 1>(plan, stream, x, n, y, scratch);
    }
    rows -= n;
    x += n * in;
    y += n * out;
  }
}

// outputs_rows for a number of rows known only now, 1 to R.
template <class Weight, int R = kLanes / 2>
inline void few_rows(const Plan& plan, const PanelJob& job, int64_t first, float* scratch) {
  if (job.rows - first == R) return outputs_rows<Weight, R>(plan, job, first, scratch);
  if constexpr (R > 1) few_rows<Weight, R - 1>(plan, job, first, scratch);
}

template <class Weight>
void panel(const Plan& plan, const PanelJob& job, float* scratch) {
  if (job.rows == 1) return outputs_rows<Weight, 1>(plan, job, 0, scratch);  // straight to the most frequent case
  const int64_t many = rows_in_vectors(job.rows);
  if (many > 0) {
    const Stream stream = {job.weights, job.next_weights, plan.unit_bytes, false};
    rows_blocks<Weight, kScaled<Weight>>(plan, stream, job.x, many, job.y, scratch);
  }
  if (many < job.rows) few_rows<Weight>(plan, job, many, scratch);
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
