// Looking up the names that users write ("tanh", "float16"), and the error for others.
#pragma once

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

namespace mlpbank {

// 'tanh', 'relu'
inline std::string quoted_list(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "'" : ", '") + name + "'";
  return list;
}

// Where `name` is among `names`. Throws std::invalid_argument; `what` is what the names stand for.
inline std::size_t index_of_name(const char* what, const std::vector<std::string>& names,
                                 const std::string& name) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found != names.end()) return static_cast<std::size_t>(found - names.begin());
  throw std::invalid_argument(std::string(what) + ": expected one of " + quoted_list(names) +
                              ", got '" + name + "'");
}

}  // namespace mlpbank
