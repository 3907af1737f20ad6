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

// Weights are read as one stream. This many bytes ahead is far enough for memory's latency at full bandwidth and near
// enough not to push anything out of L1.
constexpr int64_t kPrefetchBytes = 6144;

// From this many rows per model on, a tile of the lane layout is transposed and its models computed one by one:
// transposing costs as much as computing 4 rows, after that rows_tile is three times as fast as models_tile.
constexpr int64_t kUnpackRows = 16;

// Tile sizes that fill the register file. kRowsOutputs[v]: outputs beside v vectors of rows. kOutputsPanels[r]: panels
// beside r rows, at most kLanes / 2 of them.
#if defined(__AVX512F__)                        // 32 registers, a panel is one vector
constexpr int kRowsOutputs[] = {0, 16, 8, 8};  // at most 24 accumulators + 3 inputs + 1 weight
constexpr int kOutputsPanels[] = {0, 4, 4, 4, 4, 4, 4, 2, 2};  // at most 24 accumulators + 6 inputs + 1 weight
constexpr int kModelsRows = 3;                                 // 24 accumulators + 3 inputs + 1 weight
#elif defined(__AVX2__)                        // 16 registers, a panel is two vectors
constexpr int kRowsOutputs[] = {0, 8, 6, 4};  // at most 12 accumulators + 3 inputs + 1 weight
constexpr int kOutputsPanels[] = {0, 2, 2, 2, 1};
constexpr int kModelsRows = 1;
#else  // 16 registers, of which a multiplication needs one; a panel is four vectors
constexpr int kRowsOutputs[] = {0, 8, 4, 2};
constexpr int kOutputsPanels[] = {0, 1, 1};
constexpr int kModelsRows = 1;
#endif

// With AVX-512 an activation right after each tile runs beside the next tile's multiply-adds (tanh costs 22 % of relu's
// time, after a whole layer 25 %). With AVX2, whose tables are in memory, a whole layer at once is better (36 against
// 43 %).
constexpr bool kActivateTiles = kLanes == 16;

// The weights of one unit. Where to prefetch from while reading at `from`: kPrefetchBytes ahead in this unit, and past
// its end in the unit that this thread takes next.
struct Stream {
  const Bytes* weights;
  const Bytes* next;
  int64_t unit_bytes;
  bool unpacked;  // whether layers lie at LayerPlan::unpacked

  int64_t ahead(const Bytes* from) const {
    const int64_t position = from - weights + kPrefetchBytes;
    const Bytes* target = position < unit_bytes ? weights + position : next + (position - unit_bytes);
    return reinterpret_cast<intptr_t>(target) - reinterpret_cast<intptr_t>(from);
  }
};

inline void prefetch_ahead(const void* w, int64_t ahead) {
  prefetch(reinterpret_cast<const void*>(reinterpret_cast<intptr_t>(w) + ahead));
}

// int8 weights are summed as they are; the sum is multiplied by the output's scale in the end.
template <class Weight>
constexpr bool kScaled = false;
template <>
constexpr bool kScaled<int8_t> = true;

template <class Weight>
constexpr bool kIsFloat = false;
template <>
constexpr bool kIsFloat<float> = true;

// Bytes from the start of a panel to its weights, for each output.
template <class Weight>
constexpr int64_t kHeaderBytes = kScaled<Weight> ? 8 : 4;

template <class Weight>
inline int64_t panel_bytes(int64_t in, int64_t width) {
  return (kHeaderBytes<Weight> + in * static_cast<int64_t>(sizeof(Weight))) * width;
}

inline const float* header_of(const Bytes* panel) { return reinterpret_cast<const float*>(panel); }

template <class Weight>
inline const Weight* weights_of(const Bytes* panel, int64_t width) {
  return reinterpret_cast<const Weight*>(panel + kHeaderBytes<Weight> * width);
}

// ---------------------------------------------------------------------------------------------------------------------
// Panel layout, few rows.

