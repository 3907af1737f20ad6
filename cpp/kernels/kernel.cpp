// The hot loops. Written once over simd.h; CMake compiles this file once for each instruction set.
//
// Every output is
//
//   acc = bias;  for k = 0, 1, 2, ...:  acc = fma(x[k], w[k], acc);  y = activation(acc)
//
// in float32 and in that order, in every tile (reference_layer.h spells it out). So the same row
// through the same model gives the same bits, with any other rows in the call. Tiles differ only in
// what their vector lanes stand for:
//
//                 lanes are        input              weight
//   outputs_tile  16 outputs       x[k] broadcast     w[k][16] loaded      panel.h: few rows
//   rows_tile     rows of a model  x[k][rows] loaded  w[k][o] broadcast    rows.h: many rows
//   models_tile   16 models        x[k][16] loaded    w[k][o][16] loaded   lane.h: lane layout
//
// From the inside out: a tile keeps its sums in registers; tiles cover the panels of a layer; a
// pass carries some rows through all layers; a kernel call is as many passes as its rows need.
//
// A tile keeps all its accumulators in registers. GCC does so only when a pragma unrolls every
// loop over them; otherwise they go through the stack, at half the speed.
#include "kernels/kernel.h"

#include "kernels/lane.h"
#include "kernels/panel.h"
#include "kernels/probe.h"

namespace mlpbank {

// The one symbol this object defines. It is constant-initialised: nothing of an instruction set
// runs at import.
#define MLPBANK_PASTE(a, b) a##b
#define MLPBANK_KERNEL(isa) MLPBANK_PASTE(kernel_, isa)
#define MLPBANK_STRING(s) #s
#define MLPBANK_ISA_NAME(isa) MLPBANK_STRING(isa)
#define MLPBANK_PANEL(name, type) MLPBANK_ISA::panel<type>,
#define MLPBANK_LANE(name, type) MLPBANK_ISA::lane<type>,
extern const Kernel MLPBANK_KERNEL(MLPBANK_ISA);
const Kernel MLPBANK_KERNEL(MLPBANK_ISA) = {
    MLPBANK_ISA_NAME(MLPBANK_ISA), {MLPBANK_DTYPES(MLPBANK_PANEL)}, {MLPBANK_DTYPES(MLPBANK_LANE)},
    MLPBANK_ISA::probe_read,       MLPBANK_ISA::probe_fma,
};

}  // namespace mlpbank
