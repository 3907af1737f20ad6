// What bank files rest on, without Python: key tables, weights over read-only memory, snapshots. Exits with 1 at the first
// check that fails.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "errors.h"
#include "keys.h"
#include "network.h"

namespace {

using namespace mlpbank;

void test_string_keys() {
  for (const int64_t count : {0, 1, 2, 3, 100, 5000}) {
    std::vector<uint64_t> offsets = {0};
    std::string bytes;
    for (int64_t i = 0; i < count; ++i) {
      bytes += i == 0 ? std::string() : "key-" + std::to_string(i * i);
      offsets.push_back(bytes.size());
    }
    const StringKeys keys = {count, offsets.data(), bytes.data(), bytes.size()};
    std::vector<uint32_t> data(static_cast<std::size_t>(num_slots(count)));
    CHECK(fill_slots(keys, data.data()) == -1);
    const Slots slots = {data.data(), data.size()};
    for (int64_t i = 0; i < count; ++i) {
      std::string_view key;
      CHECK(keys.get(static_cast<uint64_t>(i), key) && find_key(keys, slots, key) == i);
    }
    CHECK(find_key(keys, slots, "key-") == -1 && find_key(keys, slots, std::string(1000, 'x')) == -1);
    CHECK((find_key(keys, slots, "") == 0) == (count > 0));
  }
  const std::vector<uint64_t> offsets = {0, 1, 2, 3};
  std::vector<uint32_t> data(8);
  CHECK(fill_slots(StringKeys{3, offsets.data(), "aba", 3}, data.data()) == 2);
}

void test_int_keys() {
  std::vector<int64_t> values = {0, -1, INT64_MAX, INT64_MIN, 7};
  for (int64_t i = 100; i < 4000; ++i) values.push_back(i * 1024);
  const IntKeys keys = {static_cast<int64_t>(values.size()), values.data()};
  std::vector<uint32_t> data(static_cast<std::size_t>(num_slots(keys.count)));
  CHECK(fill_slots(keys, data.data()) == -1);
  for (std::size_t i = 0; i < values.size(); ++i) {
    CHECK(find_key(keys, {data.data(), data.size()}, values[i]) == static_cast<int64_t>(i));
  }
  CHECK(find_key(keys, {data.data(), data.size()}, int64_t{8}) == -1);
}

// Tables of a damaged file: a search stays inside and ends.
void test_damaged_tables() {
  const std::string bytes = "abc";
  for (int round = 0; round < 20000; ++round) {
    std::vector<uint64_t> offsets(4);
    for (uint64_t& offset : offsets) offset = random_below(3) ? static_cast<uint64_t>(random_below(5)) : generator()();
    std::vector<uint32_t> data(8);  // often without an empty slot
    for (uint32_t& slot : data) slot = random_below(4) ? static_cast<uint32_t>(random_below(6)) : generator()();
    const int64_t found = find_key(StringKeys{3, offsets.data(), bytes.data(), bytes.size()}, {data.data(), 8}, "b");
    CHECK(found >= -1 && found < 3);
    const std::vector<int64_t> values = {1, 2, 3};
    const int64_t position = find_key(IntKeys{3, values.data()}, {data.data(), 8}, int64_t{2});
    CHECK(position == -1 || position == 1);
  }
}

Floats unpacked(const BatchedWeights& weights, int64_t model) {
  std::vector<Floats> parts;
  std::vector<float*> weight, bias;
  for (const LayerSpec& layer : weights.architecture().layers()) {
    parts.emplace_back(layer.input_size * layer.output_size);
    parts.emplace_back(layer.output_size);
  }
  for (std::size_t i = 0; i < parts.size(); i += 2) {
    weight.push_back(parts[i].data());
    bias.push_back(parts[i + 1].data());
  }
  weights.get(model, weight, bias);
  Floats all;
  for (const Floats& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

// Memory of exactly so many bytes, so that a sanitizer sees what is read past its end.
std::shared_ptr<Bytes> exactly(int64_t bytes) {
  const auto size = static_cast<std::size_t>(bytes);
  std::shared_ptr<Bytes> memory(static_cast<Bytes*>(std::aligned_alloc(64, size)), std::free);
  std::fill_n(memory.get(), size, Bytes{0});
  return memory;
}

void test_snapshot_and_read_only_base() {
  for (const LayoutKind kind : kLayouts) {
    for (const Dtype dtype : {Dtype::float32, Dtype::float16, Dtype::bfloat16, Dtype::int8}) {
      for (const int64_t models : {1, 5, 16, 35}) {
        const Network net({3, 17, 1}, models);
        const auto weights = std::make_shared<BatchedWeights>(models, net.architecture, kind, dtype);
        weights->load(0, models, net.parameters.views(), 1);
        std::vector<Floats> before;
        for (int64_t m = 0; m < models; ++m) before.push_back(unpacked(*weights, m));

        // Half of the models, the last first, as they were when the snapshot was taken.
        std::vector<int64_t> chosen;
        for (int64_t m = models - 1; m >= 0; m -= 2) chosen.push_back(m);
        const auto count = static_cast<int64_t>(chosen.size());
        const BatchedWeights::Snapshot snapshot(weights);
        weights->load(0, models, net.parameters.negated().views(), 1);
        weights->unload(0);
        const std::shared_ptr<Bytes> memory = exactly(snapshot.copied_bytes(count));
        snapshot.copy(chosen.data(), count, memory.get());

        const ReadOnly base = {memory.get(), snapshot.copied_bytes(count), memory};
        const auto opened = std::make_shared<BatchedWeights>(count, net.architecture, kind, dtype, base);
        CHECK(opened->num_models() == count && opened->data() == memory.get());
        for (int64_t i = 0; i < count; ++i) CHECK(unpacked(*opened, i) == before[static_cast<std::size_t>(chosen[i])]);
        const Floats x = net.inputs(count, 20);
        const Floats y = forward(BatchedInference(opened, Engine(1, "")), x, 20);

        // What replaces a model lies elsewhere; the base is never written to, and its models stay as they are.
        const Floats kept(reinterpret_cast<float*>(memory.get()),
                          reinterpret_cast<float*>(memory.get()) + base.nbytes / 4);
        opened->grow(20);
        opened->load(0, 1, net.parameters.negated().views(), 1);
        opened->load(count, 20 < models ? 20 : models, net.parameters.views(), 1);
        for (int round = 0; round < 50; ++round) opened->load(0, 1, net.parameters.negated().views(), 1);
        opened->unload(0);
        CHECK_THROWS(ModelNotLoaded, "model 0: no weights were loaded", (unpacked(*opened, 0), 0));
        for (int64_t i = 1; i < count; ++i) CHECK(unpacked(*opened, i) == before[static_cast<std::size_t>(chosen[i])]);
        CHECK(std::memcmp(kept.data(), memory.get(), static_cast<std::size_t>(base.nbytes)) == 0);
      }
    }
  }
  CHECK_THROWS(std::invalid_argument, "base: expected 256 bytes, 64-byte aligned, got 64",
               BatchedWeights(2, mlp({1, 1}), LayoutKind::panel, Dtype::float32, ReadOnly{nullptr, 64, nullptr}));
}

void test_a_model_that_is_not_there_cannot_be_copied() {
  const Network net({2, 3}, 4);
  for (const LayoutKind kind : kLayouts) {
    const auto weights = net.weights(kind);
    weights->unload(2);
    const BatchedWeights::Snapshot snapshot(weights);
    const std::shared_ptr<Bytes> memory = exactly(snapshot.copied_bytes(1));
    for (const int64_t model : {int64_t{2}, int64_t{100}, int64_t{-1}}) {
      CHECK_THROWS(ModelNotLoaded, "model " + std::to_string(model) + ": no weights were loaded",
                   (snapshot.copy(&model, 1, memory.get()), 0));
    }
  }
}

}  // namespace

int main() {
  test_string_keys();
  test_int_keys();
  test_damaged_tables();
  test_snapshot_and_read_only_base();
  test_a_model_that_is_not_there_cannot_be_copied();
  std::printf("all checks passed\n");
}
