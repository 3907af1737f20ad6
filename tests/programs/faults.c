/* Preloaded into a program: sees what it does to files below one folder, and can make it fail.
 *
 *   faults_watch(root)        watch files whose path begins so
 *   faults_arm(n, how)        from now on, at the operation number n (0 is the next):
 *                             how > 0: it fails with this errno; -1: half of a write is made and
 *                             the process is killed; -2: the process is killed before it
 *   faults_only(kinds)        count operations of these kinds alone, letters as below; "": all
 *   faults_count()            operations since faults_arm
 *   faults_record(path)       write all operations to a file, or none any more where it is NULL
 *
 * A record is one line, "KIND PATH OFFSET LENGTH OTHER_PATH\n" with tabs between, and LENGTH bytes
 * of data where KIND is w. Kinds: c(reate) w(rite) s(ync) t(runcate) f(allocate) r(ename) u(nlink)
 * m(kdir) d(rmdir). What is read is neither counted nor recorded.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], only[32];
static long count, at = -1;
static int how, record = -1;

void faults_watch(const char* path) { snprintf(root, sizeof root, "%s", path); }
void faults_only(const char* kinds) { snprintf(only, sizeof only, "%s", kinds); }
long faults_count(void) { return count; }
void faults_arm(long n, int what) {
  pthread_mutex_lock(&mutex);
  count = 0, at = n, how = what;
  pthread_mutex_unlock(&mutex);
}
void faults_record(const char* path) {
  if (record >= 0) syscall(SYS_close, record);
  record = -1;
  if (path != NULL) {
    record = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  }
}

static int is_watched(const char* path) {
  return root[0] != 0 && strncmp(path, root, strlen(root)) == 0;
}

static int path_of(int fd, char* path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, PATH_MAX - 1);
  path[length < 0 ? 0 : length] = 0;
  return is_watched(path);
}

static int full_path(int folder, const char* name, char* path) {
  if (name[0] == '/') {
    snprintf(path, PATH_MAX, "%s", name);
  } else if (folder == AT_FDCWD) {
    char here[PATH_MAX / 2];
    if (getcwd(here, sizeof here) == NULL) return 0;
    snprintf(path, PATH_MAX, "%s/%s", here, name);
  } else {
    path_of(folder, path);
    const size_t length = strlen(path);
    snprintf(path + length, PATH_MAX - length, "/%s", name);
  }
  return is_watched(path);
}

/* 0: go on. 1: fail, errno is set. 2: make half of it and die. */
static int step(char kind) {
  int what = 0;
  pthread_mutex_lock(&mutex);
  if (only[0] == 0 || strchr(only, kind) != NULL) what = count++ == at ? how : 0;
  pthread_mutex_unlock(&mutex);
  if (what == -2) kill(getpid(), SIGKILL);
  if (what > 0) errno = what;
  return what == -1 ? 2 : what > 0;
}

static void put(const void* data, size_t size) {
  while (size > 0) {
    const ssize_t done = syscall(SYS_write, record, data, size);
    if (done <= 0) abort();
    data = (const char*)data + done, size -= done;
  }
}

static void note(char kind, const char* path, long long offset, long long length, const char* other,
                 const struct iovec* parts, int num_parts) {
  if (record < 0) return;
  const int before = errno;
  char line[2 * PATH_MAX + 64];
  const int size =
      snprintf(line, sizeof line, "%c\t%s\t%lld\t%lld\t%s\n", kind, path, offset, length, other);
  pthread_mutex_lock(&mutex);
  put(line, size);
  for (int i = 0; i < num_parts; ++i) {
    const size_t part = parts[i].iov_len < (size_t)length ? parts[i].iov_len : (size_t)length;
    put(parts[i].iov_base, part);
    length -= part;
  }
  pthread_mutex_unlock(&mutex);
  errno = before;
}

static ssize_t write_parts(int fd, const struct iovec* parts, int num_parts, off_t offset) {
  char path[PATH_MAX];
  const int seen = path_of(fd, path);
  const off_t from = offset >= 0 || !seen ? offset : lseek(fd, 0, SEEK_CUR);
  const int what = seen ? step('w') : 0;
  if (what == 1) return -1;
  if (what == 2) {
    if (offset >= 0) lseek(fd, offset, SEEK_SET);
    syscall(SYS_write, fd, parts[0].iov_base, (parts[0].iov_len + 1) / 2);
    kill(getpid(), SIGKILL);
  }
  const ssize_t done = offset < 0 ? syscall(SYS_writev, fd, parts, num_parts)
                                  : syscall(SYS_pwritev, fd, parts, num_parts, offset, 0);
  if (seen && done > 0) note('w', path, from, done, "", parts, num_parts);
  return done;
}

ssize_t write(int fd, const void* data, size_t size) {
  const struct iovec part = {(void*)data, size};
  return write_parts(fd, &part, 1, -1);
}
ssize_t writev(int fd, const struct iovec* parts, int num_parts) {
  return write_parts(fd, parts, num_parts, -1);
}
ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  const struct iovec part = {(void*)data, size};
  return write_parts(fd, &part, 1, offset);
}
ssize_t pwrite64(int fd, const void* data, size_t size, off_t offset) {
  return pwrite(fd, data, size, offset);
}
ssize_t pwritev(int fd, const struct iovec* parts, int num_parts, off_t offset) {
  return write_parts(fd, parts, num_parts, offset);
}
ssize_t pwritev64(int fd, const struct iovec* parts, int num_parts, off_t offset) {
  return write_parts(fd, parts, num_parts, offset);
}
ssize_t pwritev2(int fd, const struct iovec* parts, int num_parts, off_t offset, int flags) {
  (void)flags;
  return write_parts(fd, parts, num_parts, offset);
}
ssize_t pwritev64v2(int fd, const struct iovec* parts, int num_parts, off_t offset, int flags) {
  return pwritev2(fd, parts, num_parts, offset, flags);
}

