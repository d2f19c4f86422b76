// Stale translations: threads write while another protects, unmaps, maps anew, forks. What a thread sees through an
// address must be what the last change of the mapping that was over before it says. mprotect(2), munmap(2), mmap(2),
// fork(2), madvise(2); the counts of faults are whatever they are, that each was right is printed.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define WRITERS 3
#define PAGES 8
static volatile char *area;
static atomic_int stop, wrong, epoch, arrived;
static atomic_long written;
static __thread sigjmp_buf back;
static __thread volatile int armed;

static void on_fault(int s, siginfo_t *i, void *u) {
  if (!armed) _exit(99);
  armed = 0;
  siglongjmp(back, 1);
}

static void *fresh(void *at, int prot) {
  int fixed = at ? MAP_FIXED : 0;
  void *p = mmap(at, PAGES * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
  if (p == MAP_FAILED) _exit(98);
  return p;
}

static void start(pthread_t *t, void *(*f)(void *)) {
  atomic_store(&stop, 0);
  for (long i = 0; i < WRITERS; i++) pthread_create(&t[i], 0, f, (void *)i);
}
static void finish(pthread_t *t) {
  atomic_store(&stop, 1);
  for (int i = 0; i < WRITERS; i++) pthread_join(t[i], 0);
}

// Writes into its own word of each page, over and over; a fault is as good. Lets others run now and then, for machines
// with one CPU.
static void *writer(void *arg) {
  long me = (long)arg;
  for (unsigned n = 1; !atomic_load(&stop); n++) {
    if (n % 64 == 0) sched_yield();
    if (sigsetjmp(back, 1)) continue;
    volatile unsigned *word = (volatile unsigned *)(area + n % PAGES * PAGE) + me;
    armed = 1;
    *word = n;
    armed = 0;
    atomic_fetch_add(&written, 1);
  }
  return 0;
}
// Lets the writers run a little.
static void let(long more) {
  long until = atomic_load(&written) + more;
  for (int i = 0; i < 200 && atomic_load(&written) < until; i++) sched_yield();
}

// After mprotect has returned nothing changes.
static void protect(void) {
  pthread_t t[WRITERS];
  static char copy[PAGES * PAGE];
  int changed = 0;
  area = fresh(0, PROT_READ | PROT_WRITE);
  start(t, writer);
  for (int round = 0; round < 50; round++) {
    let(20);
    mprotect((void *)area, PAGES * PAGE, PROT_READ);
    memcpy(copy, (void *)area, sizeof copy);
    for (int i = 0; i < 3; i++) sched_yield();
    changed += memcmp(copy, (void *)area, sizeof copy) != 0;
    mprotect((void *)area, PAGES * PAGE, PROT_READ | PROT_WRITE);
  }
  finish(t);
  printf("protected memory that changed: %d\n", changed);
}

// Single pages in turn, so that ranges are flushed, not everything.
static void protect_one(void) {
  pthread_t t[WRITERS];
  int changed = 0;
  start(t, writer);
  for (int round = 0; round < 100; round++) {
    volatile char *page = area + round % PAGES * PAGE;
    let(5);
    mprotect((void *)page, PAGE, PROT_NONE);
    mprotect((void *)page, PAGE, PROT_READ);
    unsigned before[WRITERS], after[WRITERS];
    memcpy(before, (void *)page, sizeof before);
    for (int i = 0; i < 3; i++) sched_yield();
    memcpy(after, (void *)page, sizeof after);
    changed += memcmp(before, after, sizeof before) != 0;
    mprotect((void *)page, PAGE, PROT_READ | PROT_WRITE);
  }
  finish(t);
  printf("protected pages that changed: %d\n", changed);
}

// What was written through an old mapping is not in the pages that others got.
static void replace(void) {
  pthread_t t[WRITERS];
  int bad = 0;
  // Not where the old mapping was.
  char *others = fresh(0, PROT_NONE);
  start(t, writer);
  for (int round = 0; round < 50; round++) {
    let(10);
    munmap((void *)area, PAGES * PAGE);
    // The frames go to these, most likely; nobody may write there.
    fresh(others, PROT_READ | PROT_WRITE);
    for (unsigned long i = 0; i < PAGES; i++) others[i * PAGE] = 1;
    for (int i = 0; i < 3; i++) sched_yield();
    for (unsigned long i = 0; i < PAGES * PAGE; i++) bad += others[i] != (i % PAGE == 0);
    fresh(others, PROT_NONE);
    fresh((void *)area, PROT_READ | PROT_WRITE);
  }
  finish(t);
  printf("foreign bytes: %d\n", bad);
}

// MADV_DONTNEED: zeroes, or what was written since.
static void drop(void) {
  pthread_t t[WRITERS];
  int bad = 0;
  start(t, writer);
  for (int round = 0; round < 50; round++) {
    let(10);
    memset((void *)(area + 64), 7, 64);
    madvise((void *)area, PAGES * PAGE, MADV_DONTNEED);
    for (int i = 64; i < 128; i++) bad += area[i] != 0;
  }
  finish(t);
  printf("bytes that came back: %d\n", bad);
}

// A child sees what was there when it was made, and keeps it, whatever the parent's threads write.
static void forks(void) {
  pthread_t t[WRITERS];
  int bad = 0;
  start(t, writer);
  for (int round = 0; round < 10; round++) {
    let(20);
    pid_t p = fork();
    if (p == 0) {
      static char copy[PAGES * PAGE];
      memcpy(copy, (void *)area, sizeof copy);
      for (int i = 0; i < 20; i++) sched_yield();
      _exit(memcmp(copy, (void *)area, sizeof copy) ? 1 : 0);
    }
    int st = 0;
    waitpid(p, &st, 0);
    bad += st != 0;
  }
  finish(t);
  printf("children whose memory changed: %d\n", bad);
}

// Each round a new mapping with a number in it at the same address: every thread reads this round's, none an old one.
static void *reader(void *arg) {
  int seen = 0;
  while (!atomic_load(&stop)) {
    int now = atomic_load(&epoch);
    if (now == seen) {
      sched_yield();
      continue;
    }
    for (unsigned long i = 0; i < PAGES; i++)
      if (*(volatile int *)(area + i * PAGE) != now) atomic_fetch_add(&wrong, 1);
    seen = now;
    atomic_fetch_add(&arrived, 1);
  }
  return 0;
}
static void renew(void) {
  pthread_t t[WRITERS];
  atomic_store(&epoch, 0);
  start(t, reader);
  for (int round = 1; round <= 60; round++) {
    fresh((void *)area, PROT_READ | PROT_WRITE);
    for (unsigned long i = 0; i < PAGES; i++) *(volatile int *)(area + i * PAGE) = round;
    atomic_store(&arrived, 0);
    atomic_store(&epoch, round);
    while (atomic_load(&arrived) != WRITERS) sched_yield();
  }
  finish(t);
  printf("old pages seen: %d\n", atomic_load(&wrong));
}

// Several threads map, write, check and unmap their own memory at once.
static void *mapper(void *arg) {
  for (long n = 1; n <= 60; n++) {
    long *p = fresh(0, PROT_READ | PROT_WRITE);
    for (unsigned long i = 0; i < PAGES; i++) p[i * PAGE / 8] = n << 8 | (long)arg;
    mprotect(p, PAGE, PROT_READ);
    if (n % 3 == 0) sched_yield();
    for (unsigned long i = 0; i < PAGES; i++)
      if (p[i * PAGE / 8] != (n << 8 | (long)arg) || p[i * PAGE / 8 + 1]) atomic_fetch_add(&wrong, 1);
    munmap(p, PAGES * PAGE);
  }
  return 0;
}
static void mappers(void) {
  pthread_t t[WRITERS];
  atomic_store(&wrong, 0);
  start(t, mapper);
  finish(t);
  printf("mappers that saw others: %d\n", atomic_load(&wrong));
}

// Some grow and shrink their memory, which moves, while others map and unmap theirs: mremap(2) finds room every time.
static void *mover(void *arg) {
  for (long n = 1; n <= 60; n++) {
    long *p = fresh(0, PROT_READ | PROT_WRITE);
    for (unsigned long i = 0; i < PAGES; i++) p[i * PAGE / 8] = n << 8 | (long)arg;
    for (unsigned long pages = PAGES; pages <= 4 * PAGES; pages += PAGES) {
      p = mremap(p, pages * PAGE, (pages + PAGES) * PAGE, MREMAP_MAYMOVE);
      if (p == MAP_FAILED) return (void *)(long)atomic_fetch_add(&wrong, 1);
      p[pages * PAGE / 8] = n;
    }
    for (unsigned long i = 0; i < PAGES; i++)
      if (p[i * PAGE / 8] != (n << 8 | (long)arg)) atomic_fetch_add(&wrong, 1);
    munmap(p, 5 * PAGES * PAGE);
  }
  return 0;
}
static void movers(void) {
  pthread_t t[WRITERS], m[WRITERS];
  atomic_store(&wrong, 0);
  start(t, mover);
  start(m, mapper);
  finish(m);
  finish(t);
  printf("moves that went wrong: %d\n", atomic_load(&wrong));
}

int main(void) {
  struct sigaction a = {.sa_flags = SA_SIGINFO | SA_NODEFER, .sa_sigaction = on_fault};
  sigaction(SIGSEGV, &a, 0);
  setvbuf(stdout, 0, _IOLBF, 0);
  protect();
  protect_one();
  replace();
  drop();
  forks();
  renew();
  mappers();
  movers();
  puts(atomic_load(&written) > 100 ? "written" : "nothing was written");
  return 0;
}
