// RequestQueue: the requests that wait, those of the batch that is computed, and the answered ones.
#include <pybind11/numpy.h>
#include <structmember.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "python/direct.h"
#include "python/register.h"
#include "python/request.h"

namespace mlpbank {
namespace {

template <auto function>
constexpr auto in_queue = InQueue<RequestQueue, function>::call;

RequestQueue* as_queue(PyObject* object) { return reinterpret_cast<RequestQueue*>(object); }
PyObject* as_object(Request* request) { return reinterpret_cast<PyObject*>(request); }

// Runs a function that may throw. Its errors become Python's.
template <class Function>
PyObject* guarded(Function function) {
  try {
    return function();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_SystemError, error.what());
  }
  return nullptr;
}

bool expect_four(Py_ssize_t count) {
  if (count == 4) return true;
  PyErr_SetString(PyExc_SystemError, "expected batcher, key, x, missing");
  return false;
}

// direct(batcher, key, x, missing): a request of one row that is already what the core takes, else
// None.
PyObject* direct(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  if (!expect_four(count)) return nullptr;
  RequestQueue* const queue = as_queue(self);
  PyObject* const x = arguments[2];
  if (!is_direct<float>(x)) Py_RETURN_NONE;
  const auto* array = py::detail::array_proxy(x);
  if (array->nd != 1 || array->dimensions[0] != queue->input_size) Py_RETURN_NONE;
  return as_object(make_request(queue, arguments[0], arguments[1], arguments[3], nullptr,
                                reinterpret_cast<const float*>(array->data)));
}

// request(batcher, key, x, missing): a request of rows that nobody else changes, or of an error.
PyObject* request(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  if (!expect_four(count)) return nullptr;
  return as_object(make_request(as_queue(self), arguments[0], arguments[1], arguments[3],
                                arguments[2], nullptr));
}

// take(batch): the oldest requests that fit into a batch, as a list. They are its requests until
// `answer` or `take_back`.
PyObject* take(PyObject* self, PyObject* batch) {
  RequestQueue* const queue = as_queue(self);
  return guarded([&]() -> PyObject* {
    auto& queued = queue->lists->queued;
    std::vector<Request*> chosen;
    chosen.reserve(queued.size());
    std::vector<Request*> gone;
    gone.reserve(queued.size());
    Py_ssize_t rows = 0;
    for (; !queued.empty(); queued.pop_front()) {
      Request* const request = queued.front();
      if (request->is_queued == 0) {
        gone.push_back(request);
        continue;
      }
      if (rows > 0 && rows + request->rows > queue->max_batch) break;
      chosen.push_back(request);
      rows += request->rows;
      request->is_queued = 0;
      --queue->count;
      queue->waiting -= request->rows;
    }
    PyObject* const taken = PyList_New(static_cast<Py_ssize_t>(chosen.size()));
    if (taken == nullptr) {
      while (!chosen.empty()) {
        Request* const request = chosen.back();
        chosen.pop_back();
        if (request->state == RequestState::waiting) enter_queue_at(queue, request, true);
        Py_DECREF(request);
      }
      return nullptr;
    }
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      PyList_SET_ITEM(taken, static_cast<Py_ssize_t>(i), as_object(chosen[i]));
    }
    Py_INCREF(batch);
    Py_XSETREF(queue->batch, batch);
    Py_INCREF(taken);
    Py_XSETREF(queue->taken, taken);
    for (Request* request : gone) Py_DECREF(request);
    return taken;
  });
}

// take_back(): returns the requests of the batch that have no answer to the queue.
PyObject* take_back(PyObject* self, PyObject*) {
  RequestQueue* const queue = as_queue(self);
  return guarded([&]() -> PyObject* {
    const auto taken = py::reinterpret_steal<py::object>(std::exchange(queue->taken, nullptr));
    const auto batch = py::reinterpret_steal<py::object>(std::exchange(queue->batch, nullptr));
    for (Py_ssize_t i = taken ? PyList_GET_SIZE(taken.ptr()) : 0; i-- > 0;) {
      auto* const request = reinterpret_cast<Request*>(PyList_GET_ITEM(taken.ptr(), i));
      if (request->state == RequestState::waiting) enter_queue_at(queue, request, true);
    }
    Py_RETURN_NONE;
  });
}

