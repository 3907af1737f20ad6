# Finds what the build needs. Nothing is vendored; README.md here says how a dependency is added.
if(MLPBANK_OPENMP)
  find_package(OpenMP COMPONENTS CXX)
  if(NOT OpenMP_CXX_FOUND)
    message(FATAL_ERROR "error: ${CMAKE_CXX_COMPILER} (${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}) has no "
                        "OpenMP. Install its package (Debian: libomp-dev for Clang) or build without: "
                        "-DMLPBANK_OPENMP=OFF.")
  endif()
endif()
find_package(Threads REQUIRED)

if(MLPBANK_BUILD_PYTHON)
  set(PYBIND11_FINDPYTHON ON)
  find_package(pybind11 3.1 CONFIG REQUIRED)
endif()
