// Helpers on threads of the standard library, for builds without OpenMP. ThreadSanitizer sees
// through these only, so its builds have them too.
#include <exception>
#include <limits>
#include <thread>

#include "engine/team.h"

namespace mlpbank {

const char* const kTeamKind = "standard library";

int start_team(int helpers, void (*serve)(void*), void* context) {
  int started = 0;
  try {
    for (; started < helpers; ++started) std::thread(serve, context).detach();
  } catch (const std::exception&) {  // system_error or bad_alloc
  }
  return started;
}

int team_limit() { return std::numeric_limits<int>::max(); }

}  // namespace mlpbank
