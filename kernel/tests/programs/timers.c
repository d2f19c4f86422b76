// Clocks, sleeps and timers, coarsely. Prints the same on Linux.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/times.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t n;
static siginfo_t last;
static void count(int s, siginfo_t *i, void *c) { (void)s; (void)c; n++; last = *i; }

static double now(clockid_t c) {
  struct timespec t;
  clock_gettime(c, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

int main(void) {
  setvbuf(stdout, 0, _IONBF, 0);
  struct sigaction a = {0};
  a.sa_sigaction = count;
  a.sa_flags = SA_SIGINFO;
  sigaction(SIGALRM, &a, 0);
  sigaction(SIGVTALRM, &a, 0);
  sigaction(SIGPROF, &a, 0);
  sigaction(SIGRTMIN, &a, 0);

  clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME, 77};
  for (unsigned i = 0; i < sizeof clocks / sizeof *clocks; i++) {
    struct timespec t, r;
    errno = 0;
    int e = clock_gettime(clocks[i], &t);
    int g = clock_getres(clocks[i], &r);
    printf("clock %d: %d res %d %s\n", clocks[i], e, g, strerror(errno));
  }
  printf("the year is sane: %d\n", time(0) > 1600000000 && time(0) < 4000000000u);
  double t0 = now(CLOCK_MONOTONIC), last_seen = t0;
  int back = 0, same = 0;
  for (int i = 0; i < 1000; i++) {
    double t = now(CLOCK_MONOTONIC);
    back += t < last_seen;
    same += t == last_seen;
    last_seen = t;
  }
  printf("backwards %d, moves %d\n", back, same < 900);

  struct timespec ts = {0, 50000000};
  t0 = now(CLOCK_MONOTONIC);
  nanosleep(&ts, 0);
  double d = now(CLOCK_MONOTONIC) - t0;
  printf("slept at least: %d\n", d >= 0.05);
  clock_gettime(CLOCK_MONOTONIC, &ts);
  ts.tv_nsec += 50000000;
  if (ts.tv_nsec >= 1000000000) ts.tv_nsec -= 1000000000, ts.tv_sec++;
  t0 = now(CLOCK_MONOTONIC);
  int r = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, 0);
  d = now(CLOCK_MONOTONIC) - t0;
  printf("absolute: %d %d\n", r, d >= 0.045);
  clock_gettime(CLOCK_REALTIME, &ts);
  r = clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &ts, 0);
  printf("past: %d\n", r);
  ts.tv_nsec = 1000000000;
  errno = 0;
  r = nanosleep(&ts, 0);
  printf("bad: %d %s\n", r, strerror(errno));

  unsigned left = alarm(100);
  printf("alarm: %u\n", left);
  left = alarm(0);
  printf("alarm left: %d\n", left >= 99 && left <= 100);
  struct itimerval it = {{0, 20000}, {0, 20000}}, old;
  setitimer(ITIMER_REAL, &it, 0);
  n = 0;
  while (n < 3) pause();
  printf("ticks: %d\n", n >= 3);
  memset(&it, 0, sizeof it);
  setitimer(ITIMER_REAL, &it, &old);
  printf("interval %ld\n", (long)old.it_interval.tv_usec);
  it.it_value.tv_usec = 30000;
  n = 0;
  setitimer(ITIMER_VIRTUAL, &it, 0);
  while (!n) {}
  printf("virtual: %d\n", n);
  n = 0;
  setitimer(ITIMER_PROF, &it, 0);
  while (!n) getppid();
  printf("prof: %d\n", n);
  errno = 0;
  r = setitimer(9, &it, 0);
  printf("no such: %d %s\n", r, strerror(errno));

  timer_t t;
  struct sigevent ev = {0};
  ev.sigev_notify = SIGEV_SIGNAL;
  ev.sigev_signo = SIGRTMIN;
  ev.sigev_value.sival_int = 99;
  r = timer_create(CLOCK_MONOTONIC, &ev, &t);
  printf("timer_create %d\n", r);
  struct itimerspec is = {{0, 20000000}, {0, 20000000}}, was;
  r = timer_settime(t, 0, &is, &was);
  printf("settime %d, was %ld\n", r, was.it_value.tv_sec + was.it_value.tv_nsec);
  n = 0;
  while (n < 2) pause();
  printf("code %d value %d\n", last.si_code, last.si_value.sival_int);
  timer_gettime(t, &was);
  printf("interval %ld\n", was.it_interval.tv_nsec);
  r = timer_delete(t);
  printf("delete %d\n", r);
  ev.sigev_signo = 100;
  errno = 0;
  r = timer_create(CLOCK_MONOTONIC, &ev, &t);
  printf("bad signal %d %s\n", r, strerror(errno));

  struct rusage u;
  struct tms tm;
  volatile long x = 0;
  while (now(CLOCK_PROCESS_CPUTIME_ID) < 0.1) x++;
  getrusage(RUSAGE_SELF, &u);
  printf("used: %d\n", u.ru_utime.tv_sec + u.ru_stime.tv_sec > 0 || u.ru_utime.tv_usec + u.ru_stime.tv_usec >= 90000);
  printf("times: %d\n", times(&tm) != -1 && tm.tms_utime + tm.tms_stime >= 8);
  return 0;
}
