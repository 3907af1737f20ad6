// The hot loops. Written once over simd.h and compiled once per instruction set (CMake gives MLPBANK_ISA and the flags).
//
// Every output is   acc = bias;  for k = 0, 1, 2, ...:  acc = fma(x[k], w[k], acc)   in float32, in that order, whatever
// tile computes it. So the same row through the same model gives the same bits in any company. Only what the vector
// lanes stand for differs:
//
//   outputs_tile   lanes are 16 outputs of one model      x[row][k] broadcast,  w[k][16] loaded     panel layout, few rows
//   rows_tile      lanes are rows of one model            x[k][rows] loaded,    w[k][o] broadcast   panel layout, many rows
//   models_tile    lanes are 16 models                    x[k][16] loaded,      w[k][o][16] loaded  lane layout
//
// A tile keeps all its accumulators in registers. GCC 12 does so only when every loop over them is unrolled by pragma;
// without, they went through the stack at half the speed.
#include "kernel.h"

#include "activations.h"
#include "probe.h"
#include "simd.h"

#define UNROLL _Pragma("GCC unroll 24")

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

// Weights are read as one stream. This many floats ahead is far enough for memory's latency at full bandwidth and near
// enough not to push anything out of L1.
constexpr int64_t kPrefetchFloats = 1536;

// Tile sizes that fill the register file: 32 vector registers with AVX-512, else 16.
#if defined(__AVX512F__)
constexpr int kOutputsRows = 4, kOutputsPanels = 4;         // 4 rows x 4 zmm: 16 accumulators + 4 weights + 1 input
constexpr int kRowsOutputs[4] = {0, 16, 8, 8};              // outputs beside 1, 2, 3 vectors of rows: at most 24 accumulators
constexpr int kModelsRows = 2;                              // 2 rows x 8 outputs
#else
constexpr int kOutputsRows = 4, kOutputsPanels = kLanes == 8 ? 2 : 1;
constexpr int kRowsOutputs[4] = {0, 8, 6, 4};               // at most 12 accumulators + 3 inputs + 1 weight
constexpr int kModelsRows = 1;
#endif

// Where in memory to prefetch from while reading at `weights + position`: kPrefetchFloats ahead in this unit, and
// past its end in the unit that this thread takes next.
struct Stream {
  const float* weights;
  const float* next;
  int64_t unit_floats;

  int64_t ahead(const float* from) const {
    const int64_t position = from - weights + kPrefetchFloats;
    const float* target = position < unit_floats ? weights + position : next + (position - unit_floats);
    return reinterpret_cast<intptr_t>(target) - reinterpret_cast<intptr_t>(from);
  }
};

inline void prefetch_ahead(const float* w, int64_t ahead) {
  prefetch(reinterpret_cast<const void*>(reinterpret_cast<intptr_t>(w) + ahead));
}

inline float* align_up_16(float* p, int64_t n) { return p + (n + 15) / 16 * 16; }

// ---------------------------------------------------------------------------------------------------------------------
// Panel layout, few rows.

// R rows x P panels, of each panel its first V vectors. x (R, in), y (R, P * 16 at least). `width` is the panel's.
template <int R, int P, int V>
inline void outputs_tile(const float* w, int64_t width, int64_t in, bool with_relu, const float* x, int64_t x_stride,
                         float* y, int64_t y_stride, int64_t ahead) {
  const int64_t panel_floats = width * (in + 1);
  Vec acc[R][P * V];
  UNROLL for (int c = 0; c < P * V; ++c) {
    const Vec bias = load(w + c / V * panel_floats + c % V * kLanes);
    UNROLL for (int r = 0; r < R; ++r) acc[r][c] = bias;
  }
  for (int64_t k = 0; k < in; ++k) {
    w += width;
    Vec wk[P * V];
    UNROLL for (int c = 0; c < P * V; ++c) wk[c] = load(w + c / V * panel_floats + c % V * kLanes);
    UNROLL for (int p = 0; p < P; ++p) prefetch_ahead(w + p * panel_floats, ahead);
    UNROLL for (int r = 0; r < R; ++r) {
      const Vec xk = broadcast(x[r * x_stride + k]);
      UNROLL for (int c = 0; c < P * V; ++c) acc[r][c] = fma(xk, wk[c], acc[r][c]);
    }
  }
  UNROLL for (int r = 0; r < R; ++r) {
    UNROLL for (int c = 0; c < P * V; ++c) {
      store(y + r * y_stride + c * kLanes, with_relu ? relu(acc[r][c]) : acc[r][c]);
    }
  }
}

