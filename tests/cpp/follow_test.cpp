// A bank that follows a folder: changes that are told, and what becomes of them. Also runs under
// ThreadSanitizer.
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bank/follower.h"
#include "crc32.h"
#include "errors.h"
#include "head_pages.h"
#include "network.h"

using namespace mlpbank;

namespace {

// A bank that follows a folder: its models lie in memory of others.
struct Followers {
  static constexpr int64_t kModels = 40;
  Architecture architecture{{{1, 1, Activation::none}}};
  Layout layout;
  AlignedBuffer base;
  std::shared_ptr<BatchedWeights> weights;
  std::shared_ptr<Bank> bank;
  uint64_t sequence = 0;

  explicit Followers(LayoutKind kind)
      : layout(architecture, kind),
        base(AlignedBuffer::of_bytes(layout.block_bytes())),
        weights(std::make_shared<BatchedWeights>(0, architecture, kind, Dtype::float32,
                                                 ReadOnly{base.bytes(), 0, nullptr})),
        bank(std::make_shared<Bank>(weights, nullptr, ModelColumns(), 1u << 31)) {}

  // Blocks of new memory in which all models from 0 to kModels - 1 answer `value`, except one.
  std::shared_ptr<AlignedBuffer> segment(float value, int64_t absent = kNoSlot) const {
    const int64_t count = layout.num_blocks(kModels);
    auto made =
        std::make_shared<AlignedBuffer>(AlignedBuffer::of_bytes(count * layout.block_bytes()));
    std::memset(made->bytes(), 0, static_cast<std::size_t>(count * layout.block_bytes()));
    for (int64_t slot = 0; slot < kModels; ++slot) {
      if (slot == absent) continue;
      layout.pack({{&value, nullptr}}, 0, 1, made->bytes() + offset(slot),
                  slot % layout.block_models());
    }
    return made;
  }
  int64_t offset(int64_t slot) const { return slot / layout.block_models() * layout.block_bytes(); }
  Bank::Followed load(int64_t slot, const AlignedBuffer& in) const {
    Bank::Followed change;
    change.slot = change.number = slot;
    change.type = KeyType::number;
    change.record = {std::string("v"), 1, 2.0};
    change.block = in.bytes() + offset(slot);
    return change;
  }
  Bank::Followed removal(int64_t slot, const AlignedBuffer& in) const {
    Bank::Followed change;
    change.is_removal = true;
    change.slot = change.number = slot;
    change.type = KeyType::number;
    change.reuse_count = 1;
    if (layout.block_models() > 1) change.block = in.bytes() + offset(slot);
    return change;
  }
  void follow(const std::vector<Bank::Followed>& changes,
              const std::shared_ptr<AlignedBuffer>& memory) {
    const uint64_t after = sequence;
    sequence += changes.size();
    CHECK(bank->follow(changes, after, sequence, {memory}));
  }
};

// Memory of blocks lives as long as the weights, whatever is followed later.
TEST(followed_blocks_are_kept) {
  for (const LayoutKind kind : kLayouts) {
    Followers f(kind);
    std::weak_ptr<const void> first;
    {
      const auto segment = f.segment(3);
      first = segment;
      f.follow({f.load(0, *segment), f.load(1, *segment)}, segment);
    }
    CHECK(!f.bank->follow({}, 1, 7, {}) && f.bank->sequence() == 2);
    CHECK(f.bank->follow({}, 2, 7, {}) && f.bank->sequence() == 7);
    f.sequence = 7;
    const auto other = f.segment(5);
    f.follow({f.load(1, *other)}, other);
    CHECK(!first.expired() && f.bank->sequence() == 8);
    const BatchedInference inference(f.weights, Engine(1, ""));
    const int64_t slots[] = {0, 1};
    const float x[] = {1, 1};
    float y[2];
    inference.forward_models(slots, 2, x, 1, y, {});
    CHECK(y[0] == (f.layout.block_models() > 1 ? 5 : 3) && y[1] == 5);
    f.bank = nullptr;
    CHECK(!first.expired());
  }
}

// A batch with one change that cannot be changes nothing.
TEST(refused_changes_change_nothing) {
  for (const LayoutKind kind : kLayouts) {
    Followers f(kind);
    const auto segment = f.segment(3), other = f.segment(9, 3);
    std::vector<Bank::Followed> loads;
    for (int64_t slot = 0; slot < 4; ++slot) loads.push_back(f.load(slot, *segment));
    f.follow(loads, segment);
    const uint64_t moment = f.weights->moment();
    auto moved = f.load(1, *other), gap = f.load(7, *other), taken = f.load(9, *other),
         text = f.load(4, *other), empty = f.load(4, *other), block = f.removal(2, *other),
         unknown = f.removal(2, *other), elsewhere = f.removal(2, *other);
    moved.slot = 4;
    taken.slot = 1;
    text.type = KeyType::text;
    empty.block = nullptr;
    block.block = kind == LayoutKind::panel ? other->bytes() : nullptr;
    unknown.number = 30;
    elsewhere.slot = 1;
    const auto twice = f.removal(3, *other);
    for (const auto& bad : {moved, gap, taken, text, empty, block, unknown, elsewhere, twice}) {
      bool is_refused = false;
      try {
        f.bank->follow({f.removal(3, *other), f.load(0, *other), bad}, 4, 99, {other});
      } catch (const std::invalid_argument&) {
        is_refused = true;
      }
      CHECK(is_refused);
      CHECK(f.bank->sequence() == 4 && f.weights->moment() == moment);
      CHECK(f.bank->num_used_slots() == 4 && f.bank->keys().size() == 4);
      CHECK(f.bank->vacant_slots(9).empty() && f.bank->reuse_count(3) == 0);
      CHECK(f.bank->find(KeyView::of(int64_t{4})) == kNoSlot);
      for (int64_t key = 0; key < 4; ++key) {
        CHECK(f.bank->find(KeyView::of(key)) == key);
        float weight = 0, bias = 0;
        f.weights->get(key, {{&weight, &bias}});
        CHECK(weight == 3);
      }
    }
    f.follow({f.removal(3, *other), f.load(0, *other)}, other);
    CHECK(f.bank->find(KeyView::of(int64_t{3})) == kNoSlot && f.bank->keys().size() == 3);
    CHECK(f.bank->vacant_slots(9) == std::vector<int64_t>{3} && f.bank->reuse_count(3) == 1);
  }
}

// Changes that are followed together are seen together: keys and models of one moment.
TEST(followed_changes_are_of_one_moment) {
  for (const LayoutKind kind : kLayouts) {
    Followers f(kind);
    std::atomic<bool> stop{false};
    std::atomic<int64_t> wrong{0}, looks{0}, passed{0}, followed{0};
    const auto reader = [&] {
      const BatchedInference inference(f.weights, Engine(1, ""));
      const Floats x(static_cast<std::size_t>(Followers::kModels), 1.0f);
      Floats y(x.size());
      int64_t last = 0;
      while (!stop) {
        const int64_t least = followed.load();
        const Bank::Guard guard(f.bank);
        const uint64_t moment = f.weights->moment();
        if (moment % 2 != 0) continue;
        std::vector<int64_t> slots;
        int64_t absent = kNoSlot;
        f.bank->at_one_moment([&] {
          slots.clear();
          absent = kNoSlot;
          for (int64_t key = 0; key < Followers::kModels; ++key) {
            const int64_t slot = f.bank->find(KeyView::of(key));
            if (slot == kNoSlot) {
              absent = absent == kNoSlot ? key : -2;
            } else {
              slots.push_back(slot);
            }
          }
        });
        ForwardOptions options;
        options.moment = moment;
        try {
          inference.forward_models(slots.data(), static_cast<int64_t>(slots.size()), x.data(), 1,
                                   y.data(), options);
        } catch (const MomentPassed&) {
          ++passed;
          continue;
        } catch (const ModelNotLoaded&) {
          wrong += f.weights->moment() == moment;
          continue;
        }
        const auto turn = static_cast<int64_t>(y[0]);
        for (std::size_t i = 0; i < slots.size(); ++i) wrong += y[i] != y[0];
        wrong += absent != turn % Followers::kModels || turn < last || turn < least;
        last = turn;
        ++looks;
      }
    };
    // Turn n removes key n % kModels, adds the one before again, and loads all others.
    const auto change = [&](int64_t turn) {
      const int64_t gone = turn % Followers::kModels;
      const auto segment = f.segment(static_cast<float>(turn), gone);
      std::vector<Bank::Followed> changes;
      if (turn > 1) changes.push_back(f.removal(gone, *segment));
      for (int64_t slot = 0; slot < Followers::kModels; ++slot) {
        if (slot != gone || turn == 1) changes.push_back(f.load(slot, *segment));
      }
      if (turn == 1) changes.push_back(f.removal(gone, *segment));
      f.follow(changes, segment);
      followed = turn;
    };
    change(1);
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) threads.emplace_back(reader);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    for (int64_t turn = 2; turn < 2000 || (looks < 300 && std::chrono::steady_clock::now() < end);
         ++turn) {
      change(turn);
      if (turn > 2000) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    stop = true;
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
    CHECK(looks > 0);
  }
}

// A follower with one segment, in which models answer 3.
struct Following : Followers {
  Pages pages;
  std::shared_ptr<Follower> follower = std::make_shared<Follower>(pages.head, bank);
  std::shared_ptr<AlignedBuffer> memory = segment(3);

