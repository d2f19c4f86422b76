// Signals against system calls: one behaviour per first argument, and how often as the second. What is printed must
// not depend on when the signals come.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static int rounds;
static volatile sig_atomic_t alarms, children;

#define CHECK(what)                                                                                                    \
  do {                                                                                                                 \
    if (!(what)) {                                                                                                     \
      printf("line %d: not %s (errno %d)\n", __LINE__, #what, errno);                                                  \
      fflush(stdout);                                                                                                  \
      _exit(99);                                                                                                       \
    }                                                                                                                  \
  } while (0)

static void on_alarm(int signal) {
  if (signal != SIGALRM)
    abort();
  alarms++;
}

static void on_child(int signal) {
  if (signal != SIGCHLD)
    abort();
  children++;
}

static void handle(int signal, void (*handler)(int), int flags) {
  struct sigaction act = {.sa_handler = handler, .sa_flags = flags};
  CHECK(sigaction(signal, &act, 0) == 0);
}

// Every so many microseconds; 0: no more.
static void tick(int us) {
  struct itimerval timer = {{0, us}, {0, us}};
  CHECK(setitimer(ITIMER_REAL, &timer, 0) == 0);
}

static int status_of(pid_t pid) {
  int status = -1;
  while (waitpid(pid, &status, 0) < 0)
    CHECK(errno == EINTR);
  return status;
}

// Linux never lets a memory call fail with EINTR, whatever the handler's flags.
static int mode_memory(int flags) {
  handle(SIGALRM, on_alarm, flags);
  tick(200);
  char resident[4];
  for (int i = 0; i < rounds || alarms < 20; i++) {
    char *p = mmap(0, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    p[5000] = 7;
    CHECK(mprotect(p, 16384, PROT_READ) == 0 && mprotect(p, 16384, PROT_READ | PROT_WRITE) == 0);
    CHECK(madvise(p + 4096, 4096, MADV_DONTNEED) == 0);
    CHECK(p[5000] == 0);
    CHECK(mincore(p, 16384, (unsigned char *)resident) == 0);
    p = mremap(p, 16384, 32768, MREMAP_MAYMOVE);
    CHECK(p != MAP_FAILED);
    CHECK(munmap(p, 32768) == 0);
    char *end = sbrk(8192);
    CHECK(end != (void *)-1 && sbrk(-8192) == end + 8192);
  }
  tick(0);
  puts("no memory call was interrupted");
  return 0;
}

// Nor does fork, while children end and a timer ticks; vfork and the end of threads neither.
static void *nothing(void *arg) { return arg; }

static int mode_fork(int flags) {
  handle(SIGALRM, on_alarm, flags);
  handle(SIGCHLD, on_child, flags);
  tick(500);
  pid_t pids[4] = {0};
  for (int i = 0; i < rounds; i++) {
    pid_t *slot = &pids[i % 4];
    if (*slot)
      CHECK(status_of(*slot) == 0);
    *slot = fork();
    CHECK(*slot >= 0);
    if (!*slot)
      _exit(0);
    pid_t pid = vfork();
    CHECK(pid >= 0);
    if (!pid)
      _exit(3);
    CHECK(status_of(pid) == 3 << 8);
    pthread_t thread;
    void *result;
    CHECK(pthread_create(&thread, 0, nothing, &thread) == 0);
    CHECK(pthread_join(thread, &result) == 0 && result == &thread);
  }
  for (int i = 0; i < 4; i++)
    if (pids[i])
      CHECK(status_of(pids[i]) == 0);
  tick(0);
  puts(children > 0 ? "forked, children ended" : "no SIGCHLD came");
  return 0;
}

// A read of an empty pipe while signals come: -1 when one ended it, else what was read. With SA_RESTART a byte comes
// after some signals; without it the signals go on until the read has failed.
static int slow_read(int flags) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  handle(SIGALRM, on_alarm, flags);
  pid_t reader = getpid(), writer = fork();
  CHECK(writer >= 0);
  if (!writer) {
    for (int i = 0; i < 3 || !flags; i++) {
      usleep(3000);
      if (kill(reader, SIGALRM) < 0)
        _exit(1);
    }
    CHECK(write(ends[1], "x", 1) == 1);
    _exit(0);
  }
  char c = 0;
  int got = read(ends[0], &c, 1);
  if (got < 0) {
    CHECK(errno == EINTR && alarms > 0);
    kill(writer, SIGKILL);
  }
  int status = status_of(writer);
  CHECK(got < 0 || (status == 0 && c == 'x'));
  close(ends[0]);
  close(ends[1]);
  return got;
}

// What may fail with EINTR does so exactly when the handler has no SA_RESTART.
static int interruptible(const char *who) {
  printf("%s: without SA_RESTART %d, with it %d\n", who, slow_read(0), slow_read(SA_RESTART));
  fflush(stdout);
  return 0;
}

static int mode_slow(void) {
  interruptible("program");
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (!pid)
    _exit(interruptible("child"));
  CHECK(status_of(pid) == 0);
  return 0;
}

static volatile long seen_rip, seen_rax, seen_signal, seen_code;

static void with_info(int signal, siginfo_t *info, void *context) {
  ucontext_t *u = context;
  seen_signal = signal == info->si_signo ? signal : -1;
  seen_code = info->si_code;
  seen_rip = u->uc_mcontext.gregs[REG_RIP];
  seen_rax = u->uc_mcontext.gregs[REG_RAX];
}

// What a handler is given, and what sigaction says of it.
static int mode_handlers(void) {
  struct sigaction act = {.sa_sigaction = with_info, .sa_flags = SA_SIGINFO | SA_NODEFER}, old;
  sigaddset(&act.sa_mask, SIGHUP);
  CHECK(sigaction(SIGUSR1, &act, 0) == 0);
  memset(&old, 0x55, sizeof old);
  CHECK(sigaction(SIGUSR1, 0, &old) == 0);
  CHECK(old.sa_sigaction == with_info);
  printf("flags %x, SIGHUP %d, SIGINT %d\n", old.sa_flags, sigismember(&old.sa_mask, SIGHUP),
         sigismember(&old.sa_mask, SIGINT));
  raise(SIGUSR1);
  printf("signal %ld, code %ld, rax %ld\n", seen_signal, seen_code, seen_rax);

  // A child has it, too.
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (!pid) {
    CHECK(sigaction(SIGUSR1, 0, &old) == 0);
    CHECK(old.sa_sigaction == with_info && (old.sa_flags & SA_RESTART) == 0);
    seen_signal = 0;
    raise(SIGUSR1);
    CHECK(seen_signal == SIGUSR1);
    CHECK(sigaction(SIGUSR1, &old, 0) == 0);
    raise(SIGUSR1);
    _exit(seen_signal == SIGUSR1 ? 0 : 1);
  }
  CHECK(status_of(pid) == 0);

  // A read that a signal interrupts, as its handler sees it.
  int ends[2];
  CHECK(pipe(ends) == 0);
  pid = fork();
  CHECK(pid >= 0);
  if (!pid) {
    for (;;) {
      usleep(2000);
      if (kill(getppid(), SIGUSR1) < 0)
        _exit(0);
    }
  }
  char c;
  CHECK(read(ends[0], &c, 1) == -1 && errno == EINTR);
  kill(pid, SIGKILL);
  status_of(pid);
  printf("in read: rax %ld, behind a syscall instruction %d\n", seen_rax,
         memcmp((char *)seen_rip - 2, "\x0f\x05", 2) == 0);

  handle(SIGALRM, on_alarm, SA_RESETHAND);
  raise(SIGALRM);
  CHECK(sigaction(SIGALRM, 0, &old) == 0);
  printf("ran %d, then default %d\n", alarms, old.sa_handler == SIG_DFL);
  return 0;
}

static void count(int signal) {
  (void)signal;
  children++;
}

static void outer(int signal) {
  (void)signal;
  alarms++;
  raise(SIGUSR2);
}

static void by_value(int signal, siginfo_t *info, void *context) {
  (void)signal, (void)context;
  seen_code += info->si_value.sival_int;
}

static int mode_nested(void) {
  stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
  CHECK(sigaltstack(&stack, 0) == 0);
  handle(SIGUSR1, outer, SA_ONSTACK);
  handle(SIGUSR2, count, 0);
  for (int i = 0; i < 100; i++)
    raise(SIGUSR1);
  struct sigaction act = {.sa_sigaction = by_value, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  CHECK(sigaction(SIGRTMIN + 3, &act, 0) == 0);
  sigset_t set, before;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN + 3);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, &before);
  for (int i = 1; i <= 10; i++)
    sigqueue(getpid(), SIGRTMIN + 3, (union sigval){i});
  raise(SIGUSR1);
  sigprocmask(SIG_SETMASK, &before, 0);
  printf("outer %d, inner %d, values %ld\n", alarms, children, seen_code);
  return 0;
}

