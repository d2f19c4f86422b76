// Threads: mutexes, conditions, barriers, joins, thread-local storage, cancellation, signals to one thread, exit and
// exec among threads, robust mutexes, locks shared by processes. Prints the same on Linux.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { N = 8, ROUNDS = 2000 };
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cv = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t bar;
static long sum;
static __thread int local = 5;
static int turn;

static void *adder(void *a) {
  local += (long)a;
  for (int i = 0; i < ROUNDS; i++) {
    pthread_mutex_lock(&m);
    long s = sum;
    if (i % 64 == 0) sched_yield();
    sum = s + 1;
    pthread_mutex_unlock(&m);
  }
  return (void *)(long)local;
}
static void *ring(void *a) {
  long me = (long)a;
  for (int i = 0; i < 50; i++) {
    pthread_mutex_lock(&m);
    while (turn % N != me) pthread_cond_wait(&cv, &m);
    turn++;
    pthread_cond_broadcast(&cv);
    pthread_mutex_unlock(&m);
  }
  return 0;
}
static int phase[N];
static void *phases(void *a) {
  long me = (long)a, bad = 0;
  for (int i = 0; i < 30; i++) {
    phase[me] = i;
    pthread_barrier_wait(&bar);
    for (int k = 0; k < N; k++) bad += phase[k] != i;
    pthread_barrier_wait(&bar);
  }
  return (void *)bad;
}
static volatile sig_atomic_t hit;
static pid_t hit_tid;
static void on_usr1(int s) { (void)s; hit_tid = syscall(SYS_gettid); hit = 1; }
static sem_t ready;
static void *sleeper(void *a) {
  *(pid_t *)a = syscall(SYS_gettid);
  sem_post(&ready);
  while (!hit) pause();
  return 0;
}
static void *cancelled(void *a) {
  (void)a;
  for (;;) sleep(100);
}
static void *storm(void *a) { return a; }

static void all(void *(*f)(void *), long *results) {
  pthread_t t[N];
  for (long i = 0; i < N; i++) pthread_create(&t[i], 0, f, (void *)i);
  for (int i = 0; i < N; i++) {
    void *r;
    pthread_join(t[i], &r);
    results[i] = (long)r;
  }
}

static void *exits(void *a) { (void)a; usleep(20000); exit(33); }
static void *execs(void *a) {
  char *argv[] = {(char *)a, "again", 0}, *envp[] = {0};
  usleep(20000);
  execve(a, argv, envp);
  _exit(1);
}
static void *faults(void *a) { (void)a; *(volatile int *)0 = 1; return 0; }
static void *dies_with(void *a) { pthread_mutex_lock(a); return 0; }