  explicit Following(LayoutKind kind) : Followers(kind) {
    const int64_t bytes = layout.num_blocks(kModels) * layout.block_bytes();
    std::vector<Bank::Followed> changes = {told(load(0, *memory))};
    CHECK(follower->follow(changes, 0, 1, {{4, {memory->bytes(), bytes, memory}}}));
    pages.head->publish(1);
  }
  // The change as a folder tells it, as the next.
  Bank::Followed told(Bank::Followed change) {
    change.sequence = ++sequence;
    if (change.block != nullptr) {
      change.segment = 4;
      change.offset = change.block - memory->bytes();
      change.checksum = crc32(change.block, static_cast<std::size_t>(layout.block_bytes()));
    }
    return change;
  }
  void tell(const Bank::Followed& change) {
    pages.recent().store(change);
    pages.head->publish(change.sequence);
  }
};

TEST(recent_changes_are_taken_over) {
  for (const LayoutKind kind : kLayouts) {
    Following f(kind);
    CHECK(f.follower->segments() == std::set<int64_t>{4});
    CHECK(f.follower->catch_up(Follower::kNoOwn).up);
    for (int64_t slot = 1; slot < 4; ++slot) f.tell(f.told(f.load(slot, *f.memory)));
    CHECK(f.follower->catch_up(Follower::kNoOwn).up);
    CHECK(f.bank->sequence() == 4 && f.bank->keys().size() == 4);
    const auto hole = f.segment(3, 2);
    std::memcpy(f.memory->bytes(), hole->bytes(),
                static_cast<std::size_t>(f.layout.num_blocks(f.kModels) * f.layout.block_bytes()));
    f.tell(f.told(f.removal(2, *f.memory)));
    CHECK(f.follower->catch_up(Follower::kNoOwn).up && f.bank->sequence() == 5 &&
          f.bank->keys().size() == 3);
    Bank::Followed found;
    CHECK(f.pages.recent().load(4, found) && found.is_checked);
  }
}

// A segment that is added is used, and kept as long as the weights.
TEST(a_segment_that_is_not_known_is_asked_for) {
  for (const LayoutKind kind : kLayouts) {
    Following f(kind);
    const int64_t bytes = f.layout.num_blocks(f.kModels) * f.layout.block_bytes();
    std::weak_ptr<const void> kept;
    {
      const auto other = f.segment(5);
      kept = other;
      std::memcpy(f.memory->bytes(), other->bytes(), static_cast<std::size_t>(bytes));
      Bank::Followed change = f.told(f.load(1, *f.memory));
      change.segment = 6;
      f.tell(change);
      const Follower::Caught caught = f.follower->catch_up(Follower::kNoOwn);
      CHECK(!caught.up && caught.unknown_segment == 6 && f.bank->sequence() == 1);
      f.follower->add_segment(6, {other->bytes(), bytes, other});
      f.follower->add_segment(6, {nullptr, 0, nullptr});  // it is there
    }
    CHECK(f.follower->catch_up(Follower::kNoOwn).up && f.bank->sequence() == 2);
    f.follower = nullptr;
    f.bank = nullptr;
    CHECK(!kept.expired());
    float weight = 0, bias = 0;
    f.weights->get(1, {{&weight, &bias}});
    CHECK(weight == 5);
  }
}

// What is not known to be right changes nothing: then the index is read.
TEST(what_is_wrong_among_recent_changes_changes_nothing) {
  for (const LayoutKind kind : kLayouts) {
    const auto refused = [&](auto spoil, Follower::Own own = Follower::kNoOwn,
                             bool was_checked = false) {
      Following f(kind);
      Bank::Followed change = f.told(f.load(1, *f.memory));
      spoil(f, change);
      f.tell(change);
      if (was_checked) f.pages.recent().tell_checked(change.sequence);  // by another process
      const bool is_done = f.follower->catch_up(own).up;
      CHECK(is_done == (f.bank->sequence() == change.sequence));
      CHECK(f.bank->keys().size() == (is_done ? 2 : 1));
      return !is_done;
    };
    using Change = Bank::Followed&;
    CHECK(!refused([](Following&, Change) {}));
    CHECK(refused([](Following&, Change c) { c.segment = 5; }));
    CHECK(refused([](Following&, Change c) { c.offset += 8; }));
    CHECK(refused([](Following&, Change c) { c.offset = int64_t{1} << 40; }));
    CHECK(refused([](Following&, Change c) { c.offset = -64; }));
    CHECK(refused([](Following&, Change c) { c.checksum ^= 1; }));
    CHECK(!refused([](Following&, Change c) { c.checksum ^= 1; }, {2, 2}));  // its own
    CHECK(!refused([](Following&, Change c) { c.checksum ^= 1; }, Follower::kNoOwn, true));
    CHECK(refused([](Following&, Change c) { c.type = KeyType::text; }));
    CHECK(refused([](Following&, Change c) { c.slot = 9; }));
    CHECK(refused([](Following&, Change c) { c.is_removal = true; }));
    CHECK(refused([](Following&, Change c) { c.segment = -1; }));
    CHECK(refused([](Following& f, Change c) { c = f.told(c); }));  // one is missing before it
    CHECK(refused([](Following&, Change c) { c.sequence += RecentChanges::kEntries; }));
  }
}

}  // namespace

int main(int argc, char** argv) { return run_tests(argc, argv); }