// The kernel's own answers to bad arguments.
static int mode_errors(void) {
  struct {
    void (*handler)(int);
    unsigned long flags;
    void *restorer;
    unsigned long mask;
  } act = {on_alarm, 0, 0, 0}, old;
#define SAY(...) printf("%d: %ld %d\n", __LINE__, syscall(SYS_rt_sigaction, __VA_ARGS__), errno)
  errno = 0;
  SAY(SIGALRM, &act, 0, 4);
  SAY(SIGALRM, (void *)8, 0, 8);
  SAY(0, &act, 0, 8);
  SAY(65, &act, 0, 8);
  SAY(65, (void *)8, 0, 8);
  SAY(-1, 0, &old, 8);
  SAY(SIGKILL, &act, 0, 8);
  SAY(SIGSTOP, 0, &old, 8);
  SAY(1L << 32 | SIGALRM, 0, &old, 8);
  SAY(SIGALRM, &act, (void *)8, 8);
  SAY(SIGALRM, 0, &old, 8);
  printf("set %d, flags %lx\n", old.handler == on_alarm, old.flags);
  SAY(SIGALRM, 0, (void *)8, 8);
  act.flags = ~0x04000000ul /* SA_RESTORER */;
  SAY(SIGALRM, &act, 0, 8);
  SAY(SIGALRM, 0, &old, 8);
  printf("flags %lx\n", old.flags);
  act.flags &= ~(unsigned long)SA_RESTART;
  SAY(SIGALRM, &act, &old, 8);
  SAY(SIGALRM, 0, &old, 8);
  printf("flags %lx\n", old.flags);
  act.handler = SIG_IGN, act.flags = 0;
  SAY(SIGALRM, &act, &old, 8);
  printf("set %d\n", old.handler == on_alarm);
  SAY(SIGALRM, 0, &old, 8);
  printf("ignored %d, flags %lx\n", old.handler == SIG_IGN, old.flags);
  return 0;
}

int main(int argc, char **argv) {
  const char *mode = argc > 1 ? argv[1] : "";
  rounds = argc > 2 ? atoi(argv[2]) : 1;
#define MODE(name, call)                                                                                               \
  if (!strcmp(mode, name))                                                                                             \
  return call
  MODE("memory", mode_memory(0));
  MODE("memory-restart", mode_memory(SA_RESTART));
  MODE("fork", mode_fork(0));
  MODE("fork-restart", mode_fork(SA_RESTART));
  MODE("slow", mode_slow());
  MODE("handlers", mode_handlers());
  MODE("nested", mode_nested());
  MODE("errors", mode_errors());
  return 64;
}
