// A program with many small behaviours, one per first argument. The tests run it natively and under machvm and
// compare; what differs by nature (refusals, addresses) is printed only by modes that say so.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xmmintrin.h>

extern char **environ;
static char big_zero[1 << 20];
static int data_word = 42;

// Arguments, environment, and what the kernel says about them.
static int mode_start(int argc, char **argv) {
  for (int i = 0; i < argc; i++)
    printf("arg %s\n", argv[i]);
  for (char **e = environ; *e; e++)
    printf("env %s\n", *e);
  for (size_t i = 0; i < sizeof big_zero; i++)
    if (big_zero[i])
      return 90;
  printf("data %d mxcsr %#x\n", data_word, _mm_getcsr());
  char buf[4096];
  int fd = open("/proc/self/cmdline", O_RDONLY);
  int n = read(fd, buf, sizeof buf);
  for (int i = 0; i < n; i++)
    putchar(buf[i] ? buf[i] : '|');
  close(fd);
  fd = open("/proc/self/comm", O_RDONLY);
  n = read(fd, buf, sizeof buf);
  printf("\ncomm %.*s", n, buf);
  close(fd);
  return 0;
}

// Every key of the auxiliary vector in its order, and the values that do not depend on placement.
static int mode_auxv(void) {
  char **e = environ;
  while (*e)
    e++;
  for (ElfW(auxv_t) *a = (void *)(e + 1);; a++) {
    unsigned long key = a->a_type, value = a->a_un.a_val;
    int place = key == AT_PHDR || key == AT_BASE || key == AT_ENTRY || key == AT_RANDOM || key == AT_SYSINFO_EHDR ||
                key == AT_EXECFN || key == AT_PLATFORM;
    printf("%lu %#lx\n", key, place ? (unsigned long)(value != 0) : value);
    if (key == AT_EXECFN || key == AT_PLATFORM)
      printf("  %s\n", (char *)value);
    if (key == AT_NULL)
      break;
  }
  int fd = open("/proc/self/auxv", O_RDONLY);
  ElfW(auxv_t) seen[64];
  int n = read(fd, seen, sizeof seen) / sizeof seen[0];
  ElfW(auxv_t) *a = (void *)(e + 1);
  for (int i = 0; i < n && a[i].a_type; i++)
    if (seen[i].a_type != a[i].a_type || seen[i].a_un.a_val != a[i].a_un.a_val)
      return 91;
  printf("stack aligned %d\n", (int)((uintptr_t)__builtin_frame_address(0) % 16));
  return 0;
}

static volatile sig_atomic_t alarms;
static void on_alarm(int s) {
  (void)s;
  alarms++;
}
// A timer at 1 kHz with SA_RESTART against a loop of memory calls.
static int mode_alarm(void) {
  struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
  sigaction(SIGALRM, &sa, 0);
  struct itimerval it = {{0, 1000}, {0, 1000}};
  setitimer(ITIMER_REAL, &it, 0);
  for (long i = 0; i < 2000 || alarms < 50; i++) {
    char *p = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
      printf("mmap %s\n", strerror(errno));
      return 92;
    }
    p[5] = i;
    if (mprotect(p, 4096, PROT_READ) || munmap(p, 65536)) {
      printf("munmap %s\n", strerror(errno));
      return 93;
    }
  }
  puts("done");
  return 0;
}

static __thread int tls = 7;
static void *worker(void *arg) {
  long id = (long)arg, sum = 0;
  tls += id;
  for (int i = 0; i < 50; i++) {
    size_t len = 4096 * (1 + (id + i) % 40);
    unsigned char *p = malloc(len * 8);
    memset(p, id, len * 8);
    for (size_t k = 0; k < len * 8; k += 4096)
      sum += p[k];
    free(p);
  }
  return (void *)(sum * 1000 + tls);
}
// Threads come and go while they allocate.
static int mode_threads(void) {
  long total = 0;
  for (int round = 0; round < 20; round++) {
    pthread_t t[8];
    for (long i = 0; i < 8; i++)
      if (pthread_create(&t[i], 0, worker, (void *)i))
        return 94;
    for (int i = 0; i < 8; i++) {
      void *r;
      pthread_join(t[i], &r);
      total += (long)r;
    }
  }
  printf("total %ld\n", total);
  return 0;
}