template <int P, int V>
inline void outputs_panels(const float* w, int64_t width, int64_t in, bool with_relu, const float* x, int64_t x_stride,
                           int64_t rows, float* y, int64_t y_stride, int64_t ahead) {
  int64_t r = 0;
  for (; r + kOutputsRows <= rows; r += kOutputsRows) {
    outputs_tile<kOutputsRows, P, V>(w, width, in, with_relu, x + r * x_stride, x_stride, y + r * y_stride, y_stride,
                                     ahead);
  }
  for (; r < rows; ++r) {
    outputs_tile<1, P, V>(w, width, in, with_relu, x + r * x_stride, x_stride, y + r * y_stride, y_stride, ahead);
  }
}

// One layer: x (rows, in) to y (rows, out rounded up to whole vectors; what is past `out` is garbage nobody reads).
inline void outputs_layer(const LayerPlan& layer, const Stream& stream, const float* x, int64_t x_stride, int64_t rows,
                          float* y, int64_t y_stride) {
  constexpr int kFull = kPanelWidth / kLanes;
  const int64_t in = layer.in;
  const bool with_relu = layer.activation == Activation::relu;
  const float* w = stream.weights + layer.offset;
  int64_t left = layer.out;
  const auto panels = [&](auto tile, int64_t width, int64_t outputs) {
    tile(w, width, in, with_relu, x, x_stride, rows, y, y_stride, stream.ahead(w));
    w += (in + 1) * outputs;
    y += outputs;
    left -= outputs;
  };
  while (left >= kOutputsPanels * kPanelWidth) {
    panels(outputs_panels<kOutputsPanels, kFull>, kPanelWidth, kOutputsPanels * kPanelWidth);
  }
  if (kOutputsPanels > 2 && left >= 2 * kPanelWidth) panels(outputs_panels<2, kFull>, kPanelWidth, 2 * kPanelWidth);
  while (left >= kPanelWidth) panels(outputs_panels<1, kFull>, kPanelWidth, kPanelWidth);
  if (left == 0) return;
  // The tail panel: only as many vectors as it needs.
  if (left <= kLanes) {
    panels(outputs_panels<1, 1>, left, left);
  } else if (left <= 2 * kLanes) {
    panels(outputs_panels<1, 2 < kFull ? 2 : kFull>, left, left);
  } else {
    panels(outputs_panels<1, kFull>, left, left);
  }
}

