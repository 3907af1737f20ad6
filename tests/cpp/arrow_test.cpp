// Tables through the Arrow C data interface: what is read is right, and all that was lent is given
// back once.
#include <numeric>
#include <random>
#include <stdexcept>

#include "arrow/export.h"
#include "arrow/order.h"
#include "arrow_reading.h"

using namespace mlpbank;

namespace {

template <class T>
void check_numbers(const std::string& format, const std::vector<T>& values) {
  const std::vector<float> expected(values.begin(), values.end());
  const auto count = static_cast<int64_t>(values.size());
  CHECK(same(values_of(column(format, {make_array(count, {{}, buffer(values)})})), expected));
}

const std::vector<std::string> kTexts = {
    "a", "", "a text that is longer than a view", "b", "another text that is long", "twelve bytes"};

}  // namespace

TEST(numbers_of_all_types) {
  check_numbers<int8_t>("c", {-128, 0, 127});
  check_numbers<int16_t>("s", {-32768, 5});
  check_numbers<int32_t>("i", {-2147483647, 5});
  check_numbers<int64_t>("l", {-9007199254740993, 5});
  check_numbers<uint8_t>("C", {0, 255});
  check_numbers<uint16_t>("S", {0, 65535});
  check_numbers<uint32_t>("I", {0, 4294967295});
  check_numbers<uint64_t>("L", {0, 18446744073709551615u});
  check_numbers<float>("f", {1.5f, -0.0f, kNan});
  check_numbers<double>("g", {1.5, 1e300});
  const std::vector<uint16_t> halves = {0x3c00, 0xc000, 0x7e00};
  CHECK(same(values_of(column("e", {make_array(3, {{}, buffer(halves)})})), {1.0f, -2.0f, kNan}));
  CHECK(same(values_of(column("n", {make_array(2, {})})), {kNan, kNan}));
  CHECK(live_structs == 0);
}

TEST(decimals) {
  const auto four = column("d:5,2,32", {make_array(2, {{}, buffer<int32_t>({150, -25})})});
  CHECK(same(values_of(four), {1.5f, -0.25f}));
  const auto eight = column("d:5,-2,64", {make_array(2, {{}, buffer<int64_t>({3, -4})})});
  CHECK(same(values_of(eight), {300, -400}));
  const std::vector<int64_t> wide = {125, 0, -125, -1, 0, 1, -1, -1};
  const auto sixteen = column("d:30,1", {make_array(4, {{}, buffer(wide)})});
  CHECK(same(values_of(sixteen), {12.5f, -12.5f, 0x1p64f / 10, -0.1f}));
  const std::vector<int64_t> wider = {-5, -1, -1, -1, 0, 0, 1, 0};
  const auto most = column("d:70,0,256", {make_array(2, {{}, buffer(wider)})});
  CHECK(same(values_of(most), {-5, std::numeric_limits<float>::infinity()}));
}

TEST(nulls_offsets_and_chunks) {
  // 20 values, of which every third is null, in slices with offsets of bits and bytes.
  std::vector<float> numbers(20), expected;
  std::vector<bool> there, odd;
  for (int i = 0; i < 20; ++i) {
    numbers[static_cast<std::size_t>(i)] = static_cast<float>(i);
    there.push_back(i % 3 != 0);
    odd.push_back(i % 2 != 0);
  }
  std::vector<ArrowArray> slices, flags;
  for (const auto& [offset, length] : std::vector<std::pair<int, int>>{{3, 9}, {12, 0}, {1, 19}}) {
    slices.push_back(make_array(length, {bitmap(there), buffer(numbers)}, offset, -1));
    flags.push_back(make_array(length, {{}, bitmap(odd)}, offset));
    for (int i = offset; i < offset + length; ++i)
      expected.push_back(i % 3 == 0 ? kNan : static_cast<float>(i));
  }
  const ArrowColumn floats = column("f", slices), bits = column("b", flags);
  CHECK(floats.length == 28 && bits.length == 28);
  CHECK(same(values_of(floats), expected));
  // Side by side, minus a shift, and in another order.
  std::vector<uint32_t> positions(28);
  for (uint32_t i = 0; i < 28; ++i) positions[i] = 27 - i;
  const double shift[2] = {0.5, 1};
  std::vector<float> rows(56);
  columns_to_rows<float>({NumberColumn::of(floats), NumberColumn::of(bits)}, 28, shift,
                         positions.data(), 2, rows.data());
  for (std::size_t i = 0; i < 28; ++i) {
    const float flag = std::isnan(expected[i]) ? rows[2 * (27 - i) + 1]
                                               : static_cast<float>(int(expected[i]) % 2) - 1;
    CHECK(same({rows[2 * (27 - i)], rows[2 * (27 - i) + 1]}, {expected[i] - 0.5f, flag}));
  }
}