int main(int argc, char **argv) {
  setvbuf(stdout, 0, _IONBF, 0);
  if (argc > 1) {
    printf("exec from a thread: leader again %d\n", syscall(SYS_gettid) == getpid());
    return 44;
  }
  long r[N], bad = 0;
  all(adder, r);
  for (int i = 0; i < N; i++) bad += r[i] != 5 + i;
  printf("sum %ld, thread-local wrong %ld, ours %d\n", sum, bad, local);
  all(ring, r);
  printf("turns %d\n", turn);
  pthread_barrier_init(&bar, 0, N);
  all(phases, r);
  bad = 0;
  for (int i = 0; i < N; i++) bad += r[i];
  printf("phases wrong %ld\n", bad);
  bad = 0;
  for (long i = 0; i < 300; i++) {
    pthread_t t;
    void *v;
    bad += pthread_create(&t, 0, storm, (void *)i) != 0;
    pthread_join(t, &v);
    bad += (long)v != i;
  }
  printf("300 threads one by one: wrong %ld\n", bad);

  signal(SIGUSR1, on_usr1);
  sem_init(&ready, 0, 0);
  pthread_t t;
  pid_t tid = 0;
  pthread_create(&t, 0, sleeper, &tid);
  sem_wait(&ready);
  usleep(10000);
  pthread_kill(t, SIGUSR1);
  pthread_join(t, 0);
  printf("signal to a thread: %d\n", hit_tid == tid && tid != getpid());
  pthread_create(&t, 0, cancelled, 0);
  usleep(10000);
  pthread_cancel(t);
  void *v;
  pthread_join(t, &v);
  printf("cancelled %d\n", v == PTHREAD_CANCELED);

  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  ts.tv_nsec += 30000000;
  if (ts.tv_nsec >= 1000000000) ts.tv_nsec -= 1000000000, ts.tv_sec++;
  pthread_mutex_lock(&m);
  int e = pthread_cond_timedwait(&cv, &m, &ts);
  pthread_mutex_unlock(&m);
  printf("timedwait: %s\n", strerror(e));

  pthread_mutexattr_t at;
  pthread_mutex_t rob;
  pthread_mutexattr_init(&at);
  pthread_mutexattr_setrobust(&at, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&rob, &at);
  pthread_create(&t, 0, dies_with, &rob);
  pthread_join(t, 0);
  e = pthread_mutex_lock(&rob);
  printf("robust: %s\n", strerror(e));
  e = pthread_mutex_consistent(&rob);
  printf("consistent %d\n", e);
  e = pthread_mutex_unlock(&rob);
  printf("unlock %d\n", e);

  // Processes share a lock, a condition and a counter.
  struct { pthread_mutex_t m; pthread_cond_t c; pthread_barrier_t b; long n; sem_t s; } *sh;
  sh = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pthread_condattr_t ca;
  pthread_barrierattr_t ba;
  pthread_mutexattr_setpshared(&at, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&sh->m, &at);
  pthread_condattr_init(&ca);
  pthread_condattr_setpshared(&ca, PTHREAD_PROCESS_SHARED);
  pthread_cond_init(&sh->c, &ca);
  pthread_barrierattr_init(&ba);
  pthread_barrierattr_setpshared(&ba, PTHREAD_PROCESS_SHARED);
  pthread_barrier_init(&sh->b, &ba, 4);
  sem_init(&sh->s, 1, 0);
  for (int i = 0; i < 4; i++)
    if (!fork()) {
      pthread_barrier_wait(&sh->b);
      for (int k = 0; k < 500; k++) {
        pthread_mutex_lock(&sh->m);
        long n = sh->n;
        if (k % 50 == 0) sched_yield();
        sh->n = n + 1;
        pthread_mutex_unlock(&sh->m);
      }
      sem_post(&sh->s);
      _exit(0);
    }
  for (int i = 0; i < 4; i++) sem_wait(&sh->s);
  while (wait(0) > 0) {}
  printf("shared count %ld\n", sh->n);
  if (!fork()) {
    pthread_mutex_lock(&sh->m);
    _exit(0);
  }
  wait(0);
  e = pthread_mutex_lock(&sh->m);
  printf("owner's process died: %s\n", strerror(e));
  pthread_mutex_consistent(&sh->m);
  pthread_mutex_unlock(&sh->m);
  pthread_mutexattr_t pi;
  pthread_mutexattr_init(&pi);
  pthread_mutexattr_setprotocol(&pi, PTHREAD_PRIO_INHERIT);
  printf("prio inherit init %d\n", pthread_mutex_init(&m, &pi));
  sum = 0;
  all(adder, r);
  printf("sum %ld\n", sum);

  int st;
  if (!fork()) {
    pthread_create(&t, 0, exits, 0);
    for (;;) pause();
  }
  wait(&st);
  printf("exit in a thread: %d\n", WEXITSTATUS(st));
  if (!fork()) {
    pthread_create(&t, 0, faults, 0);
    for (;;) pause();
  }
  wait(&st);
  printf("fault in a thread: %d\n", WTERMSIG(st));
  if (!fork()) {
    pthread_create(&t, 0, cancelled, 0);
    pthread_create(&t, 0, execs, argv[0]);
    for (;;) pause();
  }
  wait(&st);
  printf("exec status %d\n", WEXITSTATUS(st));
  if (!fork()) {
    pthread_create(&t, 0, exits, 0);
    pthread_exit(0);
  }
  wait(&st);
  printf("leader left first: %d\n", WEXITSTATUS(st));
  return 0;
}
