// Giving up the GIL and taking it back, also while the interpreter ends.
//
// Until Python 3.14, a daemon thread that wants the GIL when the interpreter ends is unwound by
// pthread_exit. C++ destructors up the stack would run without the GIL, and one that must not throw
// would end the process. Here such a thread stops for ever instead, and the process ends without
// it.
#pragma once

#include <pybind11/critical_section.h>
#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>

namespace mlpbank {

[[noreturn]] inline void stop_for_ever() {
  while (true) std::this_thread::sleep_for(std::chrono::hours(1));
}

// Runs `take`, which takes the GIL. Its only exception is the unwinding of the thread, which only
// this handler catches and which never leaves it.
template <class Take>
void take_gil(Take take) noexcept {
  try {
    take();
  } catch (...) {
    stop_for_ever();
  }
}

// Gives up the GIL for its lifetime.
class ReleasedGil {
 public:
  ReleasedGil() : state_(PyEval_SaveThread()) {}
  ~ReleasedGil() {
    take_gil([this] { PyEval_RestoreThread(state_); });
  }
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

 private:
  PyThreadState* state_;
};

// What `make` returned first in this process; never released. `static` alone would lock: a thread
// whose `make` gives up the GIL, as every import may, and one that has the GIL and waits for the
// lock would wait for each other. Here threads that meet all make one, and the first one's stays.
template <class Make>
const auto& made_once(Make make) {
  using Made = decltype(make());
  static std::atomic<const Made*> first{nullptr};
  const Made* made = first.load(std::memory_order_acquire);
  if (made == nullptr) {
    auto own = std::make_unique<const Made>(make());
    if (first.compare_exchange_strong(made, own.get(), std::memory_order_acq_rel))
      made = own.release();
  }
  return *made;
}

// In CPython without a GIL, keeps other threads out of an object for its lifetime, as far as the
// GIL would; with a GIL it does nothing. "Free-threaded CPython" in docs/internals.md says where it
// is.
using HeldObject = pybind11::scoped_critical_section;

// Keeps Python objects for the core, which drops them on any thread, with or without the GIL.
template <class Object>
std::shared_ptr<const void> keep(Object object) {
  return std::shared_ptr<Object>(new Object(std::move(object)), [](Object* held) {
    if (Py_IsInitialized() == 0) return;  // the object is gone with its interpreter
    if (PyGILState_Check() != 0) return delete held;
    PyGILState_STATE state;
    take_gil([&] { state = PyGILState_Ensure(); });
    delete held;
    PyGILState_Release(state);
  });
}

}  // namespace mlpbank
