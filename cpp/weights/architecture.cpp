// Architecture: validation, with overflow-checked sizes.
#include "weights/architecture.h"

#include <stdexcept>
#include <utility>

#include "names.h"

namespace mlpbank {

const std::vector<std::string>& activation_names() {
  static const std::vector<std::string> names = {MLPBANK_ACTIVATIONS(MLPBANK_NAME)};
  return names;
}

Activation activation_from_name(const std::string& name) {
  return static_cast<Activation>(index_of_name("activation", activation_names(), name));
}

const std::string& activation_name(Activation activation) {
  return activation_names()[static_cast<std::size_t>(activation)];
}

int64_t checked_mul(int64_t a, int64_t b, const char* what) {
  int64_t result;
  if (__builtin_mul_overflow(a, b, &result))
    throw std::overflow_error(std::string(what) + ": too large");
  return result;
}

int64_t checked_add(int64_t a, int64_t b, const char* what) {
  int64_t result;
  if (__builtin_add_overflow(a, b, &result))
    throw std::overflow_error(std::string(what) + ": too large");
  return result;
}

Architecture::Architecture(std::vector<LayerSpec> layers) : layers_(std::move(layers)) {
  validate();
  for (const LayerSpec& layer : layers_)
    num_parameters_ += (layer.input_size + 1) * layer.output_size + (layer.has_slope() ? 1 : 0);
}

void Architecture::validate() const {
  if (layers_.empty()) throw std::invalid_argument("layers: expected at least one layer, got none");
  constexpr const char* kWhat = "number of parameters";
  int64_t parameters = 0;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const LayerSpec& layer = layers_[i];
    const std::string where = "layer " + std::to_string(i) + ": ";
    if (layer.input_size <= 0) {
      throw std::invalid_argument(where + "expected a positive input_size, got " +
                                  std::to_string(layer.input_size));
    }
    if (layer.output_size <= 0) {
      throw std::invalid_argument(where + "expected a positive output_size, got " +
                                  std::to_string(layer.output_size));
    }
    if (i > 0 && layer.input_size != layers_[i - 1].output_size) {
      throw std::invalid_argument(where + "expected input_size " +
                                  std::to_string(layers_[i - 1].output_size) +
                                  ", the output_size of layer " + std::to_string(i - 1) + ", got " +
                                  std::to_string(layer.input_size));
    }
    if (layer.activation == Activation::softmax && i + 1 < layers_.size()) {
      throw std::invalid_argument(where +
                                  "expected softmax on the last layer only, which is layer " +
                                  std::to_string(layers_.size() - 1));
    }
    const int64_t with_bias = checked_add(layer.input_size, 1, kWhat);
    parameters = checked_add(parameters, checked_mul(with_bias, layer.output_size, kWhat), kWhat);
    if (layer.has_slope()) parameters = checked_add(parameters, 1, kWhat);
  }
  // 16: a whole tile of the lane layout. 4: room for scales and for rounding up.
  checked_mul(parameters, 16 * 4 * static_cast<int64_t>(sizeof(float)), kWhat);
}

}  // namespace mlpbank
