// Files below their keys: MappedPages (which pages are asked for, and which were), key tables that
// ask, and checksums.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "bank/keys.h"
#include "bank/slot_map.h"
#include "crc32.h"
#include "mapped_pages.h"
#include "network.h"

namespace {

using namespace mlpbank;

// A mapped file of so many pages.
class Mapping {
 public:
  explicit Mapping(int64_t pages) : bytes_(pages * page()), file_(std::tmpfile()) {
    CHECK(ftruncate(fileno(file_), bytes_) == 0);
    data_ = static_cast<char*>(
        mmap(nullptr, static_cast<std::size_t>(bytes_), PROT_READ, MAP_SHARED, fileno(file_), 0));
    CHECK(data_ != MAP_FAILED);
  }
  ~Mapping() {
    munmap(data_, static_cast<std::size_t>(bytes_));
    std::fclose(file_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  static int64_t page() { return sysconf(_SC_PAGESIZE); }
  const char* at(int64_t page_number) const { return data_ + page_number * page(); }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_;
  std::FILE* file_;
  char* data_;
};

TEST(each_page_is_asked_for_once) {
  const Mapping file(200);
  const int64_t page = Mapping::page();
  MappedPages pages(file.at(0), file.bytes());
  CHECK(pages.remaining() == 200 * page);
  pages.request(file.at(3), 1);
  CHECK(pages.remaining() == 199 * page);
  pages.request(file.at(3) + page - 1, 2);  // the end of it, and the next one
  CHECK(pages.remaining() == 198 * page);
  pages.request(file.at(3), 2 * page);
  CHECK(pages.remaining() == 198 * page);
  pages.request(file.at(60), 70 * page);  // over words of the bitmap
  CHECK(pages.remaining() == 128 * page);
  pages.request_all();
  CHECK(pages.remaining() == 0);
}

TEST(memory_that_begins_and_ends_inside_of_pages) {
  const Mapping file(10);
  const int64_t page = Mapping::page();
  MappedPages pages(file.at(2) + 64, 3 * page);
  CHECK(pages.remaining() == 4 * page);
  pages.request(file.at(0), page);      // before it
  pages.request(file.at(6), 4 * page);  // behind it
  pages.request(file.at(4), 0);         // nothing
  pages.request(nullptr, 0);
  CHECK(pages.remaining() == 4 * page);
  pages.request(file.at(5), 100 * page);  // its last page, and others
  CHECK(pages.remaining() == 3 * page);
  MappedPages none(file.at(1), 0);
  none.request(file.at(1), 10);
  none.request_all();
  CHECK(none.remaining() == 0);
}

TEST(many_threads_ask_for_the_same_pages) {
  const Mapping file(1000);
  MappedPages pages(file.at(0), file.bytes());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t i = 0; i + 3 <= 1000; ++i) {
        pages.request(file.at((i * 7 + t * 250) % 998), 3 * Mapping::page());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(pages.remaining() == 0);
}

// Tables in mapped files ask for their pages before they look up: here for those of a few keys
// among many, from contents that may be damaged.
TEST(tables_of_mapped_files) {
  constexpr int64_t kCount = 100000;
  const KeyHash hash = KeyHash::random();
  std::vector<int64_t> values(kCount);
  std::iota(values.begin(), values.end(), int64_t{-7});
  std::vector<uint64_t> offsets = {0};
  std::string bytes;
  for (int64_t i = 0; i < kCount; ++i) {
    bytes += "key-" + std::to_string(i);
    offsets.push_back(bytes.size());
  }
  std::vector<uint32_t> number_buckets(static_cast<std::size_t>(num_buckets(kCount)));
  std::vector<uint32_t> text_buckets(number_buckets);
  const IntKeys numbers = {kCount, values.data()};
  const StringKeys texts = {kCount, offsets.data(), bytes.data(), bytes.size()};
  fill_buckets(numbers, hash, number_buckets.data());
  fill_buckets(texts, hash, text_buckets.data());
  for (const bool damaged : {false, true}) {
    if (damaged) {
      for (uint64_t& offset : offsets) offset = random_below(3) ? generator()() : offset;
      for (uint32_t& bucket : text_buckets) bucket = random_below(3) ? bucket : generator()();
      for (uint32_t& bucket : number_buckets) bucket = random_below(3) ? bucket : generator()();
    }
    const SlotMap by_number(std::make_shared<const KeyTable>(
        numbers, Buckets{number_buckets.data(), number_buckets.size()}, hash, nullptr, true));
    const SlotMap by_text(std::make_shared<const KeyTable>(
        KeyType::text, texts, Buckets{text_buckets.data(), text_buckets.size()}, hash, nullptr,
        true));
    for (int round = 0; round < 2000; ++round) {
      std::vector<std::string> names;
      std::vector<KeyView> asked_numbers, asked_texts;
      for (int i = 0; i < 5; ++i)
        names.push_back("key-" + std::to_string(random_below(kCount + 9)));
      for (const std::string& name : names) {
        asked_texts.push_back(KeyView::of(name));
        asked_numbers.push_back(KeyView::of(std::stoll(name.substr(4)) - 7));
      }
      int64_t slots[2][5];
      by_text.find_many(asked_texts.data(), 5, slots[0]);
      by_number.find_many(asked_numbers.data(), 5, slots[1]);
      for (std::size_t i = 0; i < 5; ++i) {
        const int64_t n = asked_numbers[i].number + 7, expected = n < kCount ? n : kNoSlot;
        for (const auto& found : slots) {
          CHECK(found[i] == expected || (damaged && found[i] == kNoSlot));
        }
      }
    }
  }
}

// "123456789" has the check value of the catalogue of CRCs.
TEST(checksums_are_alike_by_folding_and_by_tables) {
  const std::string digits = "123456789";
  const auto* const text = reinterpret_cast<const uint8_t*>(digits.data());
  CHECK(crc32(text, 9) == 0xcbf43926u && crc32_by_tables(text, 9) == 0xcbf43926u);
  std::vector<uint8_t> data(1100);
  uint32_t state = 1;
  for (uint8_t& byte : data)
    byte = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24);
  for (std::size_t size = 0; size <= 1000; ++size) {
    for (const std::size_t start : {0, 1, 13}) {
      const uint8_t* const from = data.data() + start;
      const uint32_t whole = crc32(from, size);
      CHECK(whole == crc32_by_tables(from, size));
      const std::size_t first = size * 2 / 3;
      CHECK(whole == crc32(from + first, size - first, crc32(from, first)));
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return run_tests(argc, argv); }
