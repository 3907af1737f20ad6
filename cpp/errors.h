// Errors of the core without a standard exception. python/register_errors.cpp maps each to its
// Python class.
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

// Models have changed since the moment that a forward was to see.
class MomentPassed : public std::runtime_error {
 public:
  MomentPassed() : std::runtime_error("the moment has passed") {}
};

// A call that is not possible in the present state, such as after a fork.
class InvalidState : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace mlpbank
