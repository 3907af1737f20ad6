// What consumers get has memory of its own for the structs, and shares that of the values.
#include "arrow/export.h"

#include <cerrno>
#include <new>
#include <utility>

namespace mlpbank {
namespace {

// What a schema or an array holds, itself or for its children. Children that a consumer has moved
// away were released here, and are released by it.
template <class Struct>
struct Held {
  std::string name;
  std::shared_ptr<const void> owner;
  const void* buffers[2] = {nullptr, nullptr};
  std::vector<Struct> children;
  std::vector<Struct*> pointers;

  // The private data of a struct, which then releases this.
  static void give(std::unique_ptr<Held> held, Struct& to) {
    for (Struct& child : held->children) held->pointers.push_back(&child);
    to.n_children = static_cast<int64_t>(held->children.size());
    to.children = held->pointers.empty() ? nullptr : held->pointers.data();
    to.release = [](Struct* released) {
      auto* const data = static_cast<Held*>(released->private_data);
      released->release = nullptr;
      delete data;
    };
    to.private_data = held.release();
  }

  ~Held() {
    for (Struct& child : children) {
      if (child.release != nullptr) child.release(&child);
    }
  }
};

using HeldSchema = Held<ArrowSchema>;
using HeldArray = Held<ArrowArray>;

void one_schema(const std::string& name, ArrowSchema& schema) {
  auto held = std::make_unique<HeldSchema>();
  held->name = name;
  schema = {};
  schema.format = "f";
  schema.name = held->name.c_str();
  schema.flags = ARROW_FLAG_NULLABLE;
  HeldSchema::give(std::move(held), schema);
}

void one_array(const FloatColumns& columns, std::size_t i, ArrowArray& array) {
  auto held = std::make_unique<HeldArray>();
  held->owner = columns.owner;
  held->buffers[1] = columns.values + static_cast<int64_t>(i) * columns.length;
  array = {};
  array.length = columns.length;
  array.n_buffers = 2;
  array.buffers = held->buffers;
  HeldArray::give(std::move(held), array);
}

struct StreamState {
  FloatColumns columns;
  bool ended = false;
};

StreamState& state_of(ArrowArrayStream* stream) {
  return *static_cast<StreamState*>(stream->private_data);
}

int schema_of_stream(ArrowArrayStream* stream, ArrowSchema* out) {
  try {
    export_schema(state_of(stream).columns, *out);
    return 0;
  } catch (const std::bad_alloc&) {
    return ENOMEM;
  }
}

int next_of_stream(ArrowArrayStream* stream, ArrowArray* out) {
  StreamState& state = state_of(stream);
  *out = {};
  if (state.ended) return 0;
  try {
    export_array(state.columns, *out);
    state.ended = true;
    return 0;
  } catch (const std::bad_alloc&) {
    return ENOMEM;
  }
}

}  // namespace

void export_schema(const FloatColumns& columns, ArrowSchema& schema) {
  if (columns.is_one()) return one_schema(columns.names[0], schema);
  auto held = std::make_unique<HeldSchema>();
  held->children.resize(columns.names.size());
  held->pointers.reserve(columns.names.size());
  for (std::size_t i = 0; i < columns.names.size(); ++i)
    one_schema(columns.names[i], held->children[i]);
  schema = {};
  schema.format = "+s";
  schema.name = "";
  HeldSchema::give(std::move(held), schema);
}

void export_array(const FloatColumns& columns, ArrowArray& array) {
  if (columns.is_one()) return one_array(columns, 0, array);
  auto held = std::make_unique<HeldArray>();
  held->children.resize(columns.names.size());
  held->pointers.reserve(columns.names.size());
  for (std::size_t i = 0; i < columns.names.size(); ++i) one_array(columns, i, held->children[i]);
  array = {};
  array.length = columns.length;
  array.n_buffers = 1;
  array.buffers = held->buffers;
  HeldArray::give(std::move(held), array);
}

void export_stream(const FloatColumns& columns, ArrowArrayStream& stream) {
  auto state = std::make_unique<StreamState>(StreamState{columns});
  stream = {};
  stream.get_schema = &schema_of_stream;
  stream.get_next = &next_of_stream;
  stream.get_last_error = [](ArrowArrayStream*) -> const char* { return nullptr; };
  stream.release = [](ArrowArrayStream* released) {
    delete static_cast<StreamState*>(released->private_data);
    released->release = nullptr;
  };
  stream.private_data = state.release();
}

}  // namespace mlpbank
