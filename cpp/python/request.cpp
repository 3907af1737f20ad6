// Request: coroutine and future.
#include "python/request.h"

#include <pybind11/numpy.h>
#include <structmember.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "python/direct.h"

namespace mlpbank {

namespace py = pybind11;

namespace {

PyTypeObject* request_type = nullptr;

template <auto function>
constexpr auto in_queue = InQueue<Request, function>::call;

Request* as_request(PyObject* object) { return reinterpret_cast<Request*>(object); }

PyObject* refuse(const char* message) {
  PyErr_SetString(python_names().invalid_state, message);
  return nullptr;
}

void finish(Request* request) {
  leave_queue(request);
  request->state = RequestState::finished;
  Py_CLEAR(request->answer);
  Py_CLEAR(request->wake);
  Py_CLEAR(request->context);
}

// A row of an array (n, size), as an array of its own.
PyObject* copy_row(PyObject* array, Py_ssize_t index) {
  using py::detail::array_proxy;
  const auto& api = py::detail::npy_api::get();
  PyObject* const dtype = dtype_of<float>();
  const auto* rows = array_proxy(array);
  Py_ssize_t size = rows->dimensions[1];
  Py_INCREF(dtype);
  PyObject* const copy =
      api.PyArray_NewFromDescr_(api.PyArray_Type_, dtype, 1, &size, nullptr, nullptr, 0, nullptr);
  if (copy == nullptr) return nullptr;
  const auto* from = reinterpret_cast<const float*>(rows->data) + index * size;
  std::copy(from, from + size, reinterpret_cast<float*>(array_proxy(copy)->data));
  return copy;
}

// Ends an answered request: with its answer, or null and its error.
PyObject* take_answer(Request* request) {
  PyObject* const answer = std::exchange(request->answer, nullptr);
  const Py_ssize_t index = request->index;
  finish(request);
  PyObject* result = nullptr;
  if (index >= 0) {
    result = copy_row(answer, index);
  } else if (PyExceptionInstance_Check(answer)) {
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(answer)), answer);
  } else {
    return answer;
  }
  Py_DECREF(answer);
  return result;
}

// The first step of the coroutine.
PySendResult start(Request* request, PyObject** result) {
  // As long as it is not in the queue, whatever raises ends it.
  request->state = RequestState::finished;
  const bool is_usual =
      request->x == nullptr && request->missing == Py_None &&
      reinterpret_cast<PyObject*>(Py_TYPE(request->key)) == request->queue->key_type;
  if (!is_usual) {
    PyObject* const arguments[] = {request->batcher, reinterpret_cast<PyObject*>(request)};
    *result = PyObject_VectorcallMethod(python_names().prepared, arguments, 2, nullptr);
    if (*result == nullptr) return PYGEN_ERROR;
    if (*result != Py_None) return PYGEN_RETURN;
    Py_CLEAR(*result);
  }
  if (enter_queue(request) < 0) return PYGEN_ERROR;
  if (request->state == RequestState::answered) {
    *result = take_answer(request);
    return *result == nullptr ? PYGEN_ERROR : PYGEN_RETURN;
  }
  request->is_blocking = 1;
  Py_INCREF(request);
  *result = reinterpret_cast<PyObject*>(request);
  return PYGEN_NEXT;
}

PySendResult send(PyObject* self, PyObject*, PyObject** result) {
  Request* const request = as_request(self);
  *result = nullptr;
  switch (request->state) {
    case RequestState::fresh:
      return start(request, result);
    case RequestState::answered:
      *result = take_answer(request);
      return *result == nullptr ? PYGEN_ERROR : PYGEN_RETURN;
    case RequestState::cancelled: {
      PyObject* const message = std::exchange(request->answer, nullptr);
      finish(request);
      ++request->queue->cancelled;
      PyErr_SetObject(python_names().cancelled, message);
      Py_XDECREF(message);
      return PYGEN_ERROR;
    }
    case RequestState::waiting:
      refuse("MicroBatcher.predict: expected to be awaited by one asyncio task");
      return PYGEN_ERROR;
    case RequestState::finished:
      break;
  }
  refuse("MicroBatcher.predict: cannot await one call twice");
  return PYGEN_ERROR;
}

PyObject* send_method(PyObject* self, PyObject* value) {
  PyObject* result = nullptr;
  const PySendResult how = send(self, value, &result);
  if (how != PYGEN_RETURN) return result;
  PyErr_SetObject(PyExc_StopIteration, result);  // an array, which is what value= becomes
  Py_DECREF(result);
  return nullptr;
}

PyObject* next(PyObject* self) { return send_method(self, Py_None); }

PyObject* await(PyObject* self) {
  Py_INCREF(self);
  return self;
}