static void *last_thread(void *arg) {
  (void)arg;
  usleep(50000);
  puts("last");
  fflush(stdout);
  syscall(SYS_exit, 23);
  return 0;
}
// The main thread ends first, the last thread leaves by exit(2) and not exit_group(2).
static int mode_last_thread(void) {
  pthread_t t;
  pthread_create(&t, 0, last_thread, 0);
  syscall(SYS_exit, 11);
  return 0;
}

static int mode_die(const char *how) {
  if (!strcmp(how, "segv"))
    *(volatile int *)8 = 1;
  if (!strcmp(how, "readonly"))
    *(volatile char *)(uintptr_t) "constant" = 1;
  if (!strcmp(how, "bus")) {
    char name[] = "/tmp/machvm-probe-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    volatile char *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    p[0] = 1;
  }
  if (!strcmp(how, "abort"))
    abort();
  if (!strcmp(how, "exit"))
    _exit(255);
  kill(getpid(), atoi(how));
  pause();
  return 95;
}

static void on_segv(int s, siginfo_t *si, void *uc) {
  (void)uc;
  printf("signal %d code %d addr %p\n", s, si->si_code, si->si_addr);
  fflush(stdout);
  _exit(4);
}
// A handler on an alternate stack sees the fault as Linux reports it.
static int mode_handler(void) {
  static char alt[65536];
  stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt}, old;
  sigaltstack(&ss, &old);
  printf("altstack before: flags %d size %zu\n", old.ss_flags, old.ss_size);
  struct sigaction sa = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigaction(SIGSEGV, &sa, 0);
  char *p = mmap((void *)0x10000000, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  *(volatile char *)(p + 4097) = 1;
  return 96;
}

static int mode_ids(void) {
  printf("pid is tid %d, session %d, group %d\n", getpid() == (int)syscall(SYS_gettid), getsid(0) == getsid(getppid()),
         getpgrp() == getpgid(getppid()));
  int r = wait(0);
  printf("wait %d %s\n", r, strerror(errno));
  struct rlimit l;
  getrlimit(RLIMIT_STACK, &l);
  printf("stack limit %lu\n", l.rlim_cur);
  return 0;
}

static int mode_exe(void) {
  char buf[4096] = {0};
  int n = readlink("/proc/self/exe", buf, sizeof buf - 1);
  printf("%d %s\n", n, buf);
  memset(buf, 0, sizeof buf);
  n = readlinkat(AT_FDCWD, "/proc/self/exe", buf, 5);
  printf("%d %s\n", n, buf);
  n = readlink("/proc/self/exe", (char *)8, 5);
  printf("%d %s\n", n, strerror(errno));
  n = readlink("/proc/self/exe", buf, 0);
  printf("%d %s\n", n, strerror(errno));
  n = readlink((char *)8, buf, 5);
  printf("%d %s\n", n, strerror(errno));
  return 0;
}

// Everything above standard error is closed; memory goes on working.
static int mode_close_range(void) {
  printf("close_range %ld\n", syscall(SYS_close_range, 3, ~0U, 0));
  for (int i = 0; i < 200; i++) {
    char *p = malloc(300000);
    memset(p, i, 300000);
    if (p[299999] != (char)i)
      return 97;
    free(p);
  }
  puts("memory works");
  return 0;
}

static int mode_spawn(void) {
  for (int i = 0; i < 5; i++) {
    char *argv[] = {"echo", "spawned", 0};
    pid_t pid;
    if (posix_spawnp(&pid, "echo", 0, 0, argv, environ))
      return 98;
    int st;
    if (waitpid(pid, &st, 0) != pid)
      return 99;
    printf("status %d\n", st);
    fflush(stdout);
  }
  pid_t pid = vfork();
  if (!pid) {
    execl("/bin/sh", "sh", "-c", "exit 9", (char *)0);
    _exit(1);
  }
  int st;
  waitpid(pid, &st, 0);
  printf("vfork %d\n", WEXITSTATUS(st));
  return 0;
}

