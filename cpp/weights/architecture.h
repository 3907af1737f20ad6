// Architecture: layer sizes and activations of the network that all models share. Immutable.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "types.h"

namespace mlpbank {

// Names as users write them ("relu"), in the order of the enum.
const std::vector<std::string>& activation_names();
Activation activation_from_name(const std::string& name);
const std::string& activation_name(Activation activation);

struct LayerSpec {
  int64_t input_size, output_size;
  Activation activation;
  float first = 0.0f, second = 0.0f;  // parameters of the activation, see ActivationSpec

  bool has_slope() const { return activation == Activation::prelu; }  // learned, one for each model
  bool operator==(const LayerSpec& other) const {
    return input_size == other.input_size && output_size == other.output_size &&
           activation == other.activation && first == other.first && second == other.second;
  }
};

class Architecture {
 public:
  // Throws std::invalid_argument or std::overflow_error, see validate().
  explicit Architecture(std::vector<LayerSpec> layers);

  // Checks what holds for every Architecture: at least one layer, positive sizes, each input size
  // equal to the previous output size, and a number of parameters whose bytes fit 63 bits.
  void validate() const;

  const std::vector<LayerSpec>& layers() const { return layers_; }
  int64_t input_size() const { return layers_.front().input_size; }
  int64_t output_size() const { return layers_.back().output_size; }
  int64_t num_parameters() const { return num_parameters_; }  // weights, biases and slopes

  bool operator==(const Architecture& other) const { return layers_ == other.layers_; }

 private:
  std::vector<LayerSpec> layers_;
  int64_t num_parameters_ = 0;
};

// a * b and a + b. Throw std::overflow_error that says what is too large.
int64_t checked_mul(int64_t a, int64_t b, const char* what);
int64_t checked_add(int64_t a, int64_t b, const char* what);

}  // namespace mlpbank