// R rows x P panels, of each panel its first V vectors. x (R, in), y (R, P * 16 at least). `width` is the panel's.
template <class Weight, int R, int P, int V>
inline void outputs_tile(const Bytes* panel, int64_t width, int64_t in, bool with_relu, const float* x,
                         int64_t x_stride, float* y, int64_t y_stride, int64_t ahead) {
  const int64_t bytes = panel_bytes<Weight>(in, width);
  Vec acc[P * V][R];
  UNROLL for (int c = 0; c < P * V; ++c) {
    const Vec bias = load(header_of(panel + c / V * bytes) + c % V * kLanes);
    UNROLL for (int r = 0; r < R; ++r) acc[c][r] = kScaled<Weight> ? broadcast(0.0f) : bias;
  }
  const Bytes* w = panel + kHeaderBytes<Weight> * width;
  for (int64_t k = 0; k < in; ++k, w += width * static_cast<int64_t>(sizeof(Weight))) {
    Vec xk[R];
    UNROLL for (int r = 0; r < R; ++r) xk[r] = broadcast(x[r * x_stride + k]);
    UNROLL for (int p = 0; p < P; ++p) prefetch_ahead(w + p * bytes, ahead);
    UNROLL for (int c = 0; c < P * V; ++c) {
      const Vec wk = load(reinterpret_cast<const Weight*>(w + c / V * bytes) + c % V * kLanes);
      UNROLL for (int r = 0; r < R; ++r) acc[c][r] = fma(xk[r], wk, acc[c][r]);
    }
  }
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
inline void outputs_layer(const LayerPlan& layer, const Stream& stream, const float* x, int64_t x_stride, float* y,
                          int64_t y_stride) {
  constexpr int kVectors = kPanelWidth / kLanes, kPanels = kOutputsPanels[R];
  const int64_t in = layer.in;
  const bool with_relu = layer.activation == Activation::relu;
  const Bytes* panel = stream.weights + layer.offset;
  int64_t left = layer.out;
  const auto run = [&](auto tile, int64_t width, int64_t outputs) {
    tile(panel, width, in, with_relu, x, x_stride, y, y_stride, stream.ahead(panel));
    panel += panel_bytes<Weight>(in, outputs);
    y += outputs;
    left -= outputs;
  };
  while (left >= kPanels * kPanelWidth) {
    run(outputs_tile<Weight, R, kPanels, kVectors>, kPanelWidth, kPanels * kPanelWidth);
  }
  if (kPanels > 2 && left >= 2 * kPanelWidth) run(outputs_tile<Weight, R, 2, kVectors>, kPanelWidth, 2 * kPanelWidth);
  if (kPanels > 1 && left >= kPanelWidth) run(outputs_tile<Weight, R, 1, kVectors>, kPanelWidth, kPanelWidth);
  if (left == 0) return;
  // The tail panel: only as many vectors as it needs.
  if (left <= kLanes) {
    run(outputs_tile<Weight, R, 1, 1>, left, left);
  } else if (left <= 2 * kLanes) {
    run(outputs_tile<Weight, R, 1, 2 < kVectors ? 2 : kVectors>, left, left);
  } else {
    run(outputs_tile<Weight, R, 1, kVectors>, left, left);
  }
}

// All layers for R rows.
template <class Weight, int R>
void outputs_block(const Plan& plan, const Stream& stream, const float* x, float* y, float* scratch) {
  float* buffers[2] = {scratch, scratch + kScratchRows / 2 * plan.buffer_width};
  const LayerPlan* layer = plan.layers;
  const LayerPlan* const end = layer + plan.num_layers;
  int64_t x_stride = layer->in;
  for (int turn = 0; layer != end; ++layer, turn ^= 1) {
    float* out = buffers[turn];
    outputs_layer<Weight, R>(*layer, stream, x, x_stride, out, plan.buffer_width);
    for (int64_t r = 0; r < R; ++r) {
      apply_row(layer->activation, out + r * plan.buffer_width, layer->out);
    }
    x = out;
    x_stride = plan.buffer_width;
  }
  const int64_t out = end[-1].out;
  for (int64_t r = 0; r < R; ++r, y += out) {
    const float* from = x + r * x_stride;
    int64_t o = 0;
    for (; o + kLanes <= out; o += kLanes) store(y + o, load(from + o));
    if (o < out) store_first(y + o, load(from + o), out - o);
  }
}

// outputs_block for a number of rows known only now, 1 to R.
template <class Weight, int R = kLanes / 2>
inline void outputs_rows(const Plan& plan, const Stream& stream, const float* x, int64_t rows, float* y,
                         float* scratch) {
  if (rows == R) return outputs_block<Weight, R>(plan, stream, x, y, scratch);
  if constexpr (R > 1) outputs_rows<Weight, R - 1>(plan, stream, x, rows, y, scratch);
}

// ---------------------------------------------------------------------------------------------------------------------
// Panel layout, many rows. Activations lie transposed, [unit][row], so no output size wastes a lane.

// V vectors of rows x O outputs. x (in, V * kLanes), y (O, V * kLanes). `w` points at the first output's bias; the rows
// of the panel, `width` floats each, are biases, scales if Scaled, and weights.
template <bool Scaled, int V, int O>
inline void rows_tile(const float* w, int64_t width, int64_t in, bool with_relu, const float* x, float* y,
                      int64_t ahead) {
  const float* const header = w;
  Vec acc[O][V];
  UNROLL for (int o = 0; o < O; ++o) {
    UNROLL for (int v = 0; v < V; ++v) acc[o][v] = broadcast(Scaled ? 0.0f : w[o]);
  }
  if (Scaled) w += width;
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
    UNROLL for (int v = 0; v < V; ++v) {
      if (Scaled) acc[o][v] = fma(acc[o][v], broadcast(header[width + o]), broadcast(header[o]));
      store(y + (o * V + v) * kLanes, with_relu ? relu(acc[o][v]) : acc[o][v]);
    }
  }
}

