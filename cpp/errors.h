// Errors of the core that no standard exception stands for. python/register_errors.cpp gives each
// its Python class.
#pragma once

#include <stdexcept>

namespace mlpbank {

// A forward or a read needed a model whose weights were never loaded.
class ModelNotLoaded : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A key is text where the bank's other keys are numbers, or the other way round.
class KeyTypeError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

// A call comes from where it cannot be answered.
class InvalidState : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace mlpbank
