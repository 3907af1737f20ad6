// What producers lend is checked here before it is used.
#include "arrow/table.h"

#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

namespace mlpbank {
namespace {

using Kind = ArrowType::Kind;

void expect(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

void check_extent(const ArrowArray& array) {
  expect(array.release != nullptr, "an array that was released");
  expect(array.length >= 0, "an array of negative length");
  expect(array.offset >= 0, "an array with a negative offset");
  // In bits and in views of 16 bytes, positions are to fit as well.
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 64;
  expect(array.length <= kMost && array.offset <= kMost - array.length,
         "an array of a length that no memory has");
  expect(array.null_count >= -1 && array.null_count <= array.length,
         "an array whose number of nulls is not between 0 and its length");
}

void check_children(const ArrowArray& array, int64_t count) {
  expect(array.n_children == count, "an array whose number of children differs from its schema's");
  expect(count == 0 || array.children != nullptr, "an array without its children");
  for (int64_t i = 0; i < count; ++i) expect(array.children[i] != nullptr, "a child that is null");
}

bool has_buffers(const ArrowArray& array, int64_t count) {
  return array.n_buffers == count && (count == 0 || array.buffers != nullptr);
}

bool has_null_rows(const ArrowArray& batch) {
  if (batch.null_count != -1) return batch.null_count > 0;
  if (batch.n_buffers < 1 || batch.buffers == nullptr || batch.buffers[0] == nullptr) return false;
  const auto* const bitmap = static_cast<const uint8_t*>(batch.buffers[0]);
  for (int64_t i = 0; i < batch.length; ++i) {
    if (!bit_at(bitmap, batch.offset + i)) return true;
  }
  return false;
}

void check_views(const ArrowArray& array, bool empty) {
  expect(array.n_buffers >= 3 && array.buffers != nullptr,
         "a string_view array with too few buffers");
  const int64_t count = array.n_buffers - 3;
  expect(count <= std::numeric_limits<int32_t>::max(), "a string_view array with too many buffers");
  expect(empty || array.buffers[1] != nullptr, "an array without its values");
  expect(count == 0 || array.buffers[array.n_buffers - 1] != nullptr,
         "a string_view array without the sizes of its buffers");
}

}  // namespace

void check_array(const ArrowArray& array, const ArrowType& type) {
  check_extent(array);
  if (type.kind == Kind::other) return;
  const bool empty = array.length == 0;
  if (type.kind == Kind::null) {
    expect(array.n_buffers == 0 || has_buffers(array, 1),  // of old versions of the format
           "a null array with buffers");
  } else if (type.kind == Kind::text_view) {
    check_views(array, empty);
  } else {
    expect(has_buffers(array, type.is_text() ? 3 : 2),
           "an array with another number of buffers "
           "than its type has");
    expect(empty || array.buffers[1] != nullptr, "an array without its values");
  }
  expect(type.kind == Kind::null || array.null_count <= 0 || array.buffers[0] != nullptr,
         "an array with nulls and without a bitmap that tells where");
  if (type.values == nullptr) return;
  expect(array.dictionary != nullptr, "an array without its dictionary");
  check_array(*array.dictionary, *type.values);
}

std::shared_ptr<const ArrowTable> ArrowTable::of(std::shared_ptr<const Schema> schema,
                                                 std::vector<ArrowOwned<ArrowArray>> batches) {
  auto table = std::make_shared<ArrowTable>();
  const ArrowSchema& top = **schema;
  expect(top.release != nullptr && top.format != nullptr, "a schema that was released");
  table->has_columns_ = std::strcmp(top.format, "+s") == 0;
  const int64_t columns = table->has_columns_ ? top.n_children : 0;
  expect(columns >= 0 && (columns == 0 || top.children != nullptr), "a schema without its columns");
  for (int64_t i = 0; i < columns; ++i) {
    const ArrowSchema* const child = top.children[i];
    expect(child != nullptr && child->format != nullptr, "a schema without a format");
    table->names_.emplace_back(child->name == nullptr ? "" : child->name);
  }
  for (const auto& batch : batches) {
    check_extent(*batch);
    if (table->has_columns_) {
      check_children(*batch, columns);
      expect(!has_null_rows(*batch), "a record batch with rows that are null");
    }
    expect(batch->length <= std::numeric_limits<int64_t>::max() / 64 - table->num_rows_,
           "batches of a length that no memory has");
    table->num_rows_ += batch->length;
  }
  table->schema_ = std::move(schema);
  table->batches_ = std::move(batches);
  return table;
}

ArrowColumn column_of(std::shared_ptr<const ArrowTable> table, std::size_t i) {
  const ArrowSchema& top = **table->schema_;
  ArrowColumn column;
  column.type = ArrowType::of(table->has_columns_ ? *top.children[i] : top);
  column.length = table->num_rows_;
  int64_t begin = 0;
  for (const auto& batch : table->batches_) {
    const ArrowArray& array = table->has_columns_ ? *batch->children[i] : *batch;
    check_array(array, column.type);
    // The offset of a batch applies to its columns, too.
    const int64_t skipped = table->has_columns_ ? batch->offset : 0;
    expect(skipped <= array.length && batch->length <= array.length - skipped,
           "a column that is shorter than its record batch");
    if (batch->length > 0)
      column.chunks.push_back({&array, array.offset + skipped, batch->length, begin});
    begin += batch->length;
  }
  column.owner = std::move(table);
  return column;
}

ArrowStream::ArrowStream(ArrowArrayStream& stream)
    : stream_(stream), schema_(std::make_shared<ArrowTable::Schema>()) {
  expect(!stream_.is_released(), "a stream that was read already");
  expect(stream_->get_schema != nullptr && stream_->get_next != nullptr,
         "a stream without its functions");
  const int code = stream_->get_schema(stream_.get(), schema_->get());
  if (code != 0) {
    schema_->get()->release = nullptr;
    fail(code);
  }
  expect(!schema_->is_released(), "a stream without a schema");
}

void ArrowStream::fail(int code) {
  ended_ = true;
  const char* const message =
      stream_->get_last_error == nullptr ? nullptr : stream_->get_last_error(stream_.get());
  throw std::invalid_argument(message != nullptr ? std::string(message)
                                                 : "error " + std::to_string(code));
}

bool ArrowStream::take(ArrowOwned<ArrowArray>& batch) {
  if (ended_) return false;
  const int code = stream_->get_next(stream_.get(), batch.get());
  if (code != 0) {
    batch.get()->release = nullptr;  // what failed gave nothing
    fail(code);
  }
  ended_ = batch.is_released();
  return !ended_;
}

std::shared_ptr<const ArrowTable> ArrowStream::next() {
  std::vector<ArrowOwned<ArrowArray>> batches(1);
  if (!take(batches[0])) return nullptr;
  return ArrowTable::of(schema_, std::move(batches));
}

std::shared_ptr<const ArrowTable> ArrowStream::rest(const std::function<void()>& between) {
  std::vector<ArrowOwned<ArrowArray>> batches;
  while (true) {
    ArrowOwned<ArrowArray> batch;
    if (!take(batch)) break;
    batches.push_back(std::move(batch));
    between();
  }
  return ArrowTable::of(schema_, std::move(batches));
}

}  // namespace mlpbank
