// What every tile computes, in the plainest form: the meaning of a kernel, for tests.
//
// tests/cpp/kernel_test.cpp checks that every tile agrees bit for bit. Biases, weights and scales
// are those that are stored: weights already rounded to their dtype, as float32.
#pragma once

#include <stdint.h>

namespace mlpbank {

// One row through one layer: x (in), weight (in, out), bias (out), y (out). Only int8 has scales
// (out); otherwise null. `fma` is a * b + c, which all instruction sets but portable round once.
template <class Fma, class Function>
void reference_layer(int64_t in, int64_t out, const float* x, const float* weight,
                     const float* bias, const float* scale, Fma fma, Function activation,
                     float* y) {
  for (int64_t o = 0; o < out; ++o) {
    float acc = scale == nullptr ? bias[o] : 0.0f;
    for (int64_t k = 0; k < in; ++k) acc = fma(x[k], weight[k * out + o], acc);
    if (scale != nullptr) acc = fma(acc, scale[o], bias[o]);
    y[o] = activation(acc);
  }
}

}  // namespace mlpbank
