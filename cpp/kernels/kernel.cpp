// The hot loops. Written once over simd.h and compiled once per instruction set (by CMake).
//
// Every output is  acc = bias;  for k = 0, 1, 2, ...:  acc = fma(x[k], w[k], acc)  in float32, in that order, whatever
// tile computes it. So the same row through the same model gives the same bits in any company. Only what the vector
// lanes stand for differs:
//
//   outputs_tile   lanes are 16 outputs of one model   x[row][k] broadcast,  w[k][16] loaded      panel layout, few rows
//   rows_tile      lanes are rows of one model         x[k][rows] loaded,    w[k][o] broadcast    panel layout, many
//   models_tile    lanes are 16 models                 x[k][16] loaded,      w[k][o][16] loaded   lane layout
//
// The first two are in panel.h, the third in lane.h.
//
// A tile keeps all its accumulators in registers. GCC 12 does so only when every loop over them is unrolled by pragma;
// without, they went through the stack at half the speed.
#include "kernels/kernel.h"

#include "kernels/lane.h"
#include "kernels/panel.h"
#include "kernels/probe.h"

namespace mlpbank {

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
