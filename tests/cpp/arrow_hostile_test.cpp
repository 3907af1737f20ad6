// Arrow arrays that are wrong are refused before they are followed, and given back once.
#include <functional>
#include <stdexcept>

#include "arrow_reading.h"

using namespace mlpbank;

TEST(damaged_keys_are_refused) {
  const auto refused = [](const std::string& format, int64_t length,
                          const std::vector<Buffer>& buffers, const char* message) {
    const ArrowKeys keys({column(format, {make_array(length, buffers)})}, false);
    CHECK_THROWS(std::invalid_argument, message, slots_of(keys, {}));
    CHECK_THROWS(std::invalid_argument, message, keys_of(keys));
  };
  const Buffer bytes(4, 'x');
  refused("u", 2, {{}, buffer<int32_t>({0, 4, 1}), bytes}, "a string array whose offsets descend");
  refused("u", 1, {{}, buffer<int32_t>({-4, 0}), bytes}, "a string array whose offsets descend");
  refused("U", 1, {{}, buffer<int64_t>({0, 4}), {}}, "a string array without its bytes");
  const auto views = [&](std::vector<int32_t> view, std::vector<int64_t> sizes, const Buffer& data,
                         const char* message) {
    refused("vu", 1, {{}, buffer(view), data, buffer(sizes)}, message);
  };
  const char* const outside = "a string_view outside its buffers";
  views({-1, 0, 0, 0}, {4}, bytes, "a string_view of negative length");
  views({13, 0, 1, 0}, {4}, bytes, outside);
  views({13, 0, -1, 0}, {4}, bytes, outside);
  views({13, 0, 0, 0}, {4}, bytes, outside);
  views({13, 0, 0, -1}, {400}, bytes, outside);
  views({13, 0, 0, 2147483647}, {400}, bytes, outside);
  views({13, 0, 0, 0}, {-1}, bytes, outside);
  views({13, 0, 0, 0}, {13}, {}, "a string_view array without its bytes");
  refused(
      "L", 1, {{}, buffer<uint64_t>({1ull << 63})},
      "expected an int of 64 bits, got 9223372036854775808; use str(key), here and in the bank");
  for (const int8_t index : {int8_t{-1}, int8_t{1}, int8_t{127}}) {
    const ArrowSchema values = make_schema("u");
    const ArrowArray dictionary = make_array(1, text_buffers<int32_t>({"x"}, {}));
    const ArrowArray array = make_array(1, {{}, buffer<int8_t>({index})}, 0, 0, &dictionary);
    const ArrowKeys keys({column_of(table_of(make_schema("c", "", {}, &values), {array}), 0)},
                         false);
    CHECK_THROWS(std::invalid_argument, "an index outside its dictionary", slots_of(keys, {}));
    CHECK_THROWS(std::invalid_argument, "an index outside its dictionary", keys_of(keys));
  }
  CHECK(live_structs == 0);
}

TEST(arrays_that_do_not_fit_their_type_are_refused) {
  const std::vector<Buffer> fine = {{}, buffer<float>({1, 2})};
  const auto refused = [&](const char* format, const char* message,
                           const std::function<void(ArrowArray&)>& spoil) {
    ArrowArray array = make_array(2, fine);
    spoil(array);
    CHECK_THROWS(std::invalid_argument, message, column(format, {array}));
    CHECK(live_structs == 0);
  };
  const int64_t most = std::numeric_limits<int64_t>::max();
  refused("f", "an array of negative length", [](ArrowArray& a) { a.length = -1; });
  refused("f", "an array with a negative offset", [](ArrowArray& a) { a.offset = -1; });
  const char* const huge = "an array of a length that no memory has";
  refused("f", huge, [&](ArrowArray& a) { a.length = most; });
  refused("f", huge, [&](ArrowArray& a) { a.offset = most; });
  refused("f", huge, [&](ArrowArray& a) { a.offset = most / 64; });
  const char* const nulls = "an array whose number of nulls is not between 0 and its length";
  refused("f", nulls, [](ArrowArray& a) { a.null_count = 3; });
  refused("f", nulls, [](ArrowArray& a) { a.null_count = -2; });
  refused("f", "an array with nulls and without a bitmap that tells where",
          [](ArrowArray& a) { a.null_count = 1; });
  refused("f", "an array without its values", [](ArrowArray& a) { a.buffers[1] = nullptr; });
  const char* const number = "an array with another number of buffers than its type has";
  refused("f", number, [](ArrowArray& a) { a.n_buffers = 1; });
  refused("f", number, [](ArrowArray& a) { a.n_buffers = -1; });
  refused("f", number, [](ArrowArray& a) { a.buffers = nullptr; });
  refused("u", number, [](ArrowArray&) {});
  refused("vu", "a string_view array with too few buffers", [](ArrowArray&) {});
  refused("vu", "a string_view array with too many buffers",
          [&](ArrowArray& a) { a.n_buffers = most; });
  refused("n", "a null array with buffers", [](ArrowArray&) {});
  // What is not read is not looked at.
  CHECK(column("tdD", {make_array(2, {})}).type.name == "date32");
}

