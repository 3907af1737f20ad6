// Calls by slot: whatever the mixture of rows and models, each row comes out as it does alone.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "engine/engine.h"
#include "engine/grouping.h"
#include "engine/inference.h"
#include "errors.h"
#include "four_cpus.h"
#include "network.h"

namespace {

using namespace mlpbank;
using Slots = std::vector<int64_t>;

Slots shuffled(Slots slots) {
  std::shuffle(slots.begin(), slots.end(), generator());
  return slots;
}

Slots uniform(int64_t models, int64_t entries) {
  Slots slots(static_cast<std::size_t>(entries));
  for (int64_t& slot : slots) slot = random_below(models);
  return slots;
}

// Model k has a share of 1 / (k + 1) of the entries.
Slots zipf(int64_t models, int64_t entries) {
  Slots slots;
  for (int64_t m = 0; m < models; ++m) slots.insert(slots.end(), std::size_t(entries / (m + 1)), m);
  return shuffled(slots);
}

// Every model so many times, in order.
Slots each(int64_t models, int64_t times) {
  Slots slots;
  for (int64_t m = 0; m < models; ++m) slots.insert(slots.end(), std::size_t(times), m);
  return slots;
}

// Some models of each tile, with one entry or some.
Slots some_lanes(int64_t models, int64_t lanes) {
  Slots slots;
  for (int64_t m = 0; m < models; ++m) {
    if (m % 16 < lanes) slots.insert(slots.end(), std::size_t(1 + random_below(20)), m);
  }
  return slots;
}

std::vector<Slots> mixtures(int64_t models) {
  Slots sorted = uniform(models, 700), huge = each(models, 1);
  std::sort(sorted.begin(), sorted.end());
  huge.insert(huge.end(), 3000, models / 2);
  return {{models - 1},
          each(models, 1),
          shuffled(each(models, 1)),
          each(models, 7),
          shuffled(each(models, 17)),
          uniform(models, models / 10 + 1),
          uniform(models, 900),
          sorted,
          Slots(5000, models / 3),
          zipf(models, 400),
          some_lanes(models, 1),
          some_lanes(models, 3),
          shuffled(some_lanes(models, 11)),
          shuffled(huge)};
}

Floats by_slot(const BatchedInference& inference, const Slots& slots, const Floats& x, int64_t rows,
               int threads) {
  const auto entries = static_cast<int64_t>(slots.size());
  Floats y(slots.size() *
           static_cast<std::size_t>(rows * inference.weights().architecture().output_size()));
  inference.forward_models(slots.data(), entries, x.data(), rows, y.data(),
                           {threads, Missing::error});
  return y;
}

// Each entry in a call of its own.
Floats one_by_one(const BatchedInference& inference, const Slots& slots, const Floats& x,
                  int64_t rows) {
  const Architecture& architecture = inference.weights().architecture();
  const auto in = rows * architecture.input_size(), out = rows * architecture.output_size();
  Floats y(slots.size() * static_cast<std::size_t>(out));
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const auto entry = static_cast<int64_t>(i);
    inference.forward_models(&slots[i], 1, x.data() + entry * in, rows, y.data() + entry * out,
                             {1, Missing::error});
  }
  return y;
}

std::shared_ptr<BatchedWeights> weights_of(const Network& net, LayoutKind kind, Dtype dtype) {
  auto weights = std::make_shared<BatchedWeights>(net.models, net.architecture, kind, dtype);
  weights->load(0, net.models, net.parameters.views(), 2);
  return weights;
}

TEST(every_mixture_gives_the_bits_of_single_calls) {
  const std::vector<int64_t> architectures[] = {{4, 8, 2}, {5, 16, 8, 1}, {10, 8, 1},
                                                {1, 1},    {17, 19, 3},   {32, 64, 64, 1}};
  for (const std::string& isa : available_isas()) {
    for (const auto& sizes : architectures) {
      const Network net(sizes, 40 + random_below(60), random_below(2) ? "tanh" : "relu");
      const auto dtype = static_cast<Dtype>(random_below(kDtypes));
      const BatchedInference panel(weights_of(net, LayoutKind::panel, dtype), Engine(0, isa));
      const BatchedInference lane(weights_of(net, LayoutKind::lane, dtype), Engine(0, isa));
      for (const Slots& slots : mixtures(net.models)) {
        const int64_t rows = random_below(4) == 0 ? 1 + random_below(60) : 1;
        if (static_cast<int64_t>(slots.size()) * rows > 6000) continue;
        const Floats x = net.inputs(static_cast<int64_t>(slots.size()), rows);
        const Floats expected = one_by_one(panel, slots, x, rows);
        for (const BatchedInference* inference : {&panel, &lane}) {
          for (const int threads : {1, 4}) {
            CHECK(same_bits(by_slot(*inference, slots, x, rows, threads), expected));
          }
        }
      }
    }
  }
}