/* The steps of all other operations: whether it is seen, whether it fails, the call, the note. */
static int synced(int fd, long call) {
  char path[PATH_MAX];
  const int seen = path_of(fd, path);
  if (seen && step('s')) return -1;
  const int result = syscall(call, fd);
  if (seen && result == 0) note('s', path, 0, 0, "", NULL, 0);
  return result;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int ftruncate(int fd, off_t size) {
  char path[PATH_MAX];
  const int seen = path_of(fd, path);
  if (seen && step('t')) return -1;
  const int result = syscall(SYS_ftruncate, fd, size);
  if (seen && result == 0) note('t', path, size, 0, "", NULL, 0);
  return result;
}
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

static int allocated(int fd, int mode, off_t offset, off_t size) {
  char path[PATH_MAX];
  const int seen = path_of(fd, path);
  if (seen && step('f')) return -1;
  const int result = syscall(SYS_fallocate, fd, mode, offset, size);
  if (seen && result == 0) note('f', path, offset + size, 0, "", NULL, 0);
  return result;
}
int fallocate(int fd, int mode, off_t offset, off_t size) {
  return allocated(fd, mode, offset, size);
}
int fallocate64(int fd, int mode, off_t offset, off_t size) {
  return allocated(fd, mode, offset, size);
}
int posix_fallocate(int fd, off_t offset, off_t size) {
  const int before = errno;
  const int result = allocated(fd, 0, offset, size) == 0 ? 0 : errno;
  errno = before;
  return result;
}
int posix_fallocate64(int fd, off_t offset, off_t size) {
  return posix_fallocate(fd, offset, size);
}

static int renamed(int a, const char* from, int b, const char* to, unsigned flags) {
  char path[PATH_MAX], other[PATH_MAX];
  const int seen = full_path(a, from, path) & full_path(b, to, other);
  if (seen && step('r')) return -1;
  const int result = syscall(SYS_renameat2, a, from, b, to, flags);
  if (seen && result == 0) note('r', path, 0, 0, other, NULL, 0);
  return result;
}
int rename(const char* from, const char* to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char* from, int b, const char* to) { return renamed(a, from, b, to, 0); }
int renameat2(int a, const char* from, int b, const char* to, unsigned flags) {
  return renamed(a, from, b, to, flags);
}

static int unlinked(int folder, const char* name, int flags) {
  char path[PATH_MAX];
  const char kind = flags & AT_REMOVEDIR ? 'd' : 'u';
  const int seen = full_path(folder, name, path);
  if (seen && step(kind)) return -1;
  const int result = syscall(SYS_unlinkat, folder, name, flags);
  if (seen && result == 0) note(kind, path, 0, 0, "", NULL, 0);
  return result;
}
int unlink(const char* name) { return unlinked(AT_FDCWD, name, 0); }
int unlinkat(int folder, const char* name, int flags) { return unlinked(folder, name, flags); }
int rmdir(const char* name) { return unlinked(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdir(const char* name, mode_t mode) {
  char path[PATH_MAX];
  const int seen = full_path(AT_FDCWD, name, path);
  if (seen && step('m')) return -1;
  const int result = syscall(SYS_mkdirat, AT_FDCWD, name, mode);
  if (seen && result == 0) note('m', path, 0, 0, "", NULL, 0);
  return result;
}

static int opened(int folder, const char* name, int flags, mode_t mode) {
  char path[PATH_MAX];
  const int makes = (flags & O_CREAT) != 0, clears = (flags & O_TRUNC) != 0;
  const int seen = (makes || clears) && full_path(folder, name, path);
  const int is_new = seen && makes && faccessat(folder, name, F_OK, 0) != 0;
  if ((is_new || (seen && clears)) && step('c')) return -1;
  const int result = syscall(SYS_openat, folder, name, flags, mode);
  if (result >= 0 && is_new) note('c', path, 0, 0, "", NULL, 0);
  if (result >= 0 && seen && clears && !is_new) note('t', path, 0, 0, "", NULL, 0);
  return result;
}
#define MODE(flags)                        \
  mode_t mode = 0;                         \
  if ((flags) & (O_CREAT | __O_TMPFILE)) { \
    va_list rest;                          \
    va_start(rest, flags);                 \
    mode = va_arg(rest, mode_t);           \
    va_end(rest);                          \
  }
int open(const char* name, int flags, ...) {
  MODE(flags)
  return opened(AT_FDCWD, name, flags, mode);
}
int open64(const char* name, int flags, ...) {
  MODE(flags)
  return opened(AT_FDCWD, name, flags | O_LARGEFILE, mode);
}
int openat(int folder, const char* name, int flags, ...) {
  MODE(flags)
  return opened(folder, name, flags, mode);
}
int openat64(int folder, const char* name, int flags, ...) {
  MODE(flags)
  return opened(folder, name, flags | O_LARGEFILE, mode);
}
