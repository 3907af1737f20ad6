// The requests of a MicroBatcher, and the queue in which they wait.
//
// asyncio would make a coroutine, a future and a scheduled call for each request, which takes
// longer than a small network. Here a request is one object. To its caller it is a coroutine, to
// the caller's task the future that the task waits for, and the queue wakes the tasks of a whole
// batch in one scheduled call. What happens when is decided by python/mlpbank/serving/_batcher.py.
//
// Both types are written against Python's own interface, since pybind11 has no coroutines. No
// function here runs Python code between two changes that belong together, so a signal handler that
// raises finds them done or not begun.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <type_traits>
#include <vector>

#include "python/gil.h"

namespace mlpbank {

enum class RequestState : uint8_t {
  fresh,      // nobody awaits it yet
  waiting,    // in the queue, or in the batch that is computed
  answered,   // has its answer, and its task will be woken
  cancelled,  // by its task, which will be woken
  finished    // its task has the answer or an error
};

struct RequestQueue;

struct Request {
  PyObject_VAR_HEAD  // ob_size: the floats in `row`
      RequestQueue* queue;
  PyObject* batcher;  // has the methods _prepared, _admit and _arrived
  PyObject* key;
  PyObject* x;        // the rows if they are not in `row`, or the error that they are; may be null
  PyObject* missing;  // None or a str
  PyObject* wake;     // what its task wants to be called; may be null, like the next two
  PyObject* context;  // in this context
  PyObject* answer;   // an array, an error, or the message of a cancellation
  Py_ssize_t index;   // of its row in `answer`; -1: all of it
  Py_ssize_t rows;
  double arrived;
  RequestState state;
  char is_blocking;  // of the future's protocol: it was just yielded to a task
  char is_queued;    // false: it has left the queue, where it may still lie
  float row[1];      // one row, as it was when the request was made
};

struct RequestQueue {
  PyObject_HEAD struct Lists {
    std::deque<Request*> queued;     // in the order of arrival; owned, like all pointers here
    std::vector<Request*> answered;  // their tasks are to be woken
    std::size_t woken = 0;           // the first so many of them, now null
  };
  Lists* lists;
  PyObject* clock;     // returns seconds
  PyObject* loop;      // of all requests; may be null, like the next four
  PyObject* key_type;  // of keys that need no further look
  PyObject* look;      // the batcher's scheduled look at the queue
  PyObject* batch;     // what the batcher knows of the batch that is computed
  PyObject* taken;     // the requests of that batch, a list
  Py_ssize_t input_size, max_batch, max_queue;
  Py_ssize_t count;    // requests in the queue
  Py_ssize_t waiting;  // rows in the queue
  Py_ssize_t cancelled;
  char is_closed;
};

// Puts a request into the queue, which the batcher may refuse. 0 or, with a Python error, -1.
int enter_queue(Request* request);

// Puts a request at one end of the queue, whatever the batcher says.
void enter_queue_at(RequestQueue* queue, Request* request, bool is_front);

// Takes a request out of the queue, if it is there.
void leave_queue(Request* request);

// Calls `call_soon` of the loop with a method and its argument. 0 or, with a Python error, -1.
int call_soon(RequestQueue* queue, PyObject* method, PyObject* argument, PyObject* context);

// Returns a fresh request, or null with a Python error. `row` has ob_size floats; null: it is in x.
Request* make_request(RequestQueue* queue, PyObject* batcher, PyObject* key, PyObject* missing,
                      PyObject* x, const float* row);

// Makes the type of requests, and returns it.
PyObject* make_request_type();

// What is used of Python. The first call may throw, that of the first RequestQueue.
struct PythonNames {
  PyObject *prepared, *admit, *arrived, *call_soon;
  PyObject* context;  // the tuple of this name
  PyObject *get_running_loop, *cancelled, *invalid_state;
};
const PythonNames& python_names();

// A function of Owner's interface, run while no other thread is inside of the queue. It is
// suspended where it runs Python code that waits, as a thread gives away the GIL there.
template <class Owner, auto function>
struct InQueue;
template <class Owner, class Result, class... Arguments,
          Result (*function)(PyObject*, Arguments...)>
struct InQueue<Owner, function> {
  static Result call(PyObject* self, Arguments... arguments) {
    PyObject* queue = self;
    if constexpr (std::is_same_v<Owner, Request>) {
      queue = reinterpret_cast<PyObject*>(reinterpret_cast<Request*>(self)->queue);
    }
    const HeldObject held(queue);
    return function(self, arguments...);
  }
};

// A function as Python's tables of methods and slots take it.
template <class Function>
PyCFunction as_method(Function function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}
template <class Function>
void* as_slot(Function function) {
  return reinterpret_cast<void*>(function);
}

}  // namespace mlpbank