TEST(tables_that_do_not_fit_their_schema_are_refused) {
  const auto refused = [](const char* message, const std::function<void(ArrowArray&)>& spoil,
                          int64_t length = 2) {
    const ArrowArray child = make_array(2, {{}, buffer<float>({1, 2})});
    ArrowArray batch = make_array(length, {{}}, 0, 0, nullptr, {child});
    spoil(batch);
    const auto read = [&] {
      return column_of(table_of(make_schema("+s", "", {make_schema("f", "x")}), {batch}), 0);
    };
    CHECK_THROWS(std::invalid_argument, message, read());
    CHECK(live_structs == 0);
  };
  const char* const children = "an array whose number of children differs from its schema's";
  refused(children, [](ArrowArray& a) { a.n_children = 0; });
  refused(children, [](ArrowArray& a) { a.n_children = -1; });
  refused("an array without its children", [](ArrowArray& a) { a.children = nullptr; });
  refused("a child that is null", [](ArrowArray& a) { a.children[0] = nullptr; });
  refused("an array that was released",
          [](ArrowArray& a) { a.children[0]->release(a.children[0]); });
  const char* const shorter = "a column that is shorter than its record batch";
  refused(shorter, [](ArrowArray&) {}, 3);
  refused(shorter, [](ArrowArray& a) { a.offset = 1; });
  refused(shorter, [](ArrowArray& a) { a.offset = 3; }, 0);
  refused("a record batch with rows that are null", [](ArrowArray& a) { a.null_count = 1; });
}

TEST(rows_that_a_bitmap_calls_null_are_refused) {
  const auto batch = [](const std::vector<bool>& there) {
    const ArrowArray child = make_array(3, {{}, buffer<float>({1, 2, 3})});
    return make_array(2, {bitmap(there)}, 1, -1, nullptr, {child});
  };
  const auto read = [&](const std::vector<bool>& there) {
    return column_of(table_of(make_schema("+s", "", {make_schema("f")}), {batch(there)}), 0);
  };
  CHECK(same(values_of(read({false, true, true})), {2, 3}));  // the offset of a batch counts
  CHECK_THROWS(std::invalid_argument, "a record batch with rows that are null",
               read({true, true, false}));
}

TEST(schemas_that_are_none_are_refused) {
  const auto refused = [](const char* message, const std::function<void(ArrowSchema&)>& spoil) {
    ArrowSchema schema = make_schema("f");
    spoil(schema);
    const auto read = [&] { return column_of(table_of(schema, {}), 0); };
    CHECK_THROWS(std::invalid_argument, message, read());
    CHECK(live_structs == 0);
  };
  refused("a schema that was released", [](ArrowSchema& s) { s.format = nullptr; });
  refused("a schema without its columns", [](ArrowSchema& s) {
    s.format = "+s";
    s.n_children = -1;
  });
  ArrowSchema deep = make_schema("u");
  for (int i = 0; i < 20; ++i) deep = make_schema("i", "", {}, &deep);
  CHECK_THROWS(std::invalid_argument, "dictionaries that are nested too deep",
               column_of(table_of(deep, {}), 0));
  const ArrowSchema text = make_schema("u");
  CHECK_THROWS(std::invalid_argument, "a dictionary with indices of type float32",
               column_of(table_of(make_schema("f", "", {}, &text), {}), 0));
  const std::string metadata("\1\0\0\0\377\377\377\377", 8);
  CHECK_THROWS(std::invalid_argument, "a schema whose metadata has a negative length",
               column_of(table_of(make_schema("f", "", {}, nullptr, metadata), {}), 0));
  CHECK(live_structs == 0);
}

TEST(types_that_only_their_library_knows_are_of_another_kind) {
  const auto metadata = [](const std::string& key, const std::string& value) {
    std::string bytes("\1\0\0\0", 4);
    for (const std::string& text : {key, value}) {
      bytes += static_cast<char>(text.size());
      bytes += std::string(3, '\0') + text;
    }
    return bytes;
  };
  const auto type = [&](const std::string& key, const std::string& value) {
    return column_of(table_of(make_schema("c", "", {}, nullptr, metadata(key, value)), {}), 0).type;
  };
  CHECK(type("ARROW:extension:name", "my.degrees").name == "extension type my.degrees");
  CHECK(!type("ARROW:extension:name", "my.degrees").is_numeric());
  CHECK(type("ARROW:extension:name", "arrow.bool8").is_numeric());
  CHECK(!type("ARROW:extension:name", "arrow.bool8").is_integer());
  CHECK(type("comment", "my.degrees").is_numeric());
}

int main(int argc, char** argv) {
  const int status = run_tests(argc, argv);
  CHECK(live_structs == 0);
  return status;
}
