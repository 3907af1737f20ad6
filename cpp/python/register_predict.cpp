// DirectPredict: a Bank's everyday call, few keys or handles and their rows, as one step.
#include <pybind11/pybind11.h>

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <utility>

#include "bank/bank.h"
#include "bank/follower.h"
#include "bank/head.h"
#include "engine/inference.h"
#include "errors.h"
#include "python/arrays.h"
#include "python/direct.h"
#include "python/gil.h"
#include "python/key_arguments.h"
#include "python/register.h"

namespace mlpbank {
namespace {

// In calls of more keys the Python package's checks are no longer a large part.
constexpr py::ssize_t kMostDirectKeys = 256;

// Slots of one call, on the stack.
struct Slots {
  std::array<int64_t, kMostDirectKeys> slot;
  py::ssize_t count = 0;
  bool is_one = false;  // one key, whose rows have no dimension for it
};

// Every method returns None where anything is unusual: arguments that have to be converted or are
// wrong, unknown keys. The package then does the same call with care.
class DirectPredict {
 public:
  DirectPredict(std::shared_ptr<Bank> bank, std::shared_ptr<const BatchedInference> inference)
      : bank_(std::move(bank)), inference_(std::move(inference)) {
    expect(bank_->weights().get() == &inference_->weights(), "bank and inference of two weights");
  }

  // For a bank that follows a folder: calls look at this head, and take over what is new. None ends
  // all calls.
  void follow(std::shared_ptr<Head> head, std::shared_ptr<Follower> follower) {
    expect(follower == nullptr || follower->bank() == bank_, "follower of another bank");
    follows_ = true;
    head_ = std::move(head);
    follower_ = std::move(follower);
  }

  // Whether rows go to the models as they are. It is set before a bank has its first model.
  bool takes_rows() const { return takes_rows_.load(); }
  void set_takes_rows(bool takes) { takes_rows_.store(takes); }

  // Rows (n, input_size) or (n, rows, input_size) by list or int64 array of n keys, or (input_size)
  // or (rows, input_size) by one key.
  py::object by_keys(const py::object& keys, const py::object& x, const py::object& out) const {
    return predict(x, out, [&](Slots& slots) { return find(keys.ptr(), slots); });
  }

  // The same by int64 array of n handles.
  py::object by_handles(const py::object& handles, const py::object& x,
                        const py::object& out) const {
    return predict(x, out, [&](Slots& slots) { return find_handles(handles, slots); });
  }

 private:
  template <class Find>
  py::object predict(const py::object& x_object, const py::object& out, Find find_slots) const {
    if (follows_ && !is_current()) return py::none();
    if (!is_direct<float>(x_object)) return py::none();
    const auto x = py::reinterpret_borrow<py::array>(x_object);
    const Architecture& architecture = inference_->weights().architecture();
    const py::ssize_t dimensions = x.ndim();
    if (dimensions == 0 || x.shape(dimensions - 1) != architecture.input_size()) return py::none();
    Slots slots;
    const Bank::Guard guard(bank_);
    std::optional<uint64_t> moment;
    if (follows_) moment = bank_->weights()->moment();
    if (moment && *moment % 2 != 0) return py::none();
    if (!find_slots(slots) || !takes_rows()) return py::none();
    const py::ssize_t leading = slots.is_one ? 0 : 1;  // dimensions before those of one key's rows
    if (dimensions < leading + 1 || dimensions > leading + 2) return py::none();
    if (!slots.is_one && x.shape(0) != slots.count) return py::none();
    const int64_t rows = dimensions == leading + 2 ? x.shape(leading) : 1;
    py::array y;
    if (!make_result(x, architecture.output_size(), out, y)) return py::none();
    const auto* from = static_cast<const float*>(x.data());
    auto* to = static_cast<float*>(y.mutable_data());
    // Scattered models of the lane layout are a tile each.
    const int64_t most = slots.count * inference_->weights().layout().block_models();
    try {
      run(inference_->runs_inline(most, rows), [&] {
        const ForwardOptions options = {0, Missing::error, 0, moment};
        inference_->forward_models(slots.slot.data(), slots.count, from, rows, to, options);
      });
    } catch (const ModelNotLoaded&) {  // it was removed since its key was found
      return py::none();
    } catch (const MomentPassed&) {
      return py::none();
    }
    return y;
  }