TEST(rows_of_all_widths_and_numbers) {
  std::mt19937 random(7);
  for (const int64_t width : {1, 3, 16, 32, 80, 5000}) {
    for (const int64_t count : {int64_t{1}, int64_t{65}, 400000 / width}) {
      std::vector<std::vector<float>> memory;
      std::vector<NumberColumn> columns;
      for (int64_t c = 0; c < width; ++c) {
        memory.emplace_back(static_cast<std::size_t>(count));
        for (float& value : memory.back()) value = static_cast<float>(random());
        NumberColumn own;
        own.kind = ArrowType::Kind::float32;
        own.stride = sizeof(float);
        own.length = count;
        own.chunks = {{0, count, reinterpret_cast<const char*>(memory.back().data()), nullptr, 0}};
        columns.push_back(own);
      }
      std::vector<uint32_t> positions(static_cast<std::size_t>(count));
      std::iota(positions.begin(), positions.end(), 0u);
      std::shuffle(positions.begin(), positions.end(), random);
      std::vector<float> whole(static_cast<std::size_t>(width * count) + 15);
      const auto address = reinterpret_cast<uintptr_t>(whole.data()) / 4;
      for (const std::size_t shifted : {std::size_t{(16 - address % 16) % 16}, std::size_t{0}}) {
        float* const rows = whole.data() + shifted;
        for (const bool ordered : {false, true}) {
          const uint32_t* const order = ordered ? positions.data() : nullptr;
          std::fill(whole.begin(), whole.end(), kNan);
          columns_to_rows(columns, count, nullptr, order, 2, rows);
          for (int64_t r = 0; r < count; ++r) {
            const int64_t at = order == nullptr ? r : order[r];
            for (int64_t c = 0; c < width; ++c)
              CHECK(rows[at * width + c] ==
                    memory[static_cast<std::size_t>(c)][static_cast<std::size_t>(r)]);
          }
        }
      }
    }
  }
}

TEST(texts_of_all_types) {
  const Buffer validity = bitmap({true, true, true, false, true, true});
  std::vector<std::string> expected = {kTexts[1], kTexts[2], "-", kTexts[4], kTexts[5]};
  const auto check = [&](const std::string& format, const std::vector<Buffer>& buffers) {
    const ArrowKeys keys({column(format, {make_array(5, buffers, 1, 1)})}, false);
    CHECK(keys.type() == KeyType::text);
    CHECK(keys_of(keys) == expected);
    CHECK((slots_of(keys, {{"", 4}, {kTexts[2], 2}}) == std::vector<int64_t>{4, 2, -1, -1, -1}));
  };
  check("u", text_buffers<int32_t>(kTexts, validity));
  check("U", text_buffers<int64_t>(kTexts, validity));
  check("vu", view_buffers(kTexts, validity));
  CHECK(live_structs == 0);
}

TEST(keys_of_integers_and_dictionaries) {
  const ArrowKeys small({column("C", {make_array(3, {{}, buffer<uint8_t>({0, 200, 7})})})}, false);
  CHECK((keys_of(small) == std::vector<std::string>{"0", "200", "7"}));
  CHECK((slots_of(small, {{"200", 1}}) == std::vector<int64_t>{-1, 1, -1}));

  const auto encoded = [](const std::string& format, const Buffer& indices) {
    const ArrowSchema values = make_schema("u");
    // The last entry is null.
    const ArrowArray dictionary =
        make_array(3, text_buffers<int32_t>({"x", "y", "z"}, bitmap({true, true, false})), 0, 1);
    const ArrowArray array =
        make_array(4, {bitmap({true, true, false, true}), indices}, 0, 1, &dictionary);
    return ArrowKeys({column_of(table_of(make_schema(format, "", {}, &values), {array}), 0)},
                     false);
  };
  const auto check = [&](const ArrowKeys& keys) {
    CHECK((keys_of(keys) == std::vector<std::string>{"y", "x", "-", "-"}));
    CHECK((slots_of(keys, {{"x", 5}, {"y", 6}}) == std::vector<int64_t>{6, 5, -1, -1}));
  };
  check(encoded("c", buffer<int8_t>({1, 0, 99, 2})));
  check(encoded("S", buffer<uint16_t>({1, 0, 99, 2})));
  check(encoded("i", buffer<int32_t>({1, 0, -99, 2})));
  check(encoded("L", buffer<uint64_t>({1, 0, 99, 2})));
}

