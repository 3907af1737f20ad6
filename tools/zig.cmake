# A toolchain file: Clang, its C++ library and any glibc's symbols out of the package ziglang from PyPI, so that wheels
# built on a new Linux run on an old one. MLPBANK_ZIG is the program; MLPBANK_ZIG_TARGET is what it calls a machine, such
# as x86_64-linux-gnu.2.28, aarch64-linux-musl or aarch64-macos.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES MLPBANK_ZIG MLPBANK_ZIG_TARGET)

# Programs that CMake compiles in order to look are not linked: each kind would take a C++ library of its own.
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_CXX_COMPILER ${MLPBANK_ZIG} c++ -O2 -target ${MLPBANK_ZIG_TARGET})

# Zig's archiver and linker know every machine; those of the system know its own.
string(REGEX MATCH "^[^-]+" MLPBANK_ZIG_PROCESSOR ${MLPBANK_ZIG_TARGET})
if(NOT MLPBANK_ZIG_PROCESSOR STREQUAL CMAKE_HOST_SYSTEM_PROCESSOR OR NOT MLPBANK_ZIG_TARGET MATCHES "linux-gnu")
  if(MLPBANK_ZIG_TARGET MATCHES "macos")
    set(CMAKE_SYSTEM_NAME Darwin)
  else()
    set(CMAKE_SYSTEM_NAME Linux)
  endif()
  set(CMAKE_SYSTEM_PROCESSOR ${MLPBANK_ZIG_PROCESSOR})
endif()
