// More memory than there is: every page has its own contents, and each is looked at again and again. The first argument
// says how many MiB; the second whether pages shrink when they are compressed: "easy" ones do, "hard" ones do not, of
// "mixed" ones some. Prints the same on Linux.
// kernel-test swap-pool: cpus=2 mem=32M swap=pool:16M args=48,easy
// kernel-test swap-disk: cpus=1 mem=32M disk=96M swap=/dev/vda args=64,hard
// kernel-test swap-both: cpus=2 mem=32M disk=96M swap=pool:6M,/dev/vda args=64,mixed
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8 };

static uint64_t next(uint64_t *s) {
  *s ^= *s << 13;
  *s ^= *s >> 7;
  *s ^= *s << 17;
  return *s;
}

// What page n holds in its life number `age`.
static void make(uint64_t *p, uint64_t n, uint64_t age, char kind) {
  uint64_t s = (n + 1) * 0x9e3779b97f4a7c15u + age;
  if (kind == 'm') kind = n % 8 == 0 ? 'z' : n % 2 ? 'e' : 'h';
  for (int i = 0; i < WORDS; i++)
    switch (kind) {
    case 'z': p[i] = n; break;
    case 'h': p[i] = next(&s); break;
    default: p[i] = i % 16 ? s + i / 64 : next(&s);
    }
  p[1] = n, p[2] = age;
}

static long wrong(char *base, long pages, long step, const unsigned char *ages, char kind) {
  static uint64_t want[WORDS];
  long bad = 0;
  for (long n = 0; n < pages; n += step) {
    make(want, n, ages[n], kind);
    bad += memcmp(want, base + n * PAGE, PAGE) != 0;
  }
  return bad;
}

int main(int argc, char **argv) {
  long pages = (argc > 1 ? atol(argv[1]) : 32) * 256;
  char kind = argc > 2 ? argv[2][0] : 'm';
  char *base = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  unsigned char *ages = calloc(pages, 1);
  if (base == MAP_FAILED || !ages) {
    perror("mmap");
    return 1;
  }
  for (long n = 0; n < pages; n++) make((uint64_t *)(base + n * PAGE), n, 0, kind);
  printf("%ld pages, wrong after writing: %ld\n", pages, wrong(base, pages, 1, ages, kind));
  // Here and there, often the same.
  uint64_t s = 42;
  for (long i = 0; i < pages / 4; i++) {
    long n = next(&s) % (i % 4 ? pages / 8 : pages);
    make((uint64_t *)(base + n * PAGE), n, ++ages[n], kind);
  }
  fflush(stdout);
  // A child has the same, changes some of it, and the parent does not see that.
  pid_t child = fork();
  if (child == 0) {
    for (long n = 0; n < pages; n += 16) make((uint64_t *)(base + n * PAGE), n, ++ages[n], kind);
    _exit(wrong(base, pages, 8, ages, kind) != 0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  printf("child: %#x, wrong in the parent: %ld\n", status, wrong(base, pages, 1, ages, kind));
  // What is thrown away is zero.
  madvise(base, pages * PAGE / 2, MADV_DONTNEED);
  long other = 0;
  for (long n = 0; n < pages / 2; n++) other += base[n * PAGE + 8] != 0 || base[n * PAGE + PAGE - 1] != 0;
  printf("not zero: %ld\n", other);
  munmap(base, pages * PAGE);
  return 0;
}
