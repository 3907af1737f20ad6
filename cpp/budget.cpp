// cpu_budget() of threads.h: what the environment, the affinity mask and cgroups allow.
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>

#include "threads.h"

namespace mlpbank {
namespace {

int positive_int(const char* text) {  // 0 if it is none
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  return end != text && *end == '\0' && value > 0 && value <= 1 << 20 ? static_cast<int>(value) : 0;
}

int affinity_cpus() {
  cpu_set_t set;
  // Fails on machines with more CPUs than cpu_set_t has bits (1024).
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

double smaller_quota(double a, double b) { return a == 0 ? b : b == 0 ? a : std::min(a, b); }

// The smallest quota of `group` and all groups above it. `read` gives one group's, 0 for none.
template <class Read>
double quota_upwards(const std::string& mount, std::string group, Read read) {
  double cpus = 0;
  while (true) {
    cpus = smaller_quota(cpus, read(mount + group));
    const auto slash = group.find_last_of('/');
    if (group.empty() || slash == std::string::npos) return cpus;
    group.erase(slash);
  }
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

}  // namespace

double cgroup_cpus(const char* root) {
  const std::string base = root;
  std::ifstream groups(base + "/proc/self/cgroup");
  double cpus = 0;
  for (std::string line; std::getline(groups, line);) {  // "0::/path" is v2, "5:cpu,cpuacct:/path" v1
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string group = line.substr(second + 1);
    const std::string mount = base + "/sys/fs/cgroup";
    if (controllers == ",,") {
      cpus = smaller_quota(cpus, quota_upwards(mount, group, quota_v2));
    } else if (controllers.find(",cpu,") != std::string::npos) {
      cpus = smaller_quota(cpus, quota_upwards(mount + "/cpu", group, quota_v1));
    }
  }
  return cpus;
}

int cpu_budget() {
  int budget = affinity_cpus();
  const double quota = cgroup_cpus();
  if (quota > 0) budget = std::min(budget, static_cast<int>(std::ceil(quota)));
  if (const char* text = std::getenv("OMP_NUM_THREADS")) {  // may be a list, "4,2": one number per nesting level
    const std::string list = text;
    if (const int n = positive_int(list.substr(0, list.find(',')).c_str())) budget = std::min(budget, n);
  }
  const char* text = std::getenv("MLPBANK_NUM_THREADS");
  if (text != nullptr && *text != '\0') {
    const int n = positive_int(text);
    if (n == 0) {
      throw std::invalid_argument(std::string("MLPBANK_NUM_THREADS: expected a positive integer, got '") + text + "'");
    }
    budget = std::min(budget, n);
  }
  return std::max(1, budget);
}

}  // namespace mlpbank