  // False: something is new that the index tells, or the bank is closed.
  bool is_current() const {
    if (head_ == nullptr) return false;
    if (head_->sequence() <= bank_->sequence()) return true;
    const std::shared_ptr<Follower> follower = follower_;
    const ReleasedGil released;
    return follower->catch_up(Follower::kNoOwn).up;
  }

  // False: not all are keys of this bank.
  bool find(PyObject* keys, Slots& slots) const {
    const KeyType type = bank_->keys().key_type();
    KeyReader reader;
    KeyView view = KeyView::of(int64_t{0});
    const auto find_one = [&](PyObject* key, int64_t& slot) {
      if (reader.read(key, type, view) != KeyReader::Result::key) return false;
      slot = bank_->find(view);
      return slot >= 0;
    };
    if (PyUnicode_CheckExact(keys) || PyLong_CheckExact(keys) || PyTuple_CheckExact(keys)) {
      slots.is_one = true;
      slots.count = 1;
      return find_one(keys, slots.slot[0]);
    }
    bool known = true;
    if (PyList_CheckExact(keys)) {
      const HeldObject held(keys);
      slots.count = PyList_GET_SIZE(keys);
      if (slots.count > kMostDirectKeys) return false;
      bank_->at_one_moment([&] {
        known = true;
        // Nothing here runs Python code, so the list stays as it is.
        for (py::ssize_t i = 0; known && i < slots.count; ++i) {
          known = find_one(PyList_GET_ITEM(keys, i), slots.slot[static_cast<std::size_t>(i)]);
        }
      });
      return known;
    }
    if (type != KeyType::number || !is_direct<int64_t>(keys)) return false;
    const auto numbers = py::reinterpret_borrow<py::array>(keys);
    if (numbers.ndim() != 1 || numbers.size() > kMostDirectKeys) return false;
    slots.count = numbers.size();
    const auto* number = static_cast<const int64_t*>(numbers.data());
    bank_->at_one_moment([&] {
      known = true;
      for (py::ssize_t i = 0; i < slots.count; ++i) {
        int64_t& slot = slots.slot[static_cast<std::size_t>(i)];
        slot = bank_->find(KeyView::of(number[i]));
        known &= slot >= 0;
      }
    });
    return known;
  }

  // False: not all are handles of this bank's models.
  bool find_handles(const py::object& object, Slots& slots) const {
    if (!is_direct<int64_t>(object)) return false;
    const auto handles = py::reinterpret_borrow<py::array>(object);
    if (handles.ndim() != 1 || handles.size() > kMostDirectKeys) return false;
    slots.count = handles.size();
    const auto* handle = static_cast<const int64_t*>(handles.data());
    const int64_t num_slots = bank_->num_used_slots();
    bool is_stale = false;
    for (py::ssize_t i = 0; i < slots.count; ++i) {
      const int64_t slot = bank_->slot_of(handle[i], is_stale);
      if (slot < 0 || slot >= num_slots) return false;
      slots.slot[static_cast<std::size_t>(i)] = slot;
    }
    return true;
  }

  const std::shared_ptr<Bank> bank_;
  const std::shared_ptr<const BatchedInference> inference_;
  std::atomic<bool> takes_rows_{false};
  bool follows_ = false;
  // With the GIL held.
  std::shared_ptr<Head> head_;
  std::shared_ptr<Follower> follower_;
};

}  // namespace

void register_predict(py::module_& m) {
  py::class_<DirectPredict>(m, "DirectPredict")
      .def(py::init<std::shared_ptr<Bank>, std::shared_ptr<const BatchedInference>>(),
           py::arg("bank"), py::arg("inference"))
      .def_property("takes_rows", &DirectPredict::takes_rows, &DirectPredict::set_takes_rows)
      .def("follow", &DirectPredict::follow, py::arg("head"), py::arg("follower"))
      .def("by_keys", &DirectPredict::by_keys, py::arg("keys"), py::arg("x"), py::arg("out"))
      .def("by_handles", &DirectPredict::by_handles, py::arg("handles"), py::arg("x"),
           py::arg("out"));
}

}  // namespace mlpbank