TEST(rows_are_right) {
  for (const LayoutKind kind : kLayouts) {
    const Network net({5, 16, 8, 1}, 50);
    const BatchedInference inference(net.weights(kind), Engine(0, ""));
    for (const Slots& slots : mixtures(net.models)) {
      const Floats x = net.inputs(static_cast<int64_t>(slots.size()), 1);
      const Floats y = by_slot(inference, slots, x, 1, 2);
      std::vector<double> expected, error;
      for (std::size_t i = 0; i < slots.size(); ++i) {
        reference(net, slots[i], x.data() + 5 * i, expected, error);
        CHECK(std::abs(y[i] - expected[0]) <= error[0]);
      }
    }
  }
}

TEST(grouping) {
  // Numbers are sorted 11 bits at a time.
  for (const int64_t num_models :
       {1, 2, 255, 256, 257, 2047, 2048, 2049, 70000, 1 << 22, (1 << 22) + 1}) {
    for (const int64_t entries : {0, 1, 5, 300, 2000}) {
      for (const int64_t block_models : {1, 16}) {
        std::vector<int64_t> models(static_cast<std::size_t>(entries));
        for (int64_t& model : models) model = random_below(num_models);
        for (int64_t i = 0; i < entries; i += 7)
          models[static_cast<std::size_t>(i)] = i % 2 ? 0 : num_models - 1;
        const int64_t max_entries = 1 + random_below(40);
        const int threads = 1 + static_cast<int>(random_below(4));
        Grouping grouping;
        grouping.group(models.data(), entries,
                       {num_models, block_models, max_entries, 1000, threads});
        // A stable sort: by model, and by position among the entries of one model.
        std::vector<int64_t> expected(models.size());
        for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = static_cast<int64_t>(i);
        const auto model_of = [&](int64_t entry) {
          return models[static_cast<std::size_t>(entry)];
        };
        std::sort(expected.begin(), expected.end(), [&](int64_t a, int64_t b) {
          return model_of(a) != model_of(b) ? model_of(a) < model_of(b) : a < b;
        });
        for (int64_t i = 0; i < entries; ++i) {
          CHECK(grouping.entry(i) == expected[static_cast<std::size_t>(i)]);
          CHECK(grouping.slot(i) == model_of(grouping.entry(i)));
        }
        // Groups cover everything, each within one block and no longer than allowed.
        int64_t position = 0;
        for (const Group& group : grouping.groups()) {
          CHECK(group.begin == position && group.end > group.begin);
          CHECK(group.end - group.begin <= max_entries);
          for (; position < group.end; ++position) {
            CHECK(model_of(expected[static_cast<std::size_t>(position)]) / block_models ==
                  group.block);
          }
        }
        CHECK(position == entries);
      }
    }
  }
  const int64_t models[] = {3, 0, -1, 9};
  Grouping grouping;
  CHECK_THROWS(std::out_of_range, "models[2]: expected 0 to 3, got -1",
               (grouping.group(models, 4, {4, 1, 10, 8, 1}), 0));
}

// Many short entries for few models are sorted stretch by stretch.
TEST(grouping_in_stretches) {
  for (const int64_t num_models : {2, 500, 1365, 1366, 10922}) {
    for (const int64_t block_models : {1, 16}) {
      const int64_t entries = num_models <= 1365 ? 200001 : 600001;
      const int64_t max_entries = 1 + random_below(400);
      std::vector<int64_t> models(static_cast<std::size_t>(entries));
      for (int64_t& model : models) model = random_below(num_models);
      models[0] = num_models - 1, models[1] = 0;  // they descend
      Grouping grouping;
      grouping.group(models.data(), entries, {num_models, block_models, max_entries, 24, 2});
      CHECK(grouping.in_stretches());
      std::vector<char> seen(models.size());
      int64_t position = 0;
      for (const Group& group : grouping.groups()) {
        CHECK(group.begin == position && group.end > group.begin);
        CHECK(group.end - group.begin <= max_entries);
        for (; position < group.end; ++position) {
          const int64_t entry = grouping.entry(position);
          const auto at = static_cast<std::size_t>(entry);
          CHECK(!seen.at(at));
          seen[at] = 1;
          CHECK(grouping.slot(position) == models[at]);
          CHECK(models[at] / block_models == group.block);
          if (position == group.begin) continue;
          // In a stretch, so in a group, slots ascend, and entries of one slot.
          const int64_t before = grouping.entry(position - 1);
          const int64_t slot_before = models[static_cast<std::size_t>(before)];
          CHECK(slot_before < models[at] || (slot_before == models[at] && before < entry));
        }
      }
      CHECK(position == entries);
    }
  }
}