TEST(dictionaries_within_dictionaries_and_large_ones) {
  const ArrowSchema text = make_schema("u"), inner = make_schema("c", "", {}, &text);
  const ArrowArray words = make_array(2, text_buffers<int32_t>({"x", "y"}, {}));
  const ArrowArray middle = make_array(3, {{}, buffer<int8_t>({1, 0, 1})}, 0, 0, &words);
  const ArrowArray outer = make_array(2, {{}, buffer<int16_t>({2, 1})}, 0, 0, &middle);
  const ArrowKeys keys({column_of(table_of(make_schema("s", "", {}, &inner), {outer}), 0)}, false);
  CHECK((slots_of(keys, {{"x", 0}, {"y", 1}}) == std::vector<int64_t>{1, 0}));

  // Many more entries than rows: only those of the rows are looked up.
  std::vector<std::string> many(5000, "unused");
  many[4321] = "x";
  const ArrowSchema plain = make_schema("U");
  const ArrowArray large = make_array(5000, text_buffers<int64_t>(many, {}));
  const ArrowArray row = make_array(1, {{}, buffer<int16_t>({4321})}, 0, 0, &large);
  const ArrowKeys one({column_of(table_of(make_schema("s", "", {}, &plain), {row}), 0)}, false);
  int64_t asked = 0, slot = -1;
  one.find(
      [&](const KeyView* views, int64_t count, int64_t* to) {
        asked += count;
        to[0] = views[0].text == "x" ? 3 : -1;
      },
      1, &slot);
  CHECK(asked == 1 && slot == 3);
}

TEST(keys_that_are_tuples) {
  const ArrowColumn texts =
      column("u", {make_array(3, text_buffers<int32_t>({"a", "b", "c"}, {}))});
  const ArrowColumn numbers =
      column("s", {make_array(1, {{}, buffer<int16_t>({7})}),
                   make_array(2, {bitmap({true, false}), buffer<int16_t>({-1, 0})}, 0, 1)});
  const ArrowKeys keys({texts, numbers}, true);
  TupleType type;
  type.add(false);
  type.add(true);
  CHECK(keys.type() == type.type());
  const std::string seven("\1\0\0\0a\7\0\0\0\0\0\0\0", 13);
  const std::string minus("\1\0\0\0b\377\377\377\377\377\377\377\377", 13);
  CHECK((keys_of(keys) == std::vector<std::string>{seven, minus, "-"}));
  CHECK((slots_of(keys, {{minus, 1}}) == std::vector<int64_t>{-1, 1, -1}));
}

