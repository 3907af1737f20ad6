// One function for each subject of the Python module, each in a file of its name.
#pragma once

#include <pybind11/pybind11.h>

namespace mlpbank {

void register_errors();
void register_machine(pybind11::module_& m);
void register_architecture(pybind11::module_& m);
void register_weights(pybind11::module_& m);
void register_inference(pybind11::module_& m);
void register_keys(pybind11::module_& m);
void register_arrow(pybind11::module_& m);
void register_bank(pybind11::module_& m);
void register_predict(pybind11::module_& m);
void register_live(pybind11::module_& m);
void register_requests(pybind11::module_& m);

}  // namespace mlpbank
