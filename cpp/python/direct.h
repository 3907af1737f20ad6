// Calls whose arguments are already what the core takes. They skip the Python package's checks,
// which take longer than a small network, and leave any other call to these.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>

#include "python/gil.h"

namespace mlpbank {

namespace py = pybind11;

// Runs `forward` without the GIL, or with it where the call takes only microseconds: handing the
// GIL over twice would cost more. (Pages of a mapped file may have to come from disk, so such a
// call always gives up the GIL.)
template <class Forward>
void run(bool is_inline, Forward forward) {
  if (is_inline) return forward();
  const ReleasedGil released;
  forward();
}

// The dtype of native `Number`s, borrowed.
template <class Number>
PyObject* dtype_of() {
  return made_once([] { return py::dtype::of<Number>().release().ptr(); });
}

// Whether an object is an array that the core can use as it is: exactly numpy.ndarray, of native
// `Number`, C-contiguous and aligned.
template <class Number>
bool is_direct(py::handle object, bool writeable = false) {
  using py::detail::npy_api;
  if (Py_TYPE(object.ptr()) != npy_api::get().PyArray_Type_) return false;
  const auto* array = py::detail::array_proxy(object.ptr());
  const int wanted = npy_api::NPY_ARRAY_C_CONTIGUOUS_ | npy_api::NPY_ARRAY_ALIGNED_ |
                     (writeable ? npy_api::NPY_ARRAY_WRITEABLE_ : 0);
  return array->descr == dtype_of<Number>() && (array->flags & wanted) == wanted;
}

inline bool overlap(const py::array& a, const py::array& b) {
  const auto a_begin = reinterpret_cast<uintptr_t>(a.data());
  const auto b_begin = reinterpret_cast<uintptr_t>(b.data());
  return a_begin < b_begin + static_cast<uintptr_t>(b.nbytes()) &&
         b_begin < a_begin + static_cast<uintptr_t>(a.nbytes());
}

// The array for the results of rows `x`: `out`, or a new one where that is None. It has the shape
// of x, but for the last dimension. False: `out` does not fit, or overlaps x.
inline bool make_result(const py::array& x, py::ssize_t output_size, const py::object& out,
                        py::array& y) {
  constexpr py::ssize_t kMostDimensions = 3;
  const py::ssize_t dimensions = x.ndim();
  if (dimensions < 1 || dimensions > kMostDimensions) return false;
  py::ssize_t shape[kMostDimensions];
  for (py::ssize_t i = 0; i < dimensions; ++i) shape[i] = x.shape(i);
  shape[dimensions - 1] = output_size;
  if (out.is_none()) {
    y = py::array_t<float>(py::array::ShapeContainer(shape, shape + dimensions));
    return true;
  }
  if (!is_direct<float>(out, true)) return false;
  y = py::reinterpret_borrow<py::array>(out);
  if (y.ndim() != dimensions) return false;
  for (py::ssize_t i = 0; i < dimensions; ++i) {
    if (y.shape(i) != shape[i]) return false;
  }
  return !overlap(x, y);
}

}  // namespace mlpbank
