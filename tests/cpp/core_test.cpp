// The core without Python: what sanitizers and other compilers can run.
//
// Outputs are checked against double arithmetic, within the bound that tests/helpers/tolerance.py
// derives, and bit for bit between kernels, layouts and thread counts. The Python tests check what
// only Python can see: dtypes, messages about arrays, the GIL.
#include <fenv.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "weights/codec.h"
#include "engine/engine.h"
#include "errors.h"
#include "four_cpus.h"
#include "engine/inference.h"
#include "network.h"
#include "engine/threads.h"

namespace {

using namespace mlpbank;

// Results of `rows` rows for each model of the network, against the reference.
void check_rows(const Network& net, const Floats& x, const Floats& y, int64_t rows) {
  const int64_t in = net.architecture.input_size(), out = net.architecture.output_size();
  std::vector<double> expected, error;
  for (int64_t row = 0; row < net.models * rows; ++row) {
    reference(net, row / rows, x.data() + row * in, expected, error);
    for (int64_t o = 0; o < out; ++o) {
      const auto i = static_cast<std::size_t>(o);
      CHECK(std::abs(y[static_cast<std::size_t>(row * out + o)] - expected[i]) <= error[i]);
    }
  }
}

void check_against_reference(const Network& net, int64_t rows, LayoutKind kind,
                             const std::string& isa) {
  const BatchedInference inference(net.weights(kind), Engine(0, isa));
  CHECK(inference.engine().kernel().isa == isa);
  const Floats x = net.inputs(net.models, rows);
  check_rows(net, x, forward(inference, x, rows), rows);
}

TEST(architecture) {
  CHECK_THROWS(std::invalid_argument, "layers: expected at least one layer, got none",
               Architecture({}));
  CHECK_THROWS(std::invalid_argument, "layer 0: expected a positive input_size, got 0",
               mlp({0, 1}));
  CHECK_THROWS(std::invalid_argument, "layer 1: expected a positive output_size, got -3",
               mlp({2, 1, -3}));
  const Activation none = activation_from_name("none");
  CHECK_THROWS(std::invalid_argument,
               "layer 1: expected input_size 3, the output_size of layer 0, got 4",
               Architecture({{2, 3, none}, {4, 1, none}}));
  constexpr int64_t kBit32 = int64_t{1} << 32, kBit62 = int64_t{1} << 62;
  const std::vector<std::vector<int64_t>> too_large = {
      {INT64_MAX, 1}, {1, INT64_MAX}, {kBit32, kBit32}, {1, kBit62, 1}};
  for (const auto& sizes : too_large) {
    CHECK_THROWS(std::overflow_error, "number of parameters: too large", mlp(sizes));
  }
  const Architecture architecture = mlp({3, 4, 2});
  CHECK(architecture.input_size() == 3 && architecture.output_size() == 2);
  CHECK(architecture.num_parameters() == 4 * 4 + 5 * 2);
  CHECK(architecture == mlp({3, 4, 2}) && !(architecture == mlp({3, 4, 2}, "relu")));
  for (const std::string& name : activation_names())
    CHECK(activation_name(activation_from_name(name)) == name);
}

TEST(engine) {
  CHECK(available_isas().back() == "portable");
  for (const std::string& isa : available_isas()) CHECK(choose_kernel(isa).isa == isa);
  std::string names;
  for (const std::string& isa : available_isas()) {
    names += (names.empty() ? "'" : ", '") + isa + "'";
  }
  CHECK_THROWS(std::invalid_argument, "isa: expected one of " + names + ", got 'sse9'",
               choose_kernel("sse9"));
  CHECK_THROWS(std::invalid_argument, "num_threads: expected a positive integer, got -1",
               Engine(-1, ""));
  CHECK(Engine(1, "").num_threads() == 1);
  CHECK(Engine(1000, "").num_threads() == cpu_budget().threads);
}

TEST(layout_round_trip) {
  for (const LayoutKind kind : kLayouts) {
    for (const int64_t size : kSizes) {
      for (const int64_t models : {1, 15, 16, 17, 33}) {
        const Network net({size, kSizes[random_below(12)], size}, models, "prelu");
        const auto weights = net.weights(kind);
        CHECK(reinterpret_cast<uintptr_t>(weights->data()) % 64 == 0);
        for (int64_t m = 0; m < models; ++m) {
          std::vector<Floats> weight, bias;
          std::vector<LayerTarget> targets;
          for (const LayerSpec& layer : net.architecture.layers()) {
            weight.emplace_back(layer.input_size * layer.output_size);
            bias.emplace_back(layer.output_size);
          }
          Floats slope(weight.size());
          for (std::size_t l = 0; l < weight.size(); ++l) {
            targets.push_back({weight[l].data(), bias[l].data(), &slope[l]});
          }
          weights->get(m, targets);
          for (std::size_t l = 0; l < weight.size(); ++l) {
            const auto per_model = static_cast<std::ptrdiff_t>(weight[l].size());
            const auto first = net.parameters.weight[l].begin() + m * per_model;
            CHECK(same_bits(weight[l], Floats(first, first + per_model)));
            const auto outputs = static_cast<std::ptrdiff_t>(bias[l].size());
            const auto first_bias = net.parameters.bias[l].begin() + m * outputs;
            CHECK(same_bits(bias[l], Floats(first_bias, first_bias + outputs)));
            CHECK(slope[l] == net.parameters.slope[l][static_cast<std::size_t>(m)]);
          }
        }
      }
    }
  }
}

TEST(weights_errors) {
  const Network net({3, 2}, 4);
  for (const LayoutKind kind : kLayouts) {
    BatchedWeights weights(4, net.architecture, kind);
    CHECK_THROWS(std::out_of_range, "model_idx: expected 0 to 3, got 4",
                 (weights.load(4, 1, net.parameters.views(), 1), 0));
    CHECK_THROWS(std::out_of_range, "model_idx: expected 0 to 3, got 4",
                 (weights.load(1, 4, net.parameters.views(), 1), 0));
    CHECK_THROWS(std::out_of_range, "model_idx: expected 0 to 3, got -1", (weights.get(-1, {}), 0));
    CHECK_THROWS(ModelNotLoaded, "model 2: no weights were loaded", (weights.get(2, {}), 0));
    CHECK_THROWS(std::invalid_argument, "num_models: expected a positive integer, got 0",
                 BatchedWeights(0, net.architecture, kind));
    CHECK_THROWS(std::overflow_error, "num_models x parameters: too large",
                 BatchedWeights(INT64_MAX, net.architecture, kind));
    CHECK(weights.loaded_flags() == std::vector<bool>(4, false));
  }
}

TEST(kernels_against_reference) {
  const int64_t all_rows[] = {1, 2, 7, 9, 17, 48, 49};
  for (const std::string& isa : available_isas()) {
    for (const LayoutKind kind : kLayouts) {
      for (const int64_t a : kSizes) {
        for (const int64_t b : kSizes) {
          const int64_t rows = all_rows[random_below(7)];
          const char* activation = std::vector{"tanh", "relu", "prelu"}[random_below(3)];
          check_against_reference(Network({a, b}, 3, activation), rows, kind, isa);
        }
        check_against_reference(Network({a, 17, 5, 33, 3}, 18, "none"), all_rows[random_below(7)],
                                kind, isa);
      }
    }
  }
}

// x and y begin at any float, and nothing before or after y is written.
TEST(unaligned_rows_between_guards) {
  for (const std::string& isa : available_isas()) {
    for (const LayoutKind kind : kLayouts) {
      for (const int64_t out : {1, 3, 8, 17}) {
        for (const int64_t rows : {1, 5, 20, 50}) {
          const Network net({5, 9, out}, 3);
          const BatchedInference inference(net.weights(kind), Engine(1, isa));
          const Floats x = net.inputs(3, rows), expected = forward(inference, x, rows);
          for (std::size_t shift = 1; shift < 5; ++shift) {
            Floats shifted(x.size() + shift);
            std::copy(x.begin(), x.end(), shifted.begin() + static_cast<std::ptrdiff_t>(shift));
            Floats guarded(expected.size() + shift + 20, 77.0f);
            inference.forward(shifted.data() + shift, rows, guarded.data() + shift, {});
            Floats wanted(guarded.size(), 77.0f);
            std::copy(expected.begin(), expected.end(),
                      wanted.begin() + static_cast<std::ptrdiff_t>(shift));
            CHECK(same_bits(guarded, wanted));
          }
        }
      }
    }
  }
}

// Every form of forward, with 1 to 4 threads, gives the same bits for the same rows. So do all
// kernels with a fused multiply-add.
TEST(bits) {
  for (int round = 0; round < 20; ++round) {
    const std::vector<int64_t> sizes = {kSizes[random_below(12)], 1 + random_below(70),
                                        kSizes[random_below(8)]};
    const int64_t rows = 1 + random_below(50);
    const Network net(sizes, 1 + random_below(40));
    const int64_t in = net.architecture.input_size(), out = net.architecture.output_size();
    const int64_t entries = 1 + random_below(2 * net.models);
    std::vector<int64_t> slots(static_cast<std::size_t>(entries));
    for (int64_t& slot : slots) slot = random_below(net.models);
    const Floats x = net.inputs(net.models, rows);
    Floats x_of_slots, expected, expected_of_slots;
    for (const std::string& isa : available_isas()) {
      if (isa == "portable")
        expected.clear();  // without a fused multiply-add it rounds differently
      for (const LayoutKind kind : kLayouts) {
        const BatchedInference inference(net.weights(kind), Engine(0, isa));
        if (expected.empty()) {
          expected = forward(inference, x, rows);
          x_of_slots.clear(), expected_of_slots.clear();
          for (const int64_t slot : slots) {
            const float *from = x.data() + slot * rows * in,
                        *to = expected.data() + slot * rows * out;
            x_of_slots.insert(x_of_slots.end(), from, from + rows * in);
            expected_of_slots.insert(expected_of_slots.end(), to, to + rows * out);
          }
        }
        for (int threads = 1; threads <= 4; ++threads) {
          CHECK(same_bits(forward(inference, x, rows, threads), expected));
          Floats y(expected_of_slots.size());
          inference.forward_models(slots.data(), entries, x_of_slots.data(), rows, y.data(),
                                   {threads, Missing::error});
          CHECK(same_bits(y, expected_of_slots));
        }
        Floats shared(expected.size());
        inference.forward_shared(x.data(), rows, shared.data(), {});
        CHECK(same_bits(Floats(shared.begin(), shared.begin() + rows * out),
                        Floats(expected.begin(), expected.begin() + rows * out)));
      }
    }
  }
}

// Narrow weights, also at the end of a panel, where whole vectors are read. The reference gets the
// rounded weights.
TEST(narrow_weights) {
  for (const Dtype dtype : {Dtype::float16, Dtype::bfloat16, Dtype::int8}) {
    for (const int64_t in : {1, 2, 3, 4, 5, 8, 15, 16, 33}) {
      for (const int64_t out : {1, 2, 3, 7, 8, 9, 11, 13, 15, 16, 17, 31, 33}) {
        const Network net({in, out}, 1 + random_below(18), "none");
        for (const LayoutKind kind : kLayouts) {
          const auto weights =
              std::make_shared<BatchedWeights>(net.models, net.architecture, kind, dtype);
          weights->load(0, net.models, net.parameters.views(), 1);
          Network kept = net;
          if (dtype == Dtype::int8)
            kept.roundings = 4;  // scale times integer, times scale, plus bias, and the product
          for (int64_t m = 0; m < net.models; ++m) {
            weights->get(m, {{kept.parameters.weight[0].data() + m * in * out,
                              kept.parameters.bias[0].data() + m * out}});
          }
          for (const int64_t rows : {1 + random_below(5), 12 + random_below(40)}) {
            const Floats x = net.inputs(net.models, rows);
            for (const std::string& isa : available_isas()) {
              const BatchedInference inference(weights, Engine(1, isa));
              const Floats y = forward(inference, x, rows);
              check_rows(kept, x, y, rows);
            }
          }
        }
      }
    }
  }
}

template <class To>
uint16_t encoded(float f) {
  To to;
  encode(f, to);
  return to.bits;
}

// The limits of 16 bits: the largest numbers, half a step above them, subnormals, and NaN with any
// payload.
TEST(sixteen_bit_edges) {
  for (const uint16_t sign : {0, 0x8000}) {
    const float s = sign == 0 ? 1.0f : -1.0f;
    const auto half = [&](float f) { return encoded<Half>(s * f) ^ sign; };
    const auto bfloat = [&](float f) { return encoded<BFloat>(s * f) ^ sign; };
    CHECK(half(65504.0f) == 0x7bff && half(std::nextafter(65520.0f, 0.0f)) == 0x7bff);
    CHECK(half(65520.0f) == 0x7c00 && half(65536.0f) == 0x7c00 && half(INFINITY) == 0x7c00);
    CHECK(half(0.0f) == 0 && half(0x1p-24f) == 1 && half(0x1p-25f) == 0 && half(0x1.8p-24f) == 2);
    CHECK(half(std::nextafter(0x1p-25f, 1.0f)) == 1 && half(0x1p-14f) == 0x400 &&
          half(0x1.ff4p-15f) == 0x3fe);
    CHECK(half(std::nextafter(0x1p-14f, 0.0f)) == 0x400);
    CHECK(half(1.0f + 0x1p-11f) == 0x3c00 && half(1.0f + 0x1.8p-10f) == 0x3c02);
    CHECK(bfloat(0x1.fep127f) == 0x7f7f && bfloat(std::nextafter(0x1.ffp127f, 0.0f)) == 0x7f7f);
    CHECK(bfloat(0x1.ffp127f) == 0x7f80 && bfloat(INFINITY) == 0x7f80);
    CHECK(bfloat(1.0f + 0x1p-8f) == 0x3f80 && bfloat(1.0f + 0x1.8p-7f) == 0x3f82);
    for (const uint32_t payload :
         {1u, 0x1fffu, 0x2000u, 0xffffu, 0x3fffffu, 0x400000u, 0x7fffffu}) {
      const float nan = bits_to_float(0x7f800000 | payload | static_cast<uint32_t>(sign) << 16);
      Half h;
      BFloat b;
      encode(nan, h), encode(nan, b);
      CHECK((h.bits & 0xfe00) == (0x7e00 | sign) && (b.bits & 0xffc0) == (0x7fc0 | sign));
      CHECK(std::isnan(decode(h)) && std::isnan(decode(b)));
    }
  }
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {  // every number there and back
    const Half h{static_cast<uint16_t>(bits)};
    const BFloat b{static_cast<uint16_t>(bits)};
    if (!std::isnan(decode(h))) CHECK(encoded<Half>(decode(h)) == bits);
    if (!std::isnan(decode(b))) CHECK(encoded<BFloat>(decode(b)) == bits);
  }
}

TEST(missing_models) {
  const Network net({3, 5, 2}, 20);
  const Floats x = net.inputs(20, 4);
  for (const LayoutKind kind : kLayouts) {
    const auto weights = std::make_shared<BatchedWeights>(20, net.architecture, kind);
    const BatchedInference inference(weights, Engine(0, ""));
    weights->load(0, 5, net.parameters.views(), 1);
    CHECK_THROWS(ModelNotLoaded, "model 5: no weights were loaded", forward(inference, x, 4));
    Floats y(20 * 4 * 2, 0.0f);
    inference.forward(x.data(), 4, y.data(), {0, Missing::nan});
    for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]) == (i >= 5 * 4 * 2));
    const int64_t bad[] = {1, 2, 20}, missing[] = {4, 19, 18};
    CHECK_THROWS(std::out_of_range, "models[2]: expected 0 to 19, got 20",
                 (inference.forward_models(bad, 3, x.data(), 4, y.data(), {}), 0));
    CHECK_THROWS(ModelNotLoaded, "model 19: no weights were loaded",
                 (inference.forward_models(missing, 3, x.data(), 4, y.data(), {}), 0));
    CHECK_THROWS(ModelNotLoaded, "model 19: no weights were loaded",
                 (inference.forward_models(missing, 3, x.data(), 0, y.data(), {}), 0));
    std::vector<int64_t> in_order(21);
    std::iota(in_order.begin(), in_order.end(), 0);
    CHECK_THROWS(
        std::out_of_range, "models[20]: expected 0 to 19, got 20",
        (inference.forward_models(in_order.data(), 21, x.data(), 4, y.data(), {0, Missing::nan}),
         0));
    for (const int threads : {-1, INT_MIN}) {
      const std::string message =
          "num_threads: expected a positive integer, got " + std::to_string(threads);
      const ForwardOptions options{threads, Missing::nan};
      CHECK_THROWS(std::invalid_argument, message,
                   (inference.forward(x.data(), 4, y.data(), options), 0));
      CHECK_THROWS(std::invalid_argument, message,
                   (inference.forward_shared(x.data(), 4, y.data(), options), 0));
      CHECK_THROWS(std::invalid_argument, message,
                   (inference.forward_models(missing, 3, x.data(), 4, y.data(), options), 0));
      CHECK_THROWS(
          std::invalid_argument, message,
          (inference.forward_models(in_order.data(), 20, x.data(), 4, y.data(), options), 0));
    }
  }
}

// Rounding mode and the treatment of subnormals stay as the caller has them.
TEST(floating_point_environment) {
  const Network net({9, 20, 3}, 20);
  const Floats x = net.inputs(20, 5);
  for (const std::string& isa : available_isas()) {
    for (const LayoutKind kind : kLayouts) {
      fenv_t before, after;
      fegetenv(&before);
      forward(BatchedInference(net.weights(kind), Engine(0, isa)), x, 5);
      fegetenv(&after);
#if defined(__x86_64__)
      constexpr unsigned kExceptionFlags = 0x3f;  // those may be raised
      CHECK((before.__mxcsr & ~kExceptionFlags) == (after.__mxcsr & ~kExceptionFlags));
#endif
      CHECK(fegetround() == FE_TONEAREST);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  use_four_cpus();
  return run_tests(argc, argv);
}
