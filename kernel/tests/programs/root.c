// The root is on a disk: files come from it when they are asked for, once more after they had to make room, and what is
// changed of them is in memory only. /bin/busybox is the same file there and here.
// kernel-test root-disk: cpus=2 mem=48M root=128M disk=96M swap=/dev/vdb busybox
// kernel-test root-initrd: cpus=1 busybox
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *file = "/bin/busybox";

static unsigned sum(const unsigned char *p, long n) {
  unsigned s = 1;
  for (long i = 0; i < n; i++) s = s * 31 + p[i];
  return s;
}

// By read(2), in odd pieces.
static unsigned by_read(long size) {
  unsigned char *all = malloc(size);
  int fd = open(file, O_RDONLY);
  long have = 0, n;
  while ((n = read(fd, all + have, have % 5000 + 777)) > 0) have += n;
  close(fd);
  unsigned s = have == size ? sum(all, size) : 0;
  free(all);
  return s;
}

static unsigned by_map(long size) {
  int fd = open(file, O_RDONLY);
  unsigned char *p = mmap(0, size, PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  unsigned s = p == MAP_FAILED ? 0 : sum(p, size);
  munmap(p, size);
  return s;
}

// Takes more memory than the small machine has, so that files' pages have to go.
static void press(long mib) {
  for (long i = 0; i < mib; i++) {
    unsigned *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int k = 0; k < 1 << 18; k++) p[k] = k * 2654435761u + i;
  }
}

static int run(const char *command) {
  pid_t p = fork();
  if (!p) {
    execl(file, "busybox", "sh", "-c", command, (char *)0);
    _exit(127);
  }
  int status = -1;
  waitpid(p, &status, 0);
  return status;
}

int main(void) {
  struct stat st;
  if (stat(file, &st)) return 1;
  long size = st.st_size;
  printf("%ld bytes\n", size);
  unsigned first = by_read(size);
  printf("read %08x, mapped %s\n", first, by_map(size) == first ? "the same" : "others");
  fflush(stdout);
  pid_t p = fork();
  if (!p) {
    press(40);
    _exit(by_map(size) != first);
  }
  int status = -1;
  waitpid(p, &status, 0);
  printf("under pressure: %#x, afterwards %s\n", status, by_read(size) == first ? "the same" : "others");
  // Private changes stay private.
  int fd = open(file, O_RDONLY);
  unsigned char *mine = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  memset(mine, 7, 8192);
  printf("private: %s\n", by_read(size) == first && mine[8191] == 7 ? "yes" : "no");
  char c;
  printf("behind the end: %zd\n", pread(fd, &c, 1, size));
  fflush(stdout);
  printf("shell: %#x\n", run("echo from the shell; cd /tmp && echo text > file.$$ && cat file.$$ && rm file.$$"));
  return 0;
}
