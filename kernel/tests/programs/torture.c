// More memory than there is, on several CPUs at once: each thread reads, writes, protects, pages out, throws away, moves
// and unmaps its own region, and forks children that look at it, while all share the map, the pool and the disk. Every
// page must hold what its thread put there last.
// kernel-test torture: cpus=2 mem=40M disk=96M swap=pool:4M,/dev/vda args=4,10,1000
// kernel-test torture-small: cpus=1 mem=512M args=3,2,300
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, CHUNK = 16 };
static atomic_long wrong, failed, children;
static long pages, rounds;

struct region {
  long me;
  char *chunk[4096]; // where each run of CHUNK pages is
  unsigned char *age;
  uint64_t seed;
};

static uint64_t next(uint64_t *s) {
  *s ^= *s << 13, *s ^= *s >> 7, *s ^= *s << 17;
  return *s;
}

// Some pages shrink, some do not; of age 0 all is zero.
static void make(struct region *r, long n, uint64_t *to) {
  uint64_t s = (r->me * 1000003 + n + 1) * 0x9e3779b97f4a7c15u + r->age[n];
  for (int i = 0; i < PAGE / 8; i++) to[i] = !r->age[n] ? 0 : n % 3 && i % 8 ? n : next(&s);
}
static char *at(struct region *r, long n) { return r->chunk[n / CHUNK] + n % CHUNK * PAGE; }

static int is_wrong(struct region *r, long n) {
  uint64_t want[PAGE / 8];
  make(r, n, want);
  return memcmp(want, at(r, n), PAGE) != 0;
}
static void write_page(struct region *r, long n) {
  r->age[n] = r->age[n] % 250 + 1;
  make(r, n, (uint64_t *)at(r, n));
}

static char *fresh(void) {
  char *p = mmap(0, CHUNK * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) abort();
  return p;
}

static void child_looks(struct region *r) {
  pid_t p = fork();
  if (p < 0) {
    atomic_fetch_add(&failed, 1);
    return;
  }
  if (!p) {
    long bad = 0;
    for (long n = next(&r->seed) % 7; n < pages; n += 7) {
      bad += is_wrong(r, n);
      if (n % 5 == 0) write_page(r, n), bad += is_wrong(r, n);
    }
    _exit(bad != 0);
  }
  int status = -1;
  waitpid(p, &status, 0);
  atomic_fetch_add(&children, 1);
  if (status) atomic_fetch_add(&wrong, 1);
}

static void *work(void *arg) {
  struct region *r = arg;
  for (long c = 0; c < pages / CHUNK; c++) r->chunk[c] = fresh();
  for (long n = 0; n < pages; n++) write_page(r, n);
  for (long i = 0; i < rounds; i++) {
    uint64_t s = next(&r->seed);
    long n = s % pages, c = n / CHUNK;
    char *chunk = r->chunk[c];
    switch (s >> 59) {
    case 0:
      madvise(chunk, CHUNK * PAGE, MADV_PAGEOUT);
      break;
    case 1:
      madvise(chunk, CHUNK * PAGE, MADV_DONTNEED);
      memset(r->age + c * CHUNK, 0, CHUNK);
      break;
    case 2:
      munmap(chunk, CHUNK * PAGE);
      r->chunk[c] = fresh();
      memset(r->age + c * CHUNK, 0, CHUNK);
      break;
    case 3: {
      // To another place.
      char *to = fresh();
      if (mremap(chunk, CHUNK * PAGE, CHUNK * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to) atomic_fetch_add(&failed, 1);
      r->chunk[c] = to;
      break;
    }
    case 4:
      mprotect(chunk, CHUNK * PAGE, PROT_READ);
      if (is_wrong(r, n)) atomic_fetch_add(&wrong, 1);
      mprotect(chunk, CHUNK * PAGE, PROT_READ | PROT_WRITE);
      break;
    case 5:
      if (i % 8 == 0) child_looks(r);
      break;
    case 6 ... 15:
      write_page(r, n);
      break;
    default:
      if (is_wrong(r, n)) atomic_fetch_add(&wrong, 1);
    }
  }
  for (long n = 0; n < pages; n++)
    if (is_wrong(r, n)) atomic_fetch_add(&wrong, 1);
  for (long c = 0; c < pages / CHUNK; c++) munmap(r->chunk[c], CHUNK * PAGE);
  return 0;
}

int main(int argc, char **argv) {
  long threads = argc > 1 ? atol(argv[1]) : 2;
  pages = (argc > 2 ? atol(argv[2]) : 2) * 256;
  rounds = argc > 3 ? atol(argv[3]) : 300;
  pthread_t t[16];
  for (long i = 0; i < threads; i++) {
    struct region *r = calloc(1, sizeof *r);
    *r = (struct region){.me = i, .age = calloc(pages, 1), .seed = i * 77 + 12345};
    pthread_create(&t[i], 0, work, r);
  }
  for (long i = 0; i < threads; i++) pthread_join(t[i], 0);
  printf("wrong: %ld, failed: %ld, children: %s\n", wrong, failed, children ? "some" : "none");
  return 0;
}
