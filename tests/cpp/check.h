// TEST, CHECK and a main() for the Python-free checks.
//
//   TEST(name) { CHECK(1 + 1 == 2); }
//
// Each file is a program of its own that runs its tests in the order in which they are written and
// exits with 1 at the first check that fails. Arguments choose the tests whose name contains one;
// those that begin with a minus leave tests out.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                        \
    }                                                                      \
  } while (false)

// Checks the error's message. An error of another type ends the program.
#define CHECK_THROWS(type, message, expression)                                              \
  do {                                                                                       \
    std::string got = "nothing was thrown";                                                  \
    try {                                                                                    \
      (void)(expression);                                                                    \
    } catch (const type& error) {                                                            \
      got = error.what();                                                                    \
    }                                                                                        \
    if (got != (message)) {                                                                  \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #expression, got.c_str()); \
      std::exit(1);                                                                          \
    }                                                                                        \
  } while (false)

struct Test {
  const char* name;
  void (*run)();

  static std::vector<Test>& all() {
    static std::vector<Test> tests;
    return tests;
  }
  static bool add(const char* name, void (*run)()) {
    all().push_back({name, run});
    return true;
  }
};

#define TEST(name)                                                                  \
  static void name();                                                               \
  [[maybe_unused]] static const bool is_registered_##name = Test::add(#name, name); \
  static void name()

inline bool is_chosen(const char* name, int argc, char** argv) {
  bool any = false, named = false;
  for (int i = 1; i < argc; ++i) {
    const bool left_out = argv[i][0] == '-';
    const bool contains = std::strstr(name, argv[i] + left_out) != nullptr;
    if (left_out && contains) return false;
    any = any || !left_out;
    named = named || contains;
  }
  return named || !any;
}

inline int run_tests(int argc, char** argv) {
  int count = 0;
  for (const Test& test : Test::all()) {
    if (!is_chosen(test.name, argc, argv)) continue;
    std::fprintf(stderr, "%s\n", test.name);
    test.run();
    ++count;
  }
  std::printf("%d tests passed\n", count);
  return count > 0 ? 0 : 1;
}
