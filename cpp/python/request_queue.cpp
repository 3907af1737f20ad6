// How requests enter the queue and leave it, and what is used of Python for that.
#include <algorithm>
#include <new>
#include <vector>

#include "python/gil.h"
#include "python/request.h"

namespace mlpbank {

namespace py = pybind11;

namespace {

// Drops requests that left the queue, before they are many. Their last references go at the end,
// since that may run Python code.
void sweep(RequestQueue* queue) {
  constexpr std::size_t kFew = 64;
  auto& queued = queue->lists->queued;
  if (queued.size() <= kFew + 2 * static_cast<std::size_t>(queue->count)) return;
  try {
    const auto left = std::stable_partition(queued.begin(), queued.end(),
                                            [](const Request* r) { return r->is_queued != 0; });
    const std::vector<Request*> gone(left, queued.end());
    queued.erase(left, queued.end());
    for (Request* request : gone) Py_DECREF(request);
  } catch (const std::bad_alloc&) {  // then later
  }
}

}  // namespace

const PythonNames& python_names() {
  return made_once([] {
    const auto text = [](const char* name) {
      PyObject* const made = PyUnicode_InternFromString(name);
      if (made == nullptr) throw py::error_already_set();
      return made;
    };
    const auto get = [](const char* module, const char* name) {
      return py::module_::import(module).attr(name).cast<py::object>().release().ptr();
    };
    return PythonNames{text("_prepared"),
                       text("_admit"),
                       text("_arrived"),
                       text("call_soon"),
                       py::make_tuple("context").release().ptr(),
                       get("asyncio", "get_running_loop"),
                       get("asyncio", "CancelledError"),
                       get("mlpbank.errors", "InvalidStateError")};
  });
}

void enter_queue_at(RequestQueue* queue, Request* request, bool is_front) {
  auto& queued = queue->lists->queued;
  is_front ? queued.push_front(request) : queued.push_back(request);
  Py_INCREF(request);
  request->is_queued = 1;
  request->state = RequestState::waiting;
  ++queue->count;
  queue->waiting += request->rows;
}

int call_soon(RequestQueue* queue, PyObject* method, PyObject* argument, PyObject* context) {
  if (queue->loop == nullptr) {  // its memory is being collected
    PyErr_SetString(python_names().invalid_state, "MicroBatcher: it is gone");
    return -1;
  }
  PyObject* arguments[4] = {queue->loop, method, nullptr, nullptr};
  std::size_t count = 2;
  if (argument != nullptr) arguments[count++] = argument;
  if (context != nullptr) arguments[count] = context;
  PyObject* const handle =
      PyObject_VectorcallMethod(python_names().call_soon, static_cast<PyObject**>(arguments), count,
                                context == nullptr ? nullptr : python_names().context);
  if (handle == nullptr) return -1;
  Py_DECREF(handle);
  return 0;
}

int enter_queue(Request* request) {
  const PythonNames& names = python_names();
  RequestQueue* const queue = request->queue;
  const auto loop = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(names.get_running_loop));
  if (!loop) return -1;
  if (loop.ptr() != queue->loop || queue->is_closed != 0 ||
      queue->waiting + request->rows > queue->max_queue) {
    PyObject* const arguments[] = {request->batcher, loop.ptr(),
                                   reinterpret_cast<PyObject*>(request)};
    PyObject* const done = PyObject_VectorcallMethod(names.admit, arguments, 3, nullptr);
    if (done == nullptr) return -1;
    Py_DECREF(done);
  }
  const auto now = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(queue->clock));
  if (!now) return -1;
  request->arrived = PyFloat_AsDouble(now.ptr());
  if (request->arrived == -1 && PyErr_Occurred() != nullptr) return -1;
  try {
    enter_queue_at(queue, request, false);
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
    return -1;
  }
  const bool is_looked_at = queue->look != nullptr && queue->look != Py_None;
  if (is_looked_at && queue->waiting < queue->max_batch) return 0;
  PyObject* const arguments[] = {request->batcher, reinterpret_cast<PyObject*>(request)};
  PyObject* const done = PyObject_VectorcallMethod(names.arrived, arguments, 2, nullptr);
  if (done == nullptr) {
    leave_queue(request);
    request->state = RequestState::finished;
    return -1;
  }
  Py_DECREF(done);
  return 0;
}

void leave_queue(Request* request) {
  if (request->is_queued == 0) return;
  RequestQueue* const queue = request->queue;
  request->is_queued = 0;
  --queue->count;
  queue->waiting -= request->rows;
  sweep(queue);
}

}  // namespace mlpbank
