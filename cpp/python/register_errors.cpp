// Errors of the core become the classes of mlpbank/errors.py.
#include <pybind11/pybind11.h>

#include <exception>
#include <stdexcept>

#include "errors.h"
#include "python/register.h"

namespace py = pybind11;

namespace mlpbank {
namespace {

// Never released: a thread may still raise one while the interpreter ends.
struct Classes {
  PyObject *model_not_loaded, *key_type, *state, *value, *range, *large;
};
Classes classes;

void raise_in_python(std::exception_ptr error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const ModelNotLoaded& e) {
    PyErr_SetString(classes.model_not_loaded, e.what());
  } catch (const KeyTypeError& e) {
    PyErr_SetString(classes.key_type, e.what());
  } catch (const InvalidState& e) {
    PyErr_SetString(classes.state, e.what());
  } catch (const std::invalid_argument& e) {
    PyErr_SetString(classes.value, e.what());
  } catch (const std::out_of_range& e) {
    PyErr_SetString(classes.range, e.what());
  } catch (const std::overflow_error& e) {
    PyErr_SetString(classes.large, e.what());
  }  // others are left to pybind11
}

}  // namespace

void register_errors() {
  const py::module_ errors = py::module_::import("mlpbank.errors");
  const auto get = [&](const char* name) {
    return errors.attr(name).cast<py::object>().release().ptr();
  };
  classes = {get("ModelNotLoadedError"), get("KeyTypeError"),    get("InvalidStateError"),
             get("InvalidValueError"),   get("OutOfRangeError"), get("TooLargeError")};
  // Local to this module: other modules of the process keep their own errors.
  py::register_local_exception_translator(&raise_in_python);
}

}  // namespace mlpbank
