// cpu_budget() of threads.h: what the environment, the affinity mask and cgroups allow.
#if defined(__linux__)
#  include <sched.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>

#include "engine/threads.h"

namespace mlpbank {
namespace {

int positive_int(const std::string& text) {  // 0 if it is none
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  return end != text.c_str() && *end == '\0' && value > 0 && value <= 1 << 20
             ? static_cast<int>(value)
             : 0;
}

int own_variable() {
  const char* text = std::getenv("MLPBANK_NUM_THREADS");
  if (text == nullptr || *text == '\0') return 0;
  if (const int n = positive_int(text)) return n;
  throw std::invalid_argument(
      std::string("MLPBANK_NUM_THREADS: expected a positive integer, got '") + text + "'");
}

int openmp_variable() {  // may be a list, "4,2": one number for each nesting level
  const char* text = std::getenv("OMP_NUM_THREADS");
  if (text == nullptr) return 0;
  const std::string list = text;
  return positive_int(list.substr(0, list.find(',')));
}

int affinity_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  // Fails on machines with more CPUs than cpu_set_t has bits (1024).
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

double quota_v2(const std::string& folder) {  // "max 100000" or "150000 100000"
  std::istringstream line(read_line(folder + "/cpu.max"));
  double quota = 0, period = 0;
  return line >> quota >> period && quota > 0 && period > 0 ? quota / period : 0;
}

double quota_v1(const std::string& folder) {  // -1 means none
  const double quota = std::atof(read_line(folder + "/cpu.cfs_quota_us").c_str());
  const double period = std::atof(read_line(folder + "/cpu.cfs_period_us").c_str());
  return quota > 0 && period > 0 ? quota / period : 0;
}

// A hierarchy of cgroups: where it is mounted, the group that stands at the mount point (not the
// topmost one in a container without a cgroup namespace), and how a group's quota is read.
struct Hierarchy {
  std::string mount, top;
  double (*quota)(const std::string& folder);

  // The smallest quota of `group` and all groups above it, 0 if there is none.
  double smallest(std::string group) const {
    if (top != "/" && (group + "/").rfind(top + "/", 0) == 0) group.erase(0, top.size());
    double cpus = 0;
    while (true) {
      const double here = quota(mount + group);
      if (here > 0) cpus = cpus > 0 ? std::min(cpus, here) : here;
      const auto slash = group.find_last_of('/');
      if (group.empty() || slash == std::string::npos) return cpus;
      group.erase(slash);
    }
  }
};

// Takes mount points from the lines of /proc/self/mountinfo and leaves the usual ones where it has
// none: "31 23 0:27 <top> <mount> <options> ... - cgroup2 <source> <options>".
void find_mounts(const std::string& base, Hierarchy& v1, Hierarchy& v2) {
  std::ifstream mounts(base + "/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    const auto dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream before(line), after(line.substr(dash + 3));
    std::string skipped, top, mount, type, options;
    before >> skipped >> skipped >> skipped >> top >> mount;
    after >> type >> skipped >> options;
    if (type == "cgroup2") {
      v2.mount = base + mount, v2.top = top;
    } else if (type == "cgroup" && ("," + options + ",").find(",cpu,") != std::string::npos) {
      v1.mount = base + mount, v1.top = top;
    }
  }
}

}  // namespace

double cgroup_cpus(const char* root) {
  const std::string base = root;
  Hierarchy v1{base + "/sys/fs/cgroup/cpu", "/", quota_v1},
      v2{base + "/sys/fs/cgroup", "/", quota_v2};
  find_mounts(base, v1, v2);
  std::ifstream groups(base + "/proc/self/cgroup");
  double cpus = 0;
  // "0::/path" is v2, "5:cpu,cpuacct:/path" v1.
  for (std::string line; std::getline(groups, line);) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (controllers != ",," && controllers.find(",cpu,") == std::string::npos) continue;
    const double here = (controllers == ",," ? v2 : v1).smallest(line.substr(second + 1));
    if (here > 0) cpus = cpus > 0 ? std::min(cpus, here) : here;
  }
  return cpus;
}

CpuBudget cpu_budget(const char* root) {
  CpuBudget budget{
      1, "affinity", own_variable(), openmp_variable(), affinity_cpus(), cgroup_cpus(root)};
  budget.threads = std::max(1, budget.affinity);
  const auto lower = [&](int limit, const char* reason) {
    if (limit > 0 && limit < budget.threads) budget.threads = limit, budget.reason = reason;
  };
  lower(static_cast<int>(std::min(std::ceil(budget.cgroup), 1e6)), "cgroup");
  lower(budget.openmp_variable, "OMP_NUM_THREADS");
  lower(budget.own_variable, "MLPBANK_NUM_THREADS");
  return budget;
}

}  // namespace mlpbank