TEST(streams) {
  const auto source = [](bool schema_fails, bool end_fails) {
    auto made = std::make_unique<StreamSource>();
    made->columns = {make_schema("f", "x"), make_schema("u", "k")};
    for (int64_t i = 0; i < 3; ++i) {  // of 0, 1 and 2 rows
      const std::vector<float> numbers(static_cast<std::size_t>(i), static_cast<float>(i));
      const std::vector<std::string> texts(static_cast<std::size_t>(i), "k");
      made->batches.push_back(make_array(
          i, {{}}, 0, 0, nullptr,
          {make_array(i, {{}, buffer(numbers)}), make_array(i, text_buffers<int32_t>(texts, {}))}));
    }
    made->schema_fails = schema_fails;
    made->end_fails = end_fails;
    return StreamSource::stream(std::move(made));
  };
  {
    ArrowArrayStream given = source(false, false);
    const auto table = ArrowStream(given).rest();
    CHECK(given.release == nullptr);
    CHECK((table->names() == std::vector<std::string>{"x", "k"}) && table->num_rows() == 3);
    CHECK(same(values_of(column_of(table, 0)), {1, 2, 2}));
    CHECK((keys_of(ArrowKeys({column_of(table, 1)}, false)) ==
           std::vector<std::string>{"k", "k", "k"}));
    CHECK_THROWS(std::invalid_argument, "a stream that was read already",
                 ArrowStream(given).rest());
  }
  CHECK(live_structs == 0);
  {
    ArrowArrayStream given = source(false, true);
    ArrowStream stream(given);
    for (int64_t i = 0; i < 3; ++i) CHECK(stream.next()->num_rows() == i);
    CHECK_THROWS(std::invalid_argument, "the disk is gone", stream.next());
    CHECK(stream.next() == nullptr);
  }
  CHECK(live_structs == 0);
  ArrowArrayStream failing = source(false, true), without = source(true, false);
  CHECK_THROWS(std::invalid_argument, "the disk is gone", ArrowStream(failing).rest());
  CHECK_THROWS(std::invalid_argument, "the disk is gone", ArrowStream(without).rest());
  {
    ArrowArrayStream unread = source(false, false);
    const ArrowStream stream(unread);
  }
  CHECK(live_structs == 0);
}

TEST(results_are_given_and_released_once) {
  const auto memory = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3, 4, 5, 6});
  {
    const FloatColumns columns = {{"a", "b"}, memory->data(), 3, memory};
    ArrowArrayStream stream;
    export_stream(columns, stream);
    const auto table = ArrowStream(stream).rest();
    CHECK((table->names() == std::vector<std::string>{"a", "b"}));
    CHECK(same(values_of(column_of(table, 1)), {4, 5, 6}));
    CHECK(memory.use_count() > 2);
    // A child that was moved away outlives its parent.
    ArrowArray whole;
    export_array(columns, whole);
    ArrowOwned<ArrowArray> child(*whole.children[1]);
    whole.release(&whole);
    CHECK(whole.release == nullptr && *static_cast<const float*>(child->buffers[1]) == 4);
    ArrowSchema schema;
    export_schema(columns, schema);
    ArrowOwned<ArrowSchema> moved(*schema.children[0]);
    schema.release(&schema);
    CHECK(std::string(moved->name) == "a");
  }
  CHECK(memory.use_count() == 1);
  {
    const FloatColumns one = {{"y"}, memory->data(), 6, memory};
    ArrowArrayStream stream;
    export_stream(one, stream);
    const auto table = ArrowStream(stream).rest();
    CHECK(!table->has_columns() && column_of(table, 0).length == 6);
    export_stream(one, stream);
    stream.release(&stream);
  }
  CHECK(memory.use_count() == 1);
}

TEST(rows_are_sorted_by_slot) {
  std::mt19937 random(3);
  for (const int64_t models : {int64_t{1}, int64_t{50}, int64_t{5000}}) {
    std::vector<int64_t> slots(2000);
    for (int64_t& slot : slots)
      slot = static_cast<int64_t>(random() % static_cast<unsigned>(models + 1)) - 1;
    const RowOrder order(slots.data(), 2000, models);
    CHECK(std::is_sorted(order.slots().begin(), order.slots().end()));
    std::vector<bool> taken(2000);
    std::vector<float> sorted(order.slots().size() * 2);
    for (std::size_t i = 0; i < 2000; ++i) {
      const uint32_t at = order.positions()[i];
      CHECK(!taken[at]);
      taken[at] = true;
      CHECK(slots[i] < 0 ? at >= order.slots().size() : order.slots()[at] == slots[i]);
      if (slots[i] >= 0) {
        sorted[2 * at] = static_cast<float>(i);
        sorted[2 * at + 1] = -static_cast<float>(i);
      }
    }
    std::vector<float> restored(4000);
    order.restore(sorted.data(), 2, 2, restored.data());
    for (std::size_t i = 0; i < 2000; ++i) {
      const float value = slots[i] < 0 ? kNan : static_cast<float>(i);
      CHECK(same({restored[i], restored[2000 + i]}, {value, -value}));
    }
  }
  const int64_t wrong = 3;
  CHECK_THROWS(std::out_of_range, "slots: no such model", RowOrder(&wrong, 1, 3));
}

int main(int argc, char** argv) {
  const int status = run_tests(argc, argv);
  CHECK(live_structs == 0);
  return status;
}
