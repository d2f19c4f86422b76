// swapon(2) and swapoff(2) of a disk with pages on it, while others use their memory: the pages come back, or the call
// fails with ENOMEM and nothing has changed. Not for Linux, whose disks are somebody's.
// kernel-test swapoff: cpus=2 mem=48M disk=64M swap=/dev/vda
// kernel-test swapoff-pool: cpus=2 mem=48M disk=64M swap=pool:4M,/dev/vda args=soft
//> full: ENOMEM, wrong pages: 0
//> less: ok, wrong pages: 0, swaps: 0
//> again: EINVAL
//> on and off under load: 0 failed, wrong pages: 0
//> on: ok, twice: EBUSY, swaps: 1
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8 };
static int soft;
static const char *disk = "/dev/vda";

static void make(uint64_t *p, uint64_t n, uint64_t age) {
  uint64_t s = (n + 1) * 0x9e3779b97f4a7c15u + age;
  for (int i = 0; i < WORDS; i++) {
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    p[i] = soft && i % 4 ? i : s;
  }
}

static int is(uint64_t *p, uint64_t n, uint64_t age) {
  uint64_t want[WORDS];
  make(want, n, age);
  return !memcmp(want, p, PAGE);
}

static long wrong(char *base, long pages, unsigned char *ages) {
  long bad = 0;
  for (long n = 0; n < pages; n++) bad += !is((uint64_t *)(base + n * PAGE), n, ages[n]);
  return bad;
}

static const char *result(int r) { return r ? strerrorname_np(errno) : "ok"; }

static int swaps(void) {
  static char text[4096];
  int fd = open("/proc/swaps", O_RDONLY), n = 0;
  text[read(fd, text, sizeof text - 1)] = 0;
  close(fd);
  for (char *s = text; (s = strstr(s, disk)); s++) n++;
  return n;
}

// Says that the disk is for swap (mkswap(8)).
static void mark(void) {
  static char page[PAGE];
  uint32_t version = 1, last = (64 << 20) / PAGE - 1;
  memcpy(page + 1024, &version, 4), memcpy(page + 1028, &last, 4), memcpy(page + PAGE - 10, "SWAPSPACE2", 10);
  int fd = open(disk, O_RDWR);
  if (pwrite(fd, page, PAGE, 0) != PAGE) perror(disk);
  close(fd);
}

static atomic_int stop;
static atomic_long bad;
struct part {
  char *base;
  long pages;
};

// Its own pages: looked at and changed, here and there.
static void *work(void *arg) {
  struct part *part = arg;
  unsigned char *ages = calloc(part->pages, 1);
  for (long n = 0; n < part->pages; n++) make((uint64_t *)(part->base + n * PAGE), n, 0);
  uint64_t s = part->pages + (uintptr_t)part->base;
  while (!atomic_load(&stop)) {
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    long n = s % part->pages;
    uint64_t *p = (uint64_t *)(part->base + n * PAGE);
    if (!is(p, n, ages[n])) atomic_fetch_add(&bad, 1);
    if (s >> 60 < 5) make(p, n, ++ages[n]);
  }
  atomic_fetch_add(&bad, wrong(part->base, part->pages, ages));
  free(ages);
  return 0;
}

int main(int argc, char **argv) {
  soft = argc > 1;
  // Soft ones take a third of it in the pool.
  long pages = 60 * 256;
  char *base = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  unsigned char *ages = calloc(pages, 1);
  for (long n = 0; n < pages; n++) make((uint64_t *)(base + n * PAGE), n, 0);
  int r = swapoff(disk);
  const char *how = result(r);
  printf("full: %s, wrong pages: %ld\n", how, wrong(base, pages, ages));
  // With less there is room.
  long left = 15 * 256;
  munmap(base + left * PAGE, (pages - left) * PAGE);
  how = result(swapoff(disk));
  printf("less: %s, wrong pages: %ld, swaps: %d\n", how, wrong(base, left, ages), swaps());
  printf("again: %s\n", result(swapoff(disk)));
  munmap(base, left * PAGE);
  // Two that use as much as there is of memory with what else there is, while the disk comes and goes.
  struct part parts[2];
  pthread_t t[2];
  for (int i = 0; i < 2; i++) {
    parts[i].pages = 10 * 256;
    parts[i].base = mmap(0, parts[i].pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    pthread_create(&t[i], 0, work, &parts[i]);
  }
  int failed = 0;
  for (int round = 0; round < 4; round++) {
    mark();
    failed += swapon(disk, 0) != 0;
    // Pages go out.
    char *more = mmap(0, 12 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (long n = 0; n < 12 * 256; n++) make((uint64_t *)(more + n * PAGE), n, 1);
    madvise(parts[round % 2].base, parts[round % 2].pages * PAGE, MADV_PAGEOUT);
    for (long n = 0; n < 12 * 256; n++) failed += !is((uint64_t *)(more + n * PAGE), n, 1);
    munmap(more, 12 << 20);
    // They may all be wanted at this moment.
    int tries = 0;
    while (swapoff(disk) && tries++ < 100) usleep(10000);
    failed += tries > 100;
  }
  atomic_store(&stop, 1);
  for (int i = 0; i < 2; i++) pthread_join(t[i], 0);
  printf("on and off under load: %d failed, wrong pages: %ld\n", failed, atomic_load(&bad));
  mark();
  how = result(swapon(disk, 0));
  printf("on: %s, twice: %s, swaps: %d\n", how, result(swapon(disk, 0)), swaps());
  return 0;
}