// throw(error), or throw(type, error=None, traceback=None) as of old.
PyObject* throw_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  Request* const request = as_request(self);
  if (count < 1 || count > 3) return refuse("throw: expected one to three arguments");
  PyObject* const error = arguments[0];
  const bool was_accepted =
      request->state != RequestState::fresh && request->state != RequestState::finished;
  finish(request);
  if (was_accepted && PyErr_GivenExceptionMatches(error, python_names().cancelled) != 0) {
    ++request->queue->cancelled;
  }
  PyObject* value = count > 1 && arguments[1] != Py_None ? arguments[1] : nullptr;
  PyObject* traceback = count > 2 && arguments[2] != Py_None ? arguments[2] : nullptr;
  if (!PyExceptionInstance_Check(error)) {
    Py_INCREF(error);
    Py_XINCREF(value);
    Py_XINCREF(traceback);
    PyErr_Restore(error, value, traceback);
    return nullptr;
  }
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error)), error);
  return nullptr;
}

PyObject* close_method(PyObject* self, PyObject*) {
  finish(as_request(self));
  Py_RETURN_NONE;
}

// What follows is the future that a task waits for.

// As asyncio shows coroutines.
PyObject* get_name(PyObject*, void*) { return PyUnicode_FromString("MicroBatcher.predict"); }

// None: it is no future, but a coroutine that can be made a task.
PyObject* get_blocking(PyObject* self, void*) {
  const Request* const request = as_request(self);
  if (request->state == RequestState::fresh || request->state == RequestState::finished) {
    Py_RETURN_NONE;
  }
  return PyBool_FromLong(request->is_blocking);
}

int set_blocking(PyObject* self, PyObject* value, void*) {
  const int is_blocking = value == nullptr ? 0 : PyObject_IsTrue(value);
  if (is_blocking < 0) return -1;
  as_request(self)->is_blocking = static_cast<char>(is_blocking);
  return 0;
}

PyObject* get_loop(PyObject* self, PyObject*) {
  PyObject* const loop = as_request(self)->queue->loop;
  if (loop == nullptr) Py_RETURN_NONE;
  Py_INCREF(loop);
  return loop;
}

// add_done_callback(callback, *, context=None)
PyObject* add_done_callback(PyObject* self, PyObject* const* arguments, Py_ssize_t count,
                            PyObject* names) {
  Request* const request = as_request(self);
  const Py_ssize_t named = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
  if (count != 1 || named > 1) return refuse("add_done_callback: expected a callback, context=");
  py::object context = py::reinterpret_steal<py::object>(
      named == 1 && arguments[1] != Py_None ? py::handle(arguments[1]).inc_ref().ptr()
                                            : PyContext_CopyCurrent());
  if (!context) return nullptr;
  if (request->state != RequestState::waiting) {
    if (call_soon(request->queue, arguments[0], self, context.ptr()) < 0) return nullptr;
    Py_RETURN_NONE;
  }
  if (request->wake != nullptr) {
    return refuse("MicroBatcher.predict: expected to be awaited by one asyncio task");
  }
  Py_INCREF(arguments[0]);
  request->wake = arguments[0];
  request->context = context.release().ptr();
  Py_RETURN_NONE;
}

// cancel(msg=None): whether it was not answered yet.
PyObject* cancel(PyObject* self, PyObject* const* arguments, Py_ssize_t count, PyObject* names) {
  Request* const request = as_request(self);
  if (request->state != RequestState::waiting) Py_RETURN_FALSE;
  if (request->wake != nullptr &&
      call_soon(request->queue, request->wake, self, request->context) < 0) {
    return nullptr;
  }
  leave_queue(request);
  request->state = RequestState::cancelled;
  const bool has_message = count > 0 || (names != nullptr && PyTuple_GET_SIZE(names) > 0);
  if (has_message && arguments[0] != Py_None) {
    Py_INCREF(arguments[0]);
    request->answer = arguments[0];
  }
  Py_CLEAR(request->wake);
  Py_CLEAR(request->context);
  Py_RETURN_TRUE;
}

// The task asks here for an error to throw. It gets that, like the answer, when it goes on.
PyObject* no_result(PyObject*, PyObject*) { Py_RETURN_NONE; }

// What follows is for the batcher.

PyObject* get_x(PyObject* self, void*) {
  const Request* const request = as_request(self);
  if (request->x != nullptr) {
    Py_INCREF(request->x);
    return request->x;
  }
  try {
    return py::array_t<float>(Py_SIZE(request), request->row).release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
    return nullptr;
  }
}

PyObject* get_key(PyObject* self, void*) {
  PyObject* const key = as_request(self)->key;
  Py_INCREF(key);
  return key;
}

int set_key(PyObject* self, PyObject* value, void*) {
  if (value == nullptr) {
    refuse("MicroBatcher.predict: cannot be without a key");
    return -1;
  }
  Py_INCREF(value);
  Py_XSETREF(as_request(self)->key, value);
  return 0;
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  const Request* const request = as_request(self);
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(request->queue);
  Py_VISIT(request->batcher);
  Py_VISIT(request->key);
  Py_VISIT(request->x);
  Py_VISIT(request->missing);
  Py_VISIT(request->wake);
  Py_VISIT(request->context);
  Py_VISIT(request->answer);
  return 0;
}

