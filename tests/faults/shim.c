/* Faults at the calls that change files, for programs of any language: load with LD_PRELOAD.

Counted are calls on paths below a prefix: creating, writing, syncing, renaming and linking, making folders. From call
`first` on, `count` of them fail with `error`; where `frozen` is set, removing fails too, so that the files stay as a
machine that lost its power would leave them. With `number` set, the process gets that signal at call `first` instead.
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
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static char prefix[PATH_MAX];
static long seen, first = -1, count;
static int error, frozen, number;
static char hit[PATH_MAX + 32];

void fault_arm(const char *below, long at, long times, int code, int freeze, int signum) {
    pthread_mutex_lock(&guard);
    snprintf(prefix, sizeof prefix, "%s", below);
    seen = 0, first = at, count = times, error = code, frozen = freeze, number = signum, hit[0] = 0;
    pthread_mutex_unlock(&guard);
}

long fault_seen(void) { return seen; }
const char *fault_hit(void) { return hit; }

/* From the environment, for a child that is to get a signal: FAULT_BELOW, FAULT_AT, FAULT_SIGNAL. */
__attribute__((constructor)) static void from_environment(void) {
    const char *below = getenv("FAULT_BELOW"), *at = getenv("FAULT_AT"), *signum = getenv("FAULT_SIGNAL");
    if (below && at && signum) fault_arm(below, atol(at), 1, 0, 0, atoi(signum));
}

static int below(const char *path) { return prefix[0] && path && !strncmp(path, prefix, strlen(prefix)); }

/* Whether this call fails; errno is set. `removes` marks calls that fail in a frozen tree only and are not counted. */
static int fails(const char *what, const char *path, int removes) {
    if (!below(path)) return 0;
    int found = 0;
    pthread_mutex_lock(&guard);
    if (removes) {
        found = frozen && first >= 0 && seen > first;
    } else {
        long k = seen++;
        if (first >= 0 && k >= first && k < first + count) {
            if (!hit[0]) snprintf(hit, sizeof hit, "%s %s", what, path);
            found = 1;
        }
    }
    pthread_mutex_unlock(&guard);
    if (found && number) {
        kill(getpid(), number);
        return 0;
    }
    if (found) errno = error;
    return found;
}

static int fd_fails(const char *what, int fd) {
    if (!prefix[0]) return 0;
    char link[64], path[PATH_MAX];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (n <= 0) return 0;
    path[n] = 0;
    return fails(what, path, 0);
}

static const char *at_path(int dir, const char *path, char *space) {
    if (path[0] == '/' || !prefix[0]) return path;
    char link[64];
    ssize_t n;
    if (dir == AT_FDCWD) {
        if (!getcwd(space, PATH_MAX)) return path;
        n = (ssize_t)strlen(space);
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        n = readlink(link, space, PATH_MAX - 1);
        if (n <= 0) return path;
    }
    snprintf(space + n, PATH_MAX - n, "/%s", path);
    return space;
}

#define ON_FD(name, result, params, args, fd)                          \
    result name params {                                               \
        static result (*real) params;                                  \
        if (!real) real = (result(*) params)dlsym(RTLD_NEXT, #name);   \
        if (fd_fails(#name, fd)) return -1;                            \
        return real args;                                              \
    }

ON_FD(write, ssize_t, (int fd, const void *data, size_t n), (fd, data, n), fd)
ON_FD(pwrite, ssize_t, (int fd, const void *data, size_t n, off_t at), (fd, data, n, at), fd)
ON_FD(pwrite64, ssize_t, (int fd, const void *data, size_t n, off64_t at), (fd, data, n, at), fd)
ON_FD(writev, ssize_t, (int fd, const struct iovec *data, int n), (fd, data, n), fd)
ON_FD(pwritev, ssize_t, (int fd, const struct iovec *data, int n, off_t at), (fd, data, n, at), fd)
ON_FD(pwritev64, ssize_t, (int fd, const struct iovec *data, int n, off64_t at), (fd, data, n, at), fd)
ON_FD(fsync, int, (int fd), (fd), fd)
ON_FD(fdatasync, int, (int fd), (fd), fd)
ON_FD(ftruncate, int, (int fd, off_t n), (fd, n), fd)
ON_FD(ftruncate64, int, (int fd, off64_t n), (fd, n), fd)
ON_FD(copy_file_range, ssize_t, (int in, off64_t *a, int out, off64_t *b, size_t n, unsigned f), (in, a, out, b, n, f), out)
ON_FD(sendfile, ssize_t, (int out, int in, off_t *at, size_t n), (out, in, at, n), out)
ON_FD(sendfile64, ssize_t, (int out, int in, off64_t *at, size_t n), (out, in, at, n), out)

#define ON_PATH(name, params, args, dir, path, removes)                \
    int name params {                                                  \
        static int (*real) params;                                     \
        char space[PATH_MAX];                                          \
        if (!real) real = (int(*) params)dlsym(RTLD_NEXT, #name);      \
        if (fails(#name, at_path(dir, path, space), removes)) return -1; \
        return real args;                                              \
    }

ON_PATH(rename, (const char *from, const char *to), (from, to), AT_FDCWD, to, 0)
ON_PATH(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), b, to, 0)
ON_PATH(renameat2, (int a, const char *from, int b, const char *to, unsigned f), (a, from, b, to, f), b, to, 0)
ON_PATH(link, (const char *from, const char *to), (from, to), AT_FDCWD, to, 0)
ON_PATH(linkat, (int a, const char *from, int b, const char *to, int f), (a, from, b, to, f), b, to, 0)
ON_PATH(symlink, (const char *from, const char *to), (from, to), AT_FDCWD, to, 0)
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path, 0)
ON_PATH(mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode), dir, path, 0)
ON_PATH(unlink, (const char *path), (path), AT_FDCWD, path, 1)
ON_PATH(unlinkat, (int dir, const char *path, int flags), (dir, path, flags), dir, path, 1)
ON_PATH(rmdir, (const char *path), (path), AT_FDCWD, path, 1)

#define OPENS(name)                                                    \
    int name(const char *path, int flags, ...) {                       \
        static int (*real)(const char *, int, ...);                    \
        va_list rest;                                                  \
        char space[PATH_MAX];                                          \
        va_start(rest, flags);                                         \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                  \
        if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        if (flags & O_CREAT && fails(#name, at_path(AT_FDCWD, path, space), 0)) return -1; \
        return real(path, flags, mode);                                \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name)                                                 \
    int name(int dir, const char *path, int flags, ...) {              \
        static int (*real)(int, const char *, int, ...);               \
        va_list rest;                                                  \
        char space[PATH_MAX];                                          \
        va_start(rest, flags);                                         \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                  \
        if (!real) real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        if (flags & O_CREAT && fails(#name, at_path(dir, path, space), 0)) return -1; \
        return real(dir, path, flags, mode);                           \
    }
OPENS_AT(openat)
OPENS_AT(openat64)
