// RecentChanges: the last changes of a folder, in pages behind its head that all processes share.
//
// A follower reads them there in a fraction of the time that the index takes. The index is the
// truth: what is not here, or no longer, or not whole, is read there.
//
// The entry of a change lies at its number modulo kEntries. Only the writer whose turn it is stores
// entries, for all changes that it is about to commit. So when the head tells of a change, its
// entry is that of this change or none: what a writer left who did not commit was stored over. A
// follower only reads entries of changes that were committed since it mapped the pages; of what a
// stopped machine has left there nothing is believed.
//
// All processes share the pages of a block, too. So one that has compared a block with its checksum
// says so in the entry, and the others need not read it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "bank/bank.h"

namespace mlpbank {

class RecentChanges {
 public:
  static constexpr int64_t kEntries = 1024, kEntryBytes = 128;

  // `words` are zeros or what others have stored there, or null: then nothing is kept.
  RecentChanges(uint64_t* words, bool is_writable)
      : words_(reinterpret_cast<Word*>(words)), is_writable_(is_writable) {}

  // By the writer whose turn it is, for each change before it is committed. A change that does not
  // fit into an entry, or is none of a model, is removed.
  void store(const Bank::Followed& change);
  void remove(uint64_t sequence);
  // False: it is not here. A key that is a tuple has the type kTuple without its parts.
  bool load(uint64_t sequence, Bank::Followed& change) const;
  // Tells others that the block of a change that was loaded here is what was written.
  void tell_checked(uint64_t sequence) const;

 private:
  using Word = std::atomic<uint64_t>;
  static_assert(sizeof(Word) == 8 && Word::is_always_lock_free, "others see the words as they are");
  static constexpr std::size_t kWords = kEntryBytes / 8;
  using Entry = std::array<uint64_t, kWords>;

  Word* entry(uint64_t sequence) const { return words_ + sequence % kEntries * kWords; }

  Word* const words_;
  const bool is_writable_;
};

}  // namespace mlpbank