// All layers for up to 16 rows.
void outputs_block(const Plan& plan, const Stream& stream, const float* x, int64_t rows, float* y, float* scratch) {
  float* buffers[2] = {scratch, scratch + kBlockRows * plan.buffer_width};
  const LayerPlan* layer = plan.layers;
  const LayerPlan* const end = layer + plan.num_layers;
  int64_t x_stride = layer->in;
  for (int turn = 0; layer != end; ++layer, turn ^= 1) {
    float* out = buffers[turn];
    outputs_layer(*layer, stream, x, x_stride, rows, out, plan.buffer_width);
    for (int64_t r = 0; r < rows; ++r) {
      apply(layer->activation, out + r * plan.buffer_width, (layer->out + kLanes - 1) / kLanes * kLanes);
    }
    x = out;
    x_stride = plan.buffer_width;
  }
  const int64_t out = end[-1].out;
  for (int64_t r = 0; r < rows; ++r, y += out) {
    const float* from = x + r * x_stride;
    int64_t o = 0;
    for (; o + kLanes <= out; o += kLanes) store(y + o, load(from + o));
    if (o < out) store_first(y + o, load(from + o), out - o);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Panel layout, many rows. Activations lie transposed, [unit][row], so no output size wastes a lane.

// V vectors of rows x O outputs. x (in, V * kLanes), y (O, V * kLanes). `w` points at the first output's bias.
template <int V, int O>
inline void rows_tile(const float* w, int64_t width, int64_t in, bool with_relu, const float* x, float* y,
                      int64_t ahead) {
  Vec acc[O][V];
  UNROLL for (int o = 0; o < O; ++o) {
    UNROLL for (int v = 0; v < V; ++v) acc[o][v] = broadcast(w[o]);
  }
  for (int64_t k = 0; k < in; ++k) {
    w += width;
    Vec xk[V];
    UNROLL for (int v = 0; v < V; ++v) xk[v] = load(x + (k * V + v) * kLanes);
    prefetch_ahead(w, ahead);
    UNROLL for (int o = 0; o < O; ++o) {
      const Vec wk = broadcast(w[o]);
      UNROLL for (int v = 0; v < V; ++v) acc[o][v] = fma(xk[v], wk, acc[o][v]);
    }
  }
  UNROLL for (int o = 0; o < O; ++o) {
    UNROLL for (int v = 0; v < V; ++v) store(y + (o * V + v) * kLanes, with_relu ? relu(acc[o][v]) : acc[o][v]);
  }
}

// The outputs of one panel in tiles of O, what is left in smaller ones.
template <int V, int O>
inline void rows_panel(const float* w, int64_t width, int64_t left, int64_t in, bool with_relu, const float* x, float* y,
                       int64_t ahead) {
  for (; left >= O; left -= O, w += O, y += O * V * kLanes) rows_tile<V, O>(w, width, in, with_relu, x, y, ahead);
  if constexpr (O > 1) {
    constexpr int kSmaller = O == 6 ? 4 : O / 2;
    if (left > 0) rows_panel<V, kSmaller>(w, width, left, in, with_relu, x, y, ahead);
  }
}

// All layers for V vectors of rows, of which `rows` are real.
template <int V>
void rows_block(const Plan& plan, const Stream& stream, const float* x, int64_t rows, float* y, float* scratch) {
  constexpr int64_t kRows = V * kLanes;
  float* buffers[2] = {scratch, scratch + kBlockRows * plan.buffer_width};
  const int64_t in = plan.layers[0].in;
  if (rows < kRows) memset(buffers[0], 0, sizeof(float) * kRows * in);
  transpose(x, in, rows, in, buffers[0], kRows);
  int turn = 0;
  for (int64_t i = 0; i < plan.num_layers; ++i, turn ^= 1) {
    const LayerPlan& layer = plan.layers[i];
    const float* w = stream.weights + layer.offset;
    float* out = buffers[turn ^ 1];
    for (int64_t o = 0; o < layer.out; o += kPanelWidth) {
      const int64_t width = layer.out - o < kPanelWidth ? layer.out - o : kPanelWidth;
      rows_panel<V, kRowsOutputs[V]>(w, width, width, layer.in, layer.activation == Activation::relu, buffers[turn],
                                     out + o * kRows, stream.ahead(w));
      w += (layer.in + 1) * width;
    }
    apply(layer.activation, out, layer.out * kRows);
  }
  const int64_t out = plan.layers[plan.num_layers - 1].out;
  transpose(buffers[turn], kRows, out, rows, y, out);
}

void panel(const Plan& plan, const PanelJob& job, float* scratch) {
  const Stream stream = {job.weights, job.next_weights, plan.unit_floats};
  const int64_t in = plan.layers[0].in, out = plan.layers[plan.num_layers - 1].out;
  const float* x = job.x;
  float* y = job.y;
  int64_t left = job.rows;
  // A last vector of rows that is more than half full beats the few-rows tiles.
  int64_t vectors = left / kLanes + (left % kLanes > kLanes / 2);
  while (vectors > 0) {
    const int64_t v = vectors == 4 ? 2 : vectors < 3 ? vectors : 3;  // 4 = 2 + 2: one vector alone is the slowest tile
    const int64_t rows = left < v * kLanes ? left : v * kLanes;
    if (v == 3) {
      rows_block<3>(plan, stream, x, rows, y, scratch);
    } else if (v == 2) {
      rows_block<2>(plan, stream, x, rows, y, scratch);
    } else {
      rows_block<1>(plan, stream, x, rows, y, scratch);
    }
    vectors -= v;
    left -= rows;
    x += rows * in;
    y += rows * out;
  }
  if (left > 0) outputs_block(plan, stream, x, left, y, scratch);
}

// ---------------------------------------------------------------------------------------------------------------------
// Lane layout.

// R rows x O outputs x the kLanes models from `w` on. x (R, in, 16), y (R, O, 16), each row x_stride or y_stride apart.
template <int R, int O>
inline void models_tile(const float* w, int64_t width, int64_t in, bool with_relu, const float* x, int64_t x_stride,
                        float* y, int64_t y_stride, int64_t ahead) {
  Vec acc[R][O];
  UNROLL for (int o = 0; o < O; ++o) {
    UNROLL for (int r = 0; r < R; ++r) acc[r][o] = load(w + o * kTileModels);
  }
  for (int64_t k = 0; k < in; ++k) {
    w += width * kTileModels;
    Vec xk[R];
    UNROLL for (int r = 0; r < R; ++r) xk[r] = load(x + r * x_stride + k * kTileModels);
    UNROLL for (int o = 0; o < O; ++o) {
      const Vec wk = load(w + o * kTileModels);
      prefetch_ahead(w + o * kTileModels, ahead);
      UNROLL for (int r = 0; r < R; ++r) acc[r][o] = fma(xk[r], wk, acc[r][o]);
    }
  }
  UNROLL for (int r = 0; r < R; ++r) {
    UNROLL for (int o = 0; o < O; ++o) {
      store(y + r * y_stride + o * kTileModels, with_relu ? relu(acc[r][o]) : acc[r][o]);
    }
  }
}

template <int R, int O>
inline void models_panel(const float* w, int64_t width, int64_t left, int64_t in, bool with_relu, const float* x,
                         int64_t x_stride, float* y, int64_t y_stride, int64_t ahead) {
  if (left >= O) {
    for (int lane = 0; lane < kTileModels; lane += kLanes) {
      models_tile<R, O>(w + lane, width, in, with_relu, x + lane, x_stride, y + lane, y_stride, ahead);
    }
    left -= O;
    w += O * kTileModels;
    y += O * kTileModels;
  }
  if constexpr (O > 1) {
    if (left > 0) models_panel<R, O / 2>(w, width, left, in, with_relu, x, x_stride, y, y_stride, ahead);
  }
}

// All layers for R rows of each model of the tile.
template <int R>
void models_block(const Plan& plan, const Stream& stream, const LaneJob& job, int64_t row, float* scratch) {
  float* buffers[2] = {scratch, scratch + kBlockRows * plan.buffer_width};
  const int64_t stride = plan.buffer_width * kTileModels;
  const int64_t in = plan.layers[0].in, out = plan.layers[plan.num_layers - 1].out;
  for (int64_t r = 0; r < R; ++r) {
    float* to = buffers[0] + r * stride;
    if (job.models < kTileModels) memset(to, 0, sizeof(float) * in * kTileModels);
    transpose(job.x + (row + r) * in, job.x_stride, job.models, in, to, kTileModels);
  }
  int turn = 0;
  for (int64_t i = 0; i < plan.num_layers; ++i, turn ^= 1) {
    const LayerPlan& layer = plan.layers[i];
    const float* w = stream.weights + layer.offset;
    float* to = buffers[turn ^ 1];
    for (int64_t o = 0; o < layer.out; o += kLanePanelWidth) {
      const int64_t width = layer.out - o < kLanePanelWidth ? layer.out - o : kLanePanelWidth;
      models_panel<R, kLanePanelWidth>(w, width, width, layer.in, layer.activation == Activation::relu, buffers[turn],
                                       stride, to + o * kTileModels, stride, stream.ahead(w));
      w += (layer.in + 1) * width * kTileModels;
    }
    for (int64_t r = 0; r < R; ++r) apply(layer.activation, to + r * stride, layer.out * kTileModels);
  }
  for (int64_t r = 0; r < R; ++r) {
    transpose(buffers[turn] + r * stride, kTileModels, out, job.models, job.y + (row + r) * out, job.y_stride);
  }
}

void lane(const Plan& plan, const LaneJob& job, float* scratch) {
  const Stream stream = {job.weights, job.next_weights, plan.unit_floats};
  int64_t row = 0;
  for (; row + kModelsRows <= job.rows; row += kModelsRows) models_block<kModelsRows>(plan, stream, job, row, scratch);
  for (; row < job.rows; ++row) models_block<1>(plan, stream, job, row, scratch);
}

}  // namespace
}  // namespace MLPBANK_ISA

// The one symbol this object defines, constant-initialised: nothing of an instruction set runs at import.
#define MLPBANK_PASTE(a, b) a##b
#define MLPBANK_KERNEL(isa) MLPBANK_PASTE(kernel_, isa)
#define MLPBANK_STRING(s) #s
#define MLPBANK_NAME(isa) MLPBANK_STRING(isa)
extern const Kernel MLPBANK_KERNEL(MLPBANK_ISA);
const Kernel MLPBANK_KERNEL(MLPBANK_ISA) = {MLPBANK_NAME(MLPBANK_ISA), MLPBANK_ISA::panel, MLPBANK_ISA::lane,
                                            MLPBANK_ISA::probe_read, MLPBANK_ISA::probe_fma};

}  // namespace mlpbank
