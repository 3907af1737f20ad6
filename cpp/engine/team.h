// The threads that helpers run on: one OpenMP team (team_openmp.cpp) or plain threads
// (team_threads.cpp). CMake compiles one of the two, as MLPBANK_OPENMP says.
#pragma once

namespace mlpbank {

// Starts up to `helpers` threads that run serve(context), which never returns; as many as the
// system grants. Returns how many started. May throw std::bad_alloc before any has started. They
// inherit the signal mask of the calling thread.
int start_team(int helpers, void (*serve)(void* context), void* context);

// The most threads that the calling thread may use together with helpers, itself included. 1 where
// its work is a part of what another library has shared out.
int team_limit();

// "OpenMP" or "standard library".
extern const char* const kTeamKind;

}  // namespace mlpbank
