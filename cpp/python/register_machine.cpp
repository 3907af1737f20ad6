// The machine (CPU budget, instruction sets, limits of speed), and Engine.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "engine/engine.h"
#include "engine/float_mode.h"
#include "engine/roofline.h"
#include "engine/team.h"
#include "engine/threads.h"
#include "python/gil.h"
#include "python/register.h"

namespace py = pybind11;

#if defined(__clang__)
constexpr char kCompiler[] = "Clang " __clang_version__;
#else
constexpr char kCompiler[] = "GCC " __VERSION__;
#endif

void mlpbank::register_machine(py::module_& m) {
  m.attr("compiler") = kCompiler;
  m.attr("team_kind") = kTeamKind;
  py::class_<CpuBudget>(m, "CpuBudget")
      .def_readonly("threads", &CpuBudget::threads)
      .def_readonly("reason", &CpuBudget::reason)
      .def_readonly("own_variable", &CpuBudget::own_variable)
      .def_readonly("openmp_variable", &CpuBudget::openmp_variable)
      .def_readonly("affinity", &CpuBudget::affinity)
      .def_readonly("cgroup", &CpuBudget::cgroup);
  m.def("cpu_budget", &cpu_budget, py::arg("root") = "");
  m.def("cgroup_cpus", &cgroup_cpus, py::arg("root") = "");

  m.def("available_isas", &available_isas);
  m.def("compiled_isas", &compiled_isas);
  m.def("read_bandwidth", &read_bandwidth, py::arg("nbytes"), py::arg("num_threads"),
        py::arg("repeats"), py::call_guard<ReleasedGil>());
  m.def("fma_peak", &fma_peak, py::arg("isa"), py::arg("num_threads"),
        py::call_guard<ReleasedGil>());

  // Calls a function of the Python package that computes with NumPy. The destructor restores the
  // mode, also after an exception.
  m.def("in_default_mode",
        [](const py::object& function, const py::args& args, const py::kwargs& kwargs) {
          const DefaultFloatMode mode;
          return function(*args, **kwargs);
        });

  py::class_<Engine>(m, "Engine")
      .def(py::init<int, const std::string&>(), py::arg("num_threads"), py::arg("isa"))
      .def_property_readonly("num_threads", &Engine::num_threads)
      .def_property_readonly("isa", [](const Engine& self) { return self.kernel().isa; });
}