// The outputs of one panel in tiles of O, the last one as wide as what is left.
template <bool Scaled, int V, int O>
inline void rows_panel(const float* w, int64_t width, int64_t left, int64_t in, Activation activation, const float* x,
                       float* y, int64_t ahead) {
  for (; left >= O; left -= O, w += O, y += O * V * kLanes) {
    rows_tile<Scaled, V, O>(w, width, in, activation == Activation::relu, x, y, ahead);
    if (kActivateTiles && activation > Activation::relu) apply(activation, y, O * V * kLanes);
  }
  if constexpr (O > 1) {
    if (left > 0) rows_panel<Scaled, V, O - 1>(w, width, left, in, activation, x, y, ahead);
  }
}

// Floats from `count` elements; `to` has room for whole vectors.
template <class Weight>
inline void to_floats(const Weight* from, int64_t count, float* to, int64_t ahead) {
#pragma GCC unroll 4
  for (int64_t i = 0; i < count; i += kLanes) {
    prefetch_ahead(from + i, ahead);
    store(to + i, load(from + i));
  }
}

// A panel in float32 rows: as it lies in the bank, or converted right before its use. Converted into `buffer` it stays in
// L1; a whole model converted at once does not, and took twice the time (float16, 32-64-64-1, 32 rows).
template <class Weight>
inline const float* float_panel(const Bytes* panel, int64_t width, int64_t in, float* buffer, int64_t ahead) {
  if (kIsFloat<Weight>) return header_of(panel);
  const int64_t header = kHeaderBytes<Weight> / 4 * width;
  memcpy(buffer, panel, sizeof(float) * header);
  to_floats(weights_of<Weight>(panel, width), in * width, buffer + header, ahead);
  return buffer;
}

// All layers for V vectors of rows, of which `rows` are real. Scaled is that of the panels as they are computed with.
template <class Weight, bool Scaled, int V>
void rows_block(const Plan& plan, const Stream& stream, const float* x, int64_t rows, float* y, float* scratch) {
  constexpr int64_t kRows = V * kLanes;
  float* buffers[2] = {scratch, scratch + kScratchRows / 2 * plan.buffer_width};
  float* panel_buffer = scratch + kScratchRows * plan.buffer_width;
  const int64_t in = plan.layers[0].in;
  if (rows < kRows) memset(buffers[0], 0, sizeof(float) * kRows * in);
  transpose(x, in, rows, in, buffers[0], kRows);
  int turn = 0;
  for (int64_t i = 0; i < plan.num_layers; ++i, turn ^= 1) {
    const LayerPlan& layer = plan.layers[i];
    const Bytes* panel = stream.weights + (stream.unpacked ? 4 * layer.unpacked : layer.offset);
    float* out = buffers[turn ^ 1];
    for (int64_t o = 0; o < layer.out; o += plan.panel_width) {
      const int64_t width = layer.out - o < plan.panel_width ? layer.out - o : plan.panel_width;
      const int64_t ahead = stream.ahead(panel);
      const float* w = float_panel<Weight>(panel, width, layer.in, panel_buffer, ahead);
      rows_panel<Scaled, V, kRowsOutputs[V]>(w, width, width, layer.in, layer.activation, buffers[turn],
                                             out + o * kRows, kIsFloat<Weight> ? ahead : 0);
      panel += (Scaled ? 8 : 4) * width + layer.in * width * static_cast<int64_t>(sizeof(Weight));
    }
    if (!kActivateTiles || layer.activation == Activation::softmax) {
      apply_columns(layer.activation, out, layer.out, kRows);
    }
  }
  const int64_t out = plan.layers[plan.num_layers - 1].out;
  transpose(buffers[turn], kRows, out, rows, y, out);
}