// So many entries are sorted in parts, and with few models in stretches.
TEST(many_entries) {
  for (const int64_t models : {3, 500, 3000, 40000}) {
    const Network net({3, 2}, models);
    const Slots random = uniform(models, 150000);
    const Floats x = net.inputs(150000, 1);
    Floats expected;
    for (const LayoutKind kind : kLayouts) {
      const BatchedInference inference(net.weights(kind), Engine(0, ""));
      if (expected.empty()) expected = one_by_one(inference, random, x, 1);
      for (const int threads : {1, 3}) {
        CHECK(same_bits(by_slot(inference, random, x, 1, threads), expected));
      }
      for (const std::size_t wrong : {std::size_t{5}, std::size_t{149999}}) {
        Slots slots = random;
        slots[wrong] = models, slots[149999] = -7;
        const std::string value = wrong == 5 ? std::to_string(models) : "-7";
        const std::string message = "models[" + std::to_string(wrong) + "]: expected 0 to " +
                                    std::to_string(models - 1) + ", got " + value;
        CHECK_THROWS(std::out_of_range, message, (by_slot(inference, slots, x, 1, 2), 0));
        std::sort(slots.begin(), slots.end() - 1);
        slots[149999] = models;
        const auto first = std::find(slots.begin(), slots.end(), models) - slots.begin();
        CHECK_THROWS(std::out_of_range,
                     "models[" + std::to_string(first) + "]: expected 0 to " +
                         std::to_string(models - 1) + ", got " + std::to_string(models),
                     (by_slot(inference, slots, x, 1, 2), 0));
      }
    }
  }
}

// In a stretch some models of a tile have a few rows, which it computes side by side, and others
// many, which are gathered together or, where they are more than that, by themselves.
TEST(many_entries_of_few_and_of_many_rows) {
  const int64_t models = 1000, entries = 70000;
  const Network net({4, 8, 2}, models);
  const BatchedInference panel(net.weights(LayoutKind::panel), Engine(0, ""));
  const BatchedInference lane(net.weights(LayoutKind::lane), Engine(0, ""));
  for (const int64_t often : {1, 20, 200}) {
    Slots slots = uniform(models, entries);
    for (int64_t& slot : slots)
      if (random_below(10) != 0) slot = random_below(often) * (models / often);
    const Floats x = net.inputs(entries, 1);
    const Floats expected = one_by_one(panel, slots, x, 1);
    CHECK(same_bits(by_slot(panel, slots, x, 1, 3), expected));
    CHECK(same_bits(by_slot(lane, slots, x, 1, 3), expected));
  }
}

// Whichever thread comes first to a slot that does not exist.
TEST(the_first_wrong_slot_of_many_is_named) {
  const Network net({3, 2}, 100);
  const BatchedInference inference(net.weights(LayoutKind::panel), Engine(0, ""));
  Slots slots = uniform(100, 300000);
  slots[100000] = slots[140000] = 100;
  const Floats x = net.inputs(300000, 1);
  for (int turn = 0; turn < 20; ++turn) {
    CHECK_THROWS(std::out_of_range, "models[100000]: expected 0 to 99, got 100",
                 (by_slot(inference, slots, x, 1, 2), 0));
  }
}

// In stretches, too, the first missing model is the first in the caller's order, and the rows of
// others are as ever where it may be missing.
TEST(missing_models_of_many_entries) {
  for (const LayoutKind kind : kLayouts) {
    const Network net({3, 2}, 100);
    const auto weights = net.weights(kind);
    const BatchedInference inference(weights, Engine(0, ""));
    const Slots slots = uniform(100, 150000);
    const Floats x = net.inputs(150000, 1);
    Floats expected = by_slot(inference, slots, x, 1, 2);
    for (const int64_t slot : {slots[7], slots[70000]}) weights->unload(slot);
    const auto is_missing = [&](int64_t slot) { return slot == slots[7] || slot == slots[70000]; };
    const auto first = std::find_if(slots.begin(), slots.end(), is_missing);
    CHECK_THROWS(ModelNotLoaded, "model " + std::to_string(*first) + ": no weights were loaded",
                 (by_slot(inference, slots, x, 1, 2), 0));
    Floats y(expected.size());
    inference.forward_models(slots.data(), 150000, x.data(), 1, y.data(), {2, Missing::nan});
    for (std::size_t i = 0; i < y.size(); ++i) {
      if (is_missing(slots[i / 2])) {
        CHECK(std::isnan(y[i]));
      } else {
        CHECK(y[i] == expected[i]);
      }
    }
  }
}

// A twin belongs to one revision of its tile.
TEST(loads_after_calls_by_slot) {
  const Network net({4, 8, 2}, 40);
  const Parameters other = net.parameters.negated();
  Network negated = net;
  negated.parameters = other;
  const Slots slots = some_lanes(40, 2);
  const Floats x = net.inputs(static_cast<int64_t>(slots.size()), 1);
  const auto weights = net.weights(LayoutKind::lane);
  const BatchedInference inference(weights, Engine(1, ""));
  const auto expected = [&](const Network& network) {
    return by_slot({network.weights(LayoutKind::panel), Engine(1, "")}, slots, x, 1, 1);
  };
  for (int turn = 0; turn < 10; ++turn) {
    const Network& now = turn % 2 == 0 ? net : negated;
    weights->load(0, 40, now.parameters.views(), 1);
    if (turn == 5) weights->grow(100);
    CHECK(same_bits(by_slot(inference, slots, x, 1, 1), expected(now)));
  }
}

}  // namespace

int main(int argc, char** argv) {
  use_four_cpus();
  return run_tests(argc, argv);
}
