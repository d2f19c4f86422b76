// Record locks: fcntl(2), F_SETLK, F_SETLKW, F_GETLK, and those of open file descriptions (F_OFD_...): ranges that join
// and split, who is in the way, waiting, circles, and that they go with the process or with any close of the file.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int fd;
static pid_t parent;

static int lock(int f, int command, short type, long start, long len) {
  struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
  errno = 0;
  return fcntl(f, command, &l) ? errno : 0;
}

static const char *name(int e) { return e ? strerrorname_np(e) : "ok"; }

// What another process finds in the way of a lock of all of it, from here on.
static void way(const char *what, short type) {
  fflush(stdout);
  pid_t p = fork();
  if (!p) {
    printf("%s:", what);
    long at = 0;
    for (int i = 0; i < 10; i++) {
      struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 0};
      if (fcntl(fd, F_GETLK, &l)) printf(" error %d", errno);
      if (l.l_type == F_UNLCK) break;
      const char *who = l.l_pid == parent ? "parent" : l.l_pid == -1 ? "file" : "other";
      printf(" [%ld+%ld %s %s]", (long)l.l_start, (long)l.l_len, l.l_type == F_WRLCK ? "alone" : "shared", who);
      if (!l.l_len) break;
      at = l.l_start + l.l_len;
    }
    printf("\n");
    fflush(stdout);
    _exit(0);
  }
  waitpid(p, 0, 0);
}

static int in_child(int (*what)(void)) {
  fflush(stdout);
  pid_t p = fork();
  if (!p) _exit(what());
  int status = -1;
  waitpid(p, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

static int try_alone(void) { return lock(fd, F_SETLK, F_WRLCK, 5, 10); }
static int try_shared(void) { return lock(fd, F_SETLK, F_RDLCK, 5, 10); }

static void waiting(void) {
  int ready[2], done[2];
  char c;
  pipe(ready), pipe(done);
  lock(fd, F_SETLK, F_WRLCK, 0, 100);
  fflush(stdout);
  pid_t p = fork();
  if (!p) {
    write(ready[1], "x", 1);
    int r = lock(fd, F_SETLKW, F_WRLCK, 50, 100);
    // The parent wrote before it unlocked.
    char text[8] = "";
    pread(fd, text, 5, 50);
    printf("waited: %s, %s\n", name(r), text);
    fflush(stdout);
    _exit(0);
  }
  read(ready[0], &c, 1);
  usleep(20000);
  pwrite(fd, "ready", 5, 50);
  lock(fd, F_SETLK, F_UNLCK, 0, 100);
  waitpid(p, 0, 0);
}

// Each has one and wants the other's: one of them is told.
static void circle(void) {
  int to[2], from[2];
  char c;
  pipe(to), pipe(from);
  lock(fd, F_SETLK, F_WRLCK, 0, 1);
  fflush(stdout);
  pid_t p = fork();
  if (!p) {
    lock(fd, F_SETLK, F_WRLCK, 1, 1);
    write(from[1], "x", 1);
    int r = lock(fd, F_SETLKW, F_WRLCK, 0, 1);
    _exit(r);
  }
  read(from[0], &c, 1);
  int mine = lock(fd, F_SETLKW, F_WRLCK, 1, 1), status;
  if (mine) lock(fd, F_SETLK, F_UNLCK, 0, 2);
  waitpid(p, &status, 0);
  int others = WEXITSTATUS(status);
  printf("circle: %s\n", (mine == EDEADLK) + (others == EDEADLK) == 1 && (!mine || !others) ? "one of two" : "no");
  lock(fd, F_SETLK, F_UNLCK, 0, 0);
}

int main(void) {
  char path[] = "/tmp/records.XXXXXX";
  fd = mkstemp(path);
  parent = getpid();
  ftruncate(fd, 1000);
  printf("%s\n", name(lock(fd, F_SETLK, F_WRLCK, 0, 10)));
  way("one", F_WRLCK);
  printf("in the way: alone %s, shared %s\n", name(in_child(try_alone)), name(in_child(try_shared)));
  lock(fd, F_SETLK, F_WRLCK, 10, 10);
  way("joined", F_WRLCK);
  lock(fd, F_SETLK, F_RDLCK, 5, 10);
  way("shared inside", F_WRLCK);
  way("for who would share", F_RDLCK);
  printf("shared: alone %s, shared %s\n", name(in_child(try_alone)), name(in_child(try_shared)));
  lock(fd, F_SETLK, F_UNLCK, 8, 4);
  way("with a hole", F_WRLCK);
  lock(fd, F_SETLK, F_WRLCK, 500, 0);
  way("to the end", F_WRLCK);
  lock(fd, F_SETLK, F_UNLCK, 600, 10);
  way("split", F_WRLCK);
  struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_END, .l_start = -10, .l_len = -10};
  lock(fd, F_SETLK, F_UNLCK, 0, 0);
  printf("backwards: %d\n", fcntl(fd, F_SETLK, &l));
  way("backwards", F_WRLCK);
  l.l_whence = SEEK_CUR, l.l_start = -1;
  printf("before the start: %s\n", fcntl(fd, F_SETLK, &l) ? name(errno) : "ok");
  printf("kind: %s\n", name(lock(fd, F_SETLK, 7, 0, 1)));
  // A second descriptor, closed: all are gone.
  int other = open(path, O_RDONLY);
  printf("not to be written: %s\n", name(lock(other, F_SETLK, F_WRLCK, 900, 1)));
  close(other);
  way("after a close", F_WRLCK);
  // A child's go with it, and a child has none of its parent's.
  lock(fd, F_SETLK, F_WRLCK, 0, 20);
  printf("child: %s\n", name(in_child(try_alone)));
  lock(fd, F_SETLK, F_UNLCK, 0, 0);
  in_child(try_alone);
  way("after a child", F_WRLCK);
  waiting();
  circle();
  // Those of open files.
  printf("of the file: %s\n", name(lock(fd, F_OFD_SETLK, F_WRLCK, 0, 10)));
  way("of the file", F_WRLCK);
  other = open(path, O_RDWR);
  printf("another: %s\n", name(lock(other, F_OFD_SETLK, F_WRLCK, 5, 10)));
  printf("the process: %s\n", name(lock(fd, F_SETLK, F_WRLCK, 5, 10)));
  int same = dup(fd);
  printf("the same: %s\n", name(lock(same, F_OFD_SETLK, F_WRLCK, 5, 10)));
  close(fd);
  fd = other;
  way("one descriptor left", F_WRLCK);
  close(same);
  way("none left", F_WRLCK);
  unlink(path);
  return 0;
}
