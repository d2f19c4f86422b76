// A program asks for a terabyte of pages. They are all zero, so they need next to no room on swap: what runs out is the
// memory that the kernel has for its own structures, a large piece at a time. The program is killed, not its parent, and
// what could not be had of a piece is not lost. Not for Linux, which would take all there is.
// kernel-test exhaust: cpus=1 mem=64M
//> filler: 0x9
//> again: 0x9
//> room for 12 MiB: yes
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static void once(const char *what) {
  int status;
  pid_t p = fork();
  if (!p) {
    char *all = mmap(0, 1ul << 40, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) _exit(3);
    madvise(all, 1ul << 40, MADV_POPULATE_WRITE);
    _exit(4);
  }
  waitpid(p, &status, 0);
  printf("%s: %#x\n", what, status);
  fflush(stdout);
}

int main(void) {
  once("filler");
  once("again");
  char *p = mmap(0, 12 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(p, 1, 12 << 20);
  printf("room for 12 MiB: %s\n", p[(12 << 20) - 1] ? "yes" : "no");
  return 0;
}