// Standard output is closed and the process stays: its reader must see the end.
static int mode_close_stdout(void) {
  puts("bye");
  fclose(stdout);
  pause();
  return 0;
}

// What machvm refuses, and native Linux does not (so this is not compared).
static int mode_refusals(const char *file) {
  long r = syscall(SYS_io_uring_setup, 1, 0);
  printf("io_uring %s\n", r < 0 ? strerrorname_np(errno) : "ok");
  r = syscall(SYS_clone3, 0, 0);
  printf("clone3 %s\n", r < 0 ? strerrorname_np(errno) : "ok");
  r = open(file, O_RDONLY | O_DIRECT);
  printf("open direct %s\n", r < 0 ? strerrorname_np(errno) : "ok");
  int fd = open(file, O_RDONLY);
  r = fcntl(fd, F_SETFL, O_DIRECT);
  printf("fcntl direct %s\n", r < 0 ? strerrorname_np(errno) : "ok");
  struct {
    uint64_t flags, mode, resolve;
  } how = {O_DIRECT, 0, 0};
  r = syscall(SYS_openat2, AT_FDCWD, file, &how, sizeof how);
  printf("openat2 direct %s\n", r < 0 ? strerrorname_np(errno) : "ok");
  int p[2];
  if (pipe(p))
    return 1;
  struct iovec v = {big_zero, 4096};
  r = vmsplice(p[1], &v, 1, SPLICE_F_GIFT);
  printf("gift %s\n", r < 0 ? strerrorname_np(errno) : "ok");
  long i;
  __asm__ volatile("int $0x80" : "=a"(i) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
  printf("int80 %s\n", i < 0 ? strerrorname_np(-i) : "ok");
  r = syscall(SYS_getpid | 0x40000000);
  printf("x32 %s\n", r < 0 ? strerrorname_np(errno) : "ok");
  return 0;
}

// The program's own filter kills its only thread.
static int mode_seccomp_kill(void) {
  struct sock_filter f[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_THREAD),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog p = {4, f};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p))
    return 101;
  puts("filtered");
  getppid();
  return 102;
}

static void *burn(void *arg) {
  for (;;) {
    char *p = mmap(0, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    p[1] = 1;
    munmap(p, 1 << 16);
  }
  return arg;
}
// The process ends while threads are in the middle of memory calls.
static int mode_exit_busy(void) {
  pthread_t t;
  for (int i = 0; i < 4; i++)
    pthread_create(&t, 0, burn, 0);
  usleep(20000);
  puts("out");
  return 17;
}

int main(int argc, char **argv) {
  setvbuf(stdout, 0, _IOLBF, 0);
  const char *m = argc > 1 ? argv[1] : "", *a = argc > 2 ? argv[2] : "";
  if (!strcmp(m, "start"))
    return mode_start(argc, argv);
  if (!strcmp(m, "auxv"))
    return mode_auxv();
  if (!strcmp(m, "alarm"))
    return mode_alarm();
  if (!strcmp(m, "threads"))
    return mode_threads();
  if (!strcmp(m, "last-thread"))
    return mode_last_thread();
  if (!strcmp(m, "die"))
    return mode_die(a);
  if (!strcmp(m, "handler"))
    return mode_handler();
  if (!strcmp(m, "ids"))
    return mode_ids();
  if (!strcmp(m, "exe"))
    return mode_exe();
  if (!strcmp(m, "close-range"))
    return mode_close_range();
  if (!strcmp(m, "spawn"))
    return mode_spawn();
  if (!strcmp(m, "close-stdout"))
    return mode_close_stdout();
  if (!strcmp(m, "refusals"))
    return mode_refusals(a);
  if (!strcmp(m, "seccomp-kill"))
    return mode_seccomp_kill();
  if (!strcmp(m, "exit-busy"))
    return mode_exit_busy();
  return 100;
}
