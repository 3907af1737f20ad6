// What all parts of the core share: the types that weights are stored in, and the activations.
//
// Kernels include this file, once for each instruction set. So it holds plain data only: no C++
// header, no inline function.
#pragma once

#include <stdint.h>

namespace mlpbank {

using Bytes = unsigned char;

// Weights of 16 bits as they are stored: float16 and bfloat16.
struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

// Every dtype of stored weights: its name and the C++ type of one weight. The enum, the names and
// the tables of kernels are made from this list; files hold names, so its order is free.
#define MLPBANK_DTYPES(X) \
  X(float32, float)       \
  X(float16, Half)        \
  X(bfloat16, BFloat)     \
  X(int8, int8_t)

// The stage at which an activation is computed.
enum class Stage : uint8_t {
  tile,    // by the register tile, before it stores its sums
  values,  // value by value, over whole vectors of a tile or layer
  row,     // over all outputs of a row: on the last layer only
};

// Every activation: its name, its stage, and the function or table in kernels/activations.h that
// computes single values. The enum, the names and the switch are made from this list; files hold
// names, so its order is free. (prelu is leaky_relu with a slope that each model has learned.)
#define MLPBANK_ACTIVATIONS(X)        \
  X(none, tile, unchanged)            \
  X(relu, tile, relu)                 \
  X(tanh, values, Tanh)               \
  X(sigmoid, values, sigmoid)         \
  X(leaky_relu, values, leaky_relu)   \
  X(elu, values, elu)                 \
  X(gelu, values, Gelu)               \
  X(gelu_tanh, values, GeluTanh)      \
  X(silu, values, Silu)               \
  X(softplus, values, softplus)       \
  X(celu, values, celu)               \
  X(selu, values, selu)               \
  X(mish, values, mish)               \
  X(hardswish, values, hardswish)     \
  X(hardsigmoid, values, hardsigmoid) \
  X(relu6, values, relu6)             \
  X(clip, values, clip)               \
  X(softsign, values, softsign)       \
  X(exp, values, exp)                 \
  X(expm1, values, expm1)             \
  X(prelu, values, leaky_relu)        \
  X(softmax, row, unchanged)

#define MLPBANK_MEMBER(name, ...) name,
enum class Dtype : uint8_t { MLPBANK_DTYPES(MLPBANK_MEMBER) };
enum class Activation : uint8_t { MLPBANK_ACTIVATIONS(MLPBANK_MEMBER) };
#undef MLPBANK_MEMBER

// An activation with its parameters, in the order that its function names them: alpha, or low and
// high. An activation that has fewer does not look at the others. (The second that the kernel of
// celu gets is 1 / alpha.)
struct ActivationSpec {
  Activation activation;
  float first, second;
};

#define MLPBANK_PLUS_ONE(...) +1
constexpr int kDtypes = MLPBANK_DTYPES(MLPBANK_PLUS_ONE);
#undef MLPBANK_PLUS_ONE

// For lists of names: `const char* names[] = {MLPBANK_DTYPES(MLPBANK_NAME)};`
#define MLPBANK_NAME(name, ...) #name,

}  // namespace mlpbank