// The queue, the key and the batcher stay as long as it does: others do not expect them to be null.
int clear(PyObject* self) {
  Request* const request = as_request(self);
  Py_CLEAR(request->wake);
  Py_CLEAR(request->context);
  Py_CLEAR(request->answer);
  return 0;
}

void finalize(PyObject* self) {
  if (as_request(self)->state != RequestState::fresh) return;
  const py::error_scope before;
  if (PyErr_WarnEx(PyExc_RuntimeWarning, "coroutine 'MicroBatcher.predict' was never awaited", 1) <
      0) {
    PyErr_WriteUnraisable(self);
  }
}

void deallocate(PyObject* self) {
  Request* const request = as_request(self);
  if (PyObject_CallFinalizerFromDealloc(self) < 0) return;
  PyTypeObject* const type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  clear(self);
  Py_CLEAR(request->queue);
  Py_CLEAR(request->batcher);
  Py_CLEAR(request->key);
  Py_CLEAR(request->x);
  Py_CLEAR(request->missing);
  PyObject_GC_Del(self);
  Py_DECREF(type);
}

}  // namespace

Request* make_request(RequestQueue* queue, PyObject* batcher, PyObject* key, PyObject* missing,
                      PyObject* x, const float* row) {
  const Py_ssize_t floats = row == nullptr ? 0 : queue->input_size;
  Request* const request = PyObject_GC_NewVar(Request, request_type, floats);
  if (request == nullptr) return nullptr;
  const auto own = [](PyObject* object) {
    Py_XINCREF(object);
    return object;
  };
  Py_INCREF(queue);
  request->queue = queue;
  request->batcher = own(batcher);
  request->key = own(key);
  request->x = own(x);
  request->missing = own(missing);
  request->wake = request->context = request->answer = nullptr;
  request->index = -1;
  request->rows = 1;
  request->arrived = 0;
  request->state = RequestState::fresh;
  request->is_blocking = request->is_queued = 0;
  std::copy(row, row + floats, static_cast<float*>(request->row));
  PyObject_GC_Track(reinterpret_cast<PyObject*>(request));
  return request;
}

PyObject* make_request_type() {
  static PyMethodDef methods[] = {
      {"send", in_queue<send_method>, METH_O, nullptr},
      {"throw", as_method(in_queue<throw_method>), METH_FASTCALL, nullptr},
      {"close", in_queue<close_method>, METH_NOARGS, nullptr},
      {"get_loop", in_queue<get_loop>, METH_NOARGS, nullptr},
      {"add_done_callback", as_method(in_queue<add_done_callback>), METH_FASTCALL | METH_KEYWORDS,
       nullptr},
      {"cancel", as_method(in_queue<cancel>), METH_FASTCALL | METH_KEYWORDS, nullptr},
      {"result", no_result, METH_NOARGS, nullptr},
      {nullptr, nullptr, 0, nullptr}};
  static PyGetSetDef properties[] = {
      {"_asyncio_future_blocking", in_queue<get_blocking>, in_queue<set_blocking>, nullptr,
       nullptr},
      {"__qualname__", get_name, nullptr, nullptr, nullptr},
      {"key", in_queue<get_key>, in_queue<set_key>, nullptr, nullptr},
      {"x", in_queue<get_x>, nullptr, nullptr, nullptr},
      {nullptr, nullptr, nullptr, nullptr, nullptr}};
  static PyMemberDef members[] = {
      {"missing", T_OBJECT, offsetof(Request, missing), READONLY, nullptr},
      {"rows", T_PYSSIZET, offsetof(Request, rows), 0, nullptr},
      {"arrived", T_DOUBLE, offsetof(Request, arrived), READONLY, nullptr},
      {nullptr, 0, 0, 0, nullptr}};
  static PyType_Slot slots[] = {{Py_am_await, as_slot(await)},
                                {Py_am_send, as_slot(in_queue<send>)},
                                {Py_tp_iternext, as_slot(in_queue<next>)},
                                {Py_tp_methods, methods},
                                {Py_tp_getset, properties},
                                {Py_tp_members, members},
                                {Py_tp_traverse, as_slot(traverse)},
                                {Py_tp_clear, as_slot(clear)},
                                {Py_tp_finalize, as_slot(finalize)},
                                {Py_tp_dealloc, as_slot(deallocate)},
                                {0, nullptr}};
  static PyType_Spec spec = {
      "mlpbank._core.Request", static_cast<int>(offsetof(Request, row)),
      static_cast<int>(sizeof(float)),
      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  PyObject* const type = PyType_FromSpec(&spec);
  if (type == nullptr) throw py::error_already_set();
  request_type = reinterpret_cast<PyTypeObject*>(type);
  return type;
}

}  // namespace mlpbank
