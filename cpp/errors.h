// Errors of the core that no standard exception stands for. bindings.cpp gives each its Python class.
#pragma once

#include <stdexcept>

namespace mlpbank {

// A forward or a read meant a model whose weights were never loaded.
class ModelNotLoaded : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace mlpbank