// answer(answers): gives each request of the batch its row of an array, or its member of a list,
// which may be an error. Returns how many are errors, and the times at which the requests came.
PyObject* answer(PyObject* self, PyObject* answers) {
  RequestQueue* const queue = as_queue(self);
  return guarded([&]() -> PyObject* {
    const bool is_array = is_direct<float>(answers) && py::detail::array_proxy(answers)->nd == 2;
    const auto given = py::reinterpret_steal<py::object>(
        is_array ? py::handle(answers).inc_ref().ptr() : PySequence_List(answers));
    if (!given) throw py::error_already_set();
    const Py_ssize_t count = queue->taken == nullptr ? -1 : PyList_GET_SIZE(queue->taken);
    if (PyObject_Length(given.ptr()) != count) {
      throw std::logic_error("expected an answer for each request of the batch");
    }
    py::array_t<double> times(count);
    py::tuple result(2);
    double* const time = times.mutable_data();
    auto& answered = queue->lists->answered;
    // Room for all: what follows changes several things and must not fail.
    answered.reserve(answered.size() + static_cast<std::size_t>(count));
    Py_ssize_t failed = 0;
    for (Py_ssize_t i = 0; i < count; ++i) {
      auto* const request = reinterpret_cast<Request*>(PyList_GET_ITEM(queue->taken, i));
      time[i] = request->arrived;
      if (request->state != RequestState::waiting) continue;  // it was cancelled
      PyObject* const own = is_array ? given.ptr() : PyList_GET_ITEM(given.ptr(), i);
      if (!is_array && PyExceptionInstance_Check(own)) ++failed;
      Py_INCREF(own);
      request->answer = own;
      request->index = is_array ? i : -1;
      request->state = RequestState::answered;
      Py_INCREF(request);
      answered.push_back(request);
    }
    const auto taken = py::reinterpret_steal<py::object>(std::exchange(queue->taken, nullptr));
    const auto batch = py::reinterpret_steal<py::object>(std::exchange(queue->batch, nullptr));
    result[0] = py::int_(failed);
    result[1] = std::move(times);
    return result.release().ptr();
  });
}

// wake(): lets the tasks of answered requests go on. The loop calls it, outside of all tasks. Those
// that are answered meanwhile wait for the next call.
PyObject* wake(PyObject* self, PyObject*) {
  RequestQueue* const queue = as_queue(self);
  auto& answered = queue->lists->answered;
  std::size_t& woken = queue->lists->woken;
  for (std::size_t left = answered.size() - woken; left > 0 && woken < answered.size(); --left) {
    const auto request =
        py::reinterpret_steal<py::object>(as_object(std::exchange(answered[woken++], nullptr)));
    auto* const r = reinterpret_cast<Request*>(request.ptr());
    // Without a task that waits, the callback is called as soon as it comes.
    if (r->state != RequestState::answered || r->wake == nullptr) continue;
    const auto method = py::reinterpret_steal<py::object>(std::exchange(r->wake, nullptr));
    const auto context = py::reinterpret_steal<py::object>(std::exchange(r->context, nullptr));
    PyObject* done = nullptr;
    if (PyContext_Enter(context.ptr()) == 0) {
      done = PyObject_CallOneArg(method.ptr(), request.ptr());
      if (PyContext_Exit(context.ptr()) < 0) Py_CLEAR(done);
    }
    if (done == nullptr) {  // such as a KeyboardInterrupt in the task, which ends the loop's run
      if (woken < answered.size()) {
        const py::error_scope error;
        const auto again = py::reinterpret_steal<py::object>(PyObject_GetAttrString(self, "wake"));
        for (int i = 0; again && i < 2; ++i) {
          if (call_soon(queue, again.ptr(), nullptr, nullptr) < 0) PyErr_WriteUnraisable(self);
        }
      }
      return nullptr;
    }
    Py_DECREF(done);
  }
  answered.erase(answered.begin(), answered.begin() + static_cast<std::ptrdiff_t>(woken));
  woken = 0;
  Py_RETURN_NONE;
}

// rows_of(requests): keys, rows and `missing` of requests of one row each, or None where not all
// are, or their `missing` differ.
PyObject* rows_of(PyObject*, PyObject* requests) {
  return guarded([&]() -> PyObject* {
    const HeldObject held(requests);
    const Py_ssize_t count = PyList_GET_SIZE(requests);
    if (count == 0) Py_RETURN_NONE;
    const auto at = [&](Py_ssize_t i) {
      return reinterpret_cast<const Request*>(PyList_GET_ITEM(requests, i));
    };
    for (Py_ssize_t i = 0; i < count; ++i) {
      if (at(i)->x != nullptr || at(i)->missing != at(0)->missing) Py_RETURN_NONE;
    }
    const Py_ssize_t size = at(0)->queue->input_size;
    py::list keys(count);
    py::array_t<float> x({count, size});
    float* to = x.mutable_data();
    for (Py_ssize_t i = 0; i < count; ++i, to += size) {
      const Request* const request = at(i);
      Py_INCREF(request->key);
      PyList_SET_ITEM(keys.ptr(), i, request->key);
      std::copy_n(static_cast<const float*>(request->row), size, to);
    }
    return py::make_tuple(keys, x, py::handle(at(0)->missing)).release().ptr();
  });
}