// How many of `rows` rows go through rows_block: all but a last vector that would be at most half full. Such rest is faster
// through the few-rows tiles, also at exactly half (24 rows of 64-64-64: 131 against 100 GFLOP/s).
inline int64_t rows_in_vectors(int64_t rows) {
  const int64_t rest = rows % kLanes;
  return rest > kLanes / 2 ? rows : rows - rest;
}

template <class Weight, bool Scaled>
void rows_blocks(const Plan& plan, const Stream& stream, const float* x, int64_t rows, float* y, float* scratch) {
  const int64_t in = plan.layers[0].in, out = plan.layers[plan.num_layers - 1].out;
  int64_t vectors = (rows + kLanes - 1) / kLanes;
  while (vectors > 0) {
    const int64_t v = vectors == 4 ? 2 : vectors < 3 ? vectors : 3;  // 4 = 2 + 2: one vector alone is the slowest tile
    const int64_t n = rows < v * kLanes ? rows : v * kLanes;
    if (v == 3) {
      rows_block<Weight, Scaled, 3>(plan, stream, x, n, y, scratch);
    } else if (v == 2) {
      rows_block<Weight, Scaled, 2>(plan, stream, x, n, y, scratch);
    } else {
      rows_block<Weight, Scaled, 1>(plan, stream, x, n, y, scratch);
    }
    vectors -= v;
    rows -= n;
    x += n * in;
    y += n * out;
  }
}

template <class Weight>
void panel(const Plan& plan, const PanelJob& job, float* scratch) {
  const Stream stream = {job.weights, job.next_weights, plan.unit_bytes, false};
  const int64_t many = rows_in_vectors(job.rows), few = job.rows - many;
  if (many > 0) rows_blocks<Weight, kScaled<Weight>>(plan, stream, job.x, many, job.y, scratch);
  if (few > 0) {
    outputs_rows<Weight>(plan, stream, job.x + many * plan.layers[0].in, few,
                         job.y + many * plan.layers[plan.num_layers - 1].out, scratch);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Lane layout.

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
                           to + o * kTileModels, stride, stream.ahead(panel));
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
    unpack_tile<Weight>(plan, job.weights, tile, stream.ahead(job.weights));
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

// The one symbol this object defines, constant-initialised: nothing of an instruction set runs at import.
#define MLPBANK_PASTE(a, b) a##b
#define MLPBANK_KERNEL(isa) MLPBANK_PASTE(kernel_, isa)
#define MLPBANK_STRING(s) #s
#define MLPBANK_NAME(isa) MLPBANK_STRING(isa)
extern const Kernel MLPBANK_KERNEL(MLPBANK_ISA);
const Kernel MLPBANK_KERNEL(MLPBANK_ISA) = {
    MLPBANK_NAME(MLPBANK_ISA),
    {MLPBANK_ISA::panel<float>, MLPBANK_ISA::panel<Half>, MLPBANK_ISA::panel<BFloat>, MLPBANK_ISA::panel<int8_t>},
    {MLPBANK_ISA::lane<float>, MLPBANK_ISA::lane<Half>, MLPBANK_ISA::lane<BFloat>, MLPBANK_ISA::lane<int8_t>},
    MLPBANK_ISA::probe_read,
    MLPBANK_ISA::probe_fma};

}  // namespace mlpbank
