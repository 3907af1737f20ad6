# Finds what the build needs. Nothing is vendored; README.md here says how a dependency is added.
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(Threads REQUIRED)

if(MLPBANK_BUILD_PYTHON)
  set(PYBIND11_FINDPYTHON ON)
  find_package(pybind11 3.1 CONFIG REQUIRED)
endif()
