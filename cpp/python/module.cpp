// The Python module mlpbank._core: a table of contents.
//
// No code outside this folder uses Python, and no code in it computes. arrays.h converts arrays,
// gil.h gives up the GIL. The stub is python/mlpbank/_core.pyi.
#include <pybind11/pybind11.h>

#include "python/register.h"

namespace py = pybind11;

namespace {

constexpr const char* kRefusal = "mlpbank: expected the main interpreter, got a subinterpreter";

bool is_subinterpreter() { return PyInterpreterState_Get() != PyInterpreterState_Main(); }

}  // namespace

// PyInit__core, below, runs first and calls this.
PYBIND11_MODULE(core_of_main_interpreter, m) {
  // From Python 3.13 on PyInit runs in the main interpreter, even if another one imports.
  if (is_subinterpreter()) throw py::import_error(kRefusal);
  m.doc() = "The C++ core of mlpbank. Use the package, which validates and converts.";
  mlpbank::register_errors();
  mlpbank::register_machine(m);
  mlpbank::register_architecture(m);
  mlpbank::register_weights(m);
  mlpbank::register_inference(m);
  mlpbank::register_keys(m);
  mlpbank::register_arrow(m);
  mlpbank::register_bank(m);
  mlpbank::register_predict(m);
  mlpbank::register_live(m);
  mlpbank::register_requests(m);
}

// Runs at import. Refuses a subinterpreter that shares its GIL before pybind11 is set up in it,
// which would wait for ever.
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  if (is_subinterpreter()) {
    PyErr_SetString(PyExc_ImportError, kRefusal);
    return nullptr;
  }
  return PyInit_core_of_main_interpreter();
}