// RequestQueue(clock, max_batch, max_queue)
PyObject* create(PyTypeObject* type, PyObject* arguments, PyObject*) {
  PyObject* clock = nullptr;
  Py_ssize_t max_batch = 0;
  Py_ssize_t max_queue = 0;
  if (PyArg_ParseTuple(arguments, "Onn", &clock, &max_batch, &max_queue) == 0) return nullptr;
  if (guarded([] {
        python_names();  // from here on they are there
        return Py_None;
      }) == nullptr) {
    return nullptr;
  }
  PyObject* const self = type->tp_alloc(type, 0);  // all zero
  if (self == nullptr) return nullptr;
  RequestQueue* const queue = as_queue(self);
  queue->lists = new (std::nothrow) RequestQueue::Lists;
  if (queue->lists == nullptr) {
    Py_DECREF(self);
    return PyErr_NoMemory();
  }
  Py_INCREF(clock);
  queue->clock = clock;
  queue->max_batch = max_batch;
  queue->max_queue = max_queue;
  return self;
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  const RequestQueue* const queue = as_queue(self);
  Py_VISIT(Py_TYPE(self));
  for (PyObject* const own :
       {queue->clock, queue->loop, queue->key_type, queue->look, queue->batch, queue->taken}) {
    Py_VISIT(own);
  }
  if (queue->lists == nullptr) return 0;
  for (Request* request : queue->lists->queued) Py_VISIT(request);
  for (Request* request : queue->lists->answered) Py_VISIT(request);
  return 0;
}

int clear(PyObject* self) {
  RequestQueue* const queue = as_queue(self);
  for (PyObject** own :
       {&queue->loop, &queue->key_type, &queue->look, &queue->batch, &queue->taken}) {
    Py_CLEAR(*own);
  }
  if (queue->lists == nullptr) return 0;
  const RequestQueue::Lists lists = std::exchange(*queue->lists, {});
  for (Request* request : lists.queued) {
    request->is_queued = 0;
    Py_DECREF(request);
  }
  for (Request* request : lists.answered) Py_XDECREF(request);
  return 0;
}

void deallocate(PyObject* self) {
  PyTypeObject* const type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  clear(self);
  Py_CLEAR(as_queue(self)->clock);
  delete as_queue(self)->lists;
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* make_queue_type() {
  static PyMethodDef methods[] = {{"direct", as_method(in_queue<direct>), METH_FASTCALL, nullptr},
                                  {"request", as_method(in_queue<request>), METH_FASTCALL, nullptr},
                                  {"take", in_queue<take>, METH_O, nullptr},
                                  {"take_back", in_queue<take_back>, METH_NOARGS, nullptr},
                                  {"answer", in_queue<answer>, METH_O, nullptr},
                                  {"wake", in_queue<wake>, METH_NOARGS, nullptr},
                                  {nullptr, nullptr, 0, nullptr}};
  static PyMemberDef members[] = {
      {"loop", T_OBJECT, offsetof(RequestQueue, loop), 0, nullptr},
      {"key_type", T_OBJECT, offsetof(RequestQueue, key_type), 0, nullptr},
      {"look", T_OBJECT, offsetof(RequestQueue, look), 0, nullptr},
      {"batch", T_OBJECT, offsetof(RequestQueue, batch), READONLY, nullptr},
      {"input_size", T_PYSSIZET, offsetof(RequestQueue, input_size), 0, nullptr},
      {"count", T_PYSSIZET, offsetof(RequestQueue, count), READONLY, nullptr},
      {"waiting", T_PYSSIZET, offsetof(RequestQueue, waiting), READONLY, nullptr},
      {"cancelled", T_PYSSIZET, offsetof(RequestQueue, cancelled), READONLY, nullptr},
      {"is_closed", T_BOOL, offsetof(RequestQueue, is_closed), 0, nullptr},
      {nullptr, 0, 0, 0, nullptr}};
  static PyType_Slot slots[] = {{Py_tp_new, as_slot(create)},
                                {Py_tp_methods, methods},
                                {Py_tp_members, members},
                                {Py_tp_traverse, as_slot(traverse)},
                                {Py_tp_clear, as_slot(clear)},
                                {Py_tp_dealloc, as_slot(deallocate)},
                                {0, nullptr}};
  static PyType_Spec spec = {"mlpbank._core.RequestQueue", static_cast<int>(sizeof(RequestQueue)),
                             0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
  PyObject* const type = PyType_FromSpec(&spec);
  if (type == nullptr) throw py::error_already_set();
  return type;
}

}  // namespace

void register_requests(py::module_& m) {
  m.add_object("Request", make_request_type());
  m.add_object("RequestQueue", make_queue_type());
  static PyMethodDef functions[] = {{"rows_of", rows_of, METH_O, nullptr},
                                    {nullptr, nullptr, 0, nullptr}};
  if (PyModule_AddFunctions(m.ptr(), static_cast<PyMethodDef*>(functions)) < 0) {
    throw py::error_already_set();
  }
}

}  // namespace mlpbank
