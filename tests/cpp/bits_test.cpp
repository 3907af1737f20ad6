// Every kind of machine gives the bits that are recorded in bits.inc: each activation, dtype and
// layout on each instruction set that fuses.
//
// bits_test record prints bits.inc anew, after a change of results on purpose:
//
//   build/release/bits_test record > tests/cpp/bits.inc
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "network.h"
#include "weights/codec.h"

namespace {

using namespace mlpbank;

struct Hash {
  const char* name;
  uint64_t value;
};
constexpr Hash kRecorded[] = {
#include "bits.inc"
};

// FNV-1a over the bits of the results. Of NaN only that it is NaN is promised.
uint64_t hash_of(const Floats& values) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const float value : values) {
    const uint32_t bits = value != value ? 0x7fc00000 : float_to_bits(value);
    for (int shift = 0; shift < 32; shift += 8)
      hash = (hash ^ (bits >> shift & 255)) * 0x100000001b3;
  }
  return hash;
}

struct Function {
  const char* name;
  float first = 0.0f, second = 0.0f;
};
// Every activation, some with more than one choice of parameters.
constexpr Function kFunctions[] = {
    {"none"},
    {"relu"},
    {"tanh"},
    {"sigmoid"},
    {"leaky_relu", 0.01f},
    {"leaky_relu", -2.0f},
    {"elu", 1.0f},
    {"elu", 0.3f},
    {"gelu"},
    {"gelu_tanh"},
    {"silu"},
    {"softplus"},
    {"celu", 1.0f},
    {"celu", 0.3f},
    {"selu"},
    {"mish"},
    {"hardswish"},
    {"hardsigmoid", 1 / 6.0f, 0.5f},
    {"relu6"},
    {"clip", -1.0f, 1.0f},
    {"clip", -0.0f, 0.0f},
    {"clip", 0.0f, HUGE_VALF},
    {"softsign"},
    {"exp"},
    {"expm1"},
    {"prelu"},
    {"softmax"},
};

std::string name_of(const Function& function) {
  char name[64];
  std::snprintf(name, sizeof name, "%s(%g, %g)", function.name, static_cast<double>(function.first),
                static_cast<double>(function.second));
  return name;
}

// The results of all models, in one layout and dtype on one instruction set.
Floats results(const Architecture& architecture, const Parameters& parameters, int64_t models,
               const Floats& x, int64_t rows, Dtype dtype, LayoutKind kind,
               const std::string& isa) {
  const auto weights = std::make_shared<BatchedWeights>(models, architecture, kind, dtype);
  weights->load(0, models, parameters.views(), 1);
  return forward(BatchedInference(weights, Engine(1, isa)), x, rows);
}

// Calls visit(name, compute), where compute(layout, isa) gives the results that `name` stands for.
template <class Visit>
void values_of(const Function& function, Visit visit) {
  const Activation activation = activation_from_name(function.name);
  if (activation == Activation::prelu || activation == Activation::softmax) return;
  // A layer that changes nothing else. Floats from all of them, whose step is a prime, and those at
  // each power of two, zeros and infinities included.
  const Architecture architecture({{1, 1, activation, function.first, function.second}});
  Parameters parameters(architecture, 1);
  parameters.weight[0] = {1.0f};
  parameters.bias[0] = {-0.0f};
  Floats x;
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 16411) {
    x.push_back(bits_to_float(static_cast<uint32_t>(bits)));
  }
  for (uint32_t power = 0; power < 512; ++power) {
    for (const uint32_t next : {~0u, 0u, 1u}) x.push_back(bits_to_float((power << 23) + next));
  }
  visit("values " + name_of(function), [&](LayoutKind kind, const std::string& isa) {
    const auto rows = static_cast<int64_t>(x.size());
    return results(architecture, parameters, 1, x, rows, Dtype::float32, kind, isa);
  });
}

template <class Visit>
void networks_of(const Function& function, Visit visit) {
  constexpr int64_t kModels = 19;  // a whole tile and a part of one
  const Activation activation = activation_from_name(function.name);
  const bool last_only = activation == Activation::softmax;
  const LayerSpec first = {7, 33, last_only ? Activation::silu : activation, function.first,
                           function.second};
  // tanh keeps what an exponential has made of the first layer within bounds.
  const LayerSpec last = {17, 20, activation, function.first, function.second};
  const Architecture architecture({first, {33, 17, Activation::tanh}, last});
  generator().seed(1);
  Parameters parameters(architecture, kModels);
  // The weights of one model are subnormal in float16.
  for (int64_t i = 0; i < 7 * 33; ++i)
    parameters.weight[0][static_cast<std::size_t>(i)] *= 0x1p-16f;
  const std::vector<std::string> dtypes = {MLPBANK_DTYPES(MLPBANK_NAME)};
  for (std::size_t dtype = 0; dtype < dtypes.size(); ++dtype) {
    visit("networks " + name_of(function) + " " + dtypes[dtype],
          [&](LayoutKind kind, const std::string& isa) {
            Floats all;
            generator().seed(2);
            for (const int64_t rows : {1, 2, 3, 14, 50}) {
              Floats x = random_floats(kModels * rows * 7);
              for (std::size_t i = 0; i < x.size(); i += 11) x[i] *= i % 2 ? 0x1p-130f : 0x1p60f;
              const Floats y = results(architecture, parameters, kModels, x, rows,
                                       static_cast<Dtype>(dtype), kind, isa);
              all.insert(all.end(), y.begin(), y.end());
            }
            return all;
          });
  }
}

template <class Visit>
void for_each_name(Visit visit) {
  for (const Function& function : kFunctions) {
    values_of(function, visit);
    networks_of(function, visit);
  }
}

std::vector<std::string> fused_isas() {
  std::vector<std::string> isas = available_isas();
  isas.pop_back();  // portable, which rounds products
  return isas;
}

TEST(every_instruction_set_gives_the_recorded_bits) {
  std::map<std::string, uint64_t> recorded;
  for (const Hash& hash : kRecorded) recorded[hash.name] = hash.value;
  std::size_t names = 0;
  bool equal = true;
  for_each_name([&](const std::string& name, auto compute) {
    ++names;
    CHECK(recorded.count(name) == 1);
    for (const std::string& isa : fused_isas()) {
      for (const LayoutKind kind : kLayouts) {
        if (hash_of(compute(kind, isa)) == recorded[name]) continue;
        equal = false;
        std::fprintf(stderr, "%s: other bits on %s, %s layout\n", name.c_str(), isa.c_str(),
                     kind == LayoutKind::lane ? "lane" : "panel");
      }
    }
  });
  CHECK(equal);
  CHECK(recorded.size() == names);
}

TEST(every_activation_is_recorded) {
  const std::vector<std::string> activations = {MLPBANK_ACTIVATIONS(MLPBANK_NAME)};
  for (const std::string& activation : activations) {
    CHECK(std::any_of(std::begin(kFunctions), std::end(kFunctions),
                      [&](const Function& function) { return function.name == activation; }));
  }
}

void record() {
  std::printf("// Made by bits_test.cpp, which tells how.\n");
  for_each_name([](const std::string& name, auto compute) {
    const auto hash =
        static_cast<unsigned long long>(hash_of(compute(LayoutKind::panel, fused_isas().front())));
    std::printf("{\"%s\", 0x%016llx},\n", name.c_str(), hash);
  });
}

}  // namespace

int main(int argc, char** argv) {
  unsetenv("MLPBANK_ISA");
  if (argc == 2 && std::strcmp(argv[1], "record") == 0) return record(), 0;
  return run_tests(argc, argv);
}
