// Forks, replaces itself, and ends threads: one behaviour per first argument. The tests run it natively and under
// machvm and compare everything it prints.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static char *self;
static char statics[300000];
static __thread int in_tls = 5;

#define CHECK(what)                                                                                                    \
  do {                                                                                                                 \
    if (!(what)) {                                                                                                     \
      printf("line %d: not %s (errno %d)\n", __LINE__, #what, errno);                                                  \
      fflush(stdout);                                                                                                  \
      _exit(99);                                                                                                       \
    }                                                                                                                  \
  } while (0)

static unsigned sum(const char *p, size_t n) {
  unsigned h = 17;
  for (size_t i = 0; i < n; i++)
    h = h * 31 + (unsigned char)p[i];
  return h;
}

static void fill(char *p, size_t n, unsigned seed) {
  for (size_t i = 0; i < n; i++) {
    seed = seed * 1103515245 + 12345;
    p[i] = seed >> 16;
  }
}

static int status_of(pid_t pid) {
  int status = -1;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
    ;
  return status;
}

// No child is there but the program's own.
static int mode_no_child(void) {
  CHECK(waitpid(-1, 0, WNOHANG) == -1 && errno == ECHILD);
  pid_t pid = fork();
  if (!pid)
    _exit(4);
  CHECK(waitpid(-1, 0, 0) == pid);
  CHECK(wait(0) == -1 && errno == ECHILD);
  return 0;
}

static int mode_statuses(void) {
  for (int i = 0; i < 50; i++) {
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid)
      exit(i * 5);
    printf("%d ", status_of(pid));
  }
  int deaths[] = {SIGKILL, SIGTERM, SIGSEGV, SIGABRT};
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  for (int i = 0; i < 4; i++) {
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
      if (deaths[i] == SIGSEGV)
        *(volatile int *)8 = 1;
      raise(deaths[i]);
    }
    printf("%d\n", status_of(pid));
  }
  return 0;
}

// Neither side ever sees what the other writes after the fork, in any kind of private memory.
static int mode_isolation(void) {
  size_t n = 6 << 20;
  char stack[50000];
  char *heap = malloc(n), *map = mmap(0, n, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  int fd = open(self, O_RDONLY);
  char *file = mmap(0, 65536, 3, MAP_PRIVATE, fd, 0);
  char *untouched = mmap(0, 1 << 30, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  struct {
    char *p;
    size_t n;
  } all[] = {{heap, n}, {map, n}, {stack, sizeof stack}, {statics, sizeof statics}, {file, 8192}};
  unsigned before[5];
  for (int i = 0; i < 5; i++) {
    fill(all[i].p, all[i].n, i + 1);
    before[i] = sum(all[i].p, all[i].n);
  }
  int there[2], back[2];
  CHECK(!pipe(there) && !pipe(back));
  char c;
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (!pid) {
    for (int i = 0; i < 5; i++)
      CHECK(sum(all[i].p, all[i].n) == before[i]);
    CHECK(untouched[0] == 0 && untouched[(1 << 30) - 1] == 0);
    CHECK(write(back[1], "a", 1) == 1 && read(there[0], &c, 1) == 1);
    // The parent has overwritten all of it by now.
    for (int i = 0; i < 5; i++) {
      CHECK(sum(all[i].p, all[i].n) == before[i]);
      fill(all[i].p, all[i].n, 77);
    }
    untouched[1 << 20] = 9;
    CHECK(write(back[1], "b", 1) == 1);
    _exit(0);
  }
  unsigned after[5];
  CHECK(read(back[0], &c, 1) == 1);
  for (int i = 0; i < 5; i++) {
    CHECK(sum(all[i].p, all[i].n) == before[i]);
    fill(all[i].p, all[i].n, i + 50);
    after[i] = sum(all[i].p, all[i].n);
  }
  CHECK(write(there[1], "x", 1) == 1 && read(back[0], &c, 1) == 1);
  CHECK(status_of(pid) == 0);
  for (int i = 0; i < 5; i++)
    CHECK(sum(all[i].p, all[i].n) == after[i]);
  CHECK(untouched[1 << 20] == 0);
  puts("isolated");
  return 0;
}

// Registers, floating point, masks, alternate stack, thread-local memory: the child has the caller's.
static int mode_state(void) {
  static char alt[65536];
  stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt}, now;
  sigset_t mask, got;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR1);
  sigaddset(&mask, SIGRTMAX);
  CHECK(!sigaltstack(&ss, 0) && !sigprocmask(SIG_SETMASK, &mask, 0));
  raise(SIGUSR1);
  in_tls = 1234;
  errno = 77;
  unsigned mxcsr = 0x3f80, mxcsr_after;
  unsigned short cw = 0x0f7f, cw_after;
  double x = 1.5, y = 0;
  uint64_t r12, r13, r14, r15, xmm;
  long pid;
  // A raw fork, so that nothing is saved and restored around it.
  __asm__ volatile("ldmxcsr %[mx]\n fldcw %[cw]\n"
                   "mov $0x1212121212121212, %%r12\n mov $0x1313131313131313, %%r13\n"
                   "mov $0x1414141414141414, %%r14\n mov $0x1515151515151515, %%r15\n"
                   "movq %%r12, %%xmm9\n fldl %[x]\n"
                   "mov $57, %%eax\n syscall\n"
                   "mov %%r12, %[r12]\n mov %%r13, %[r13]\n mov %%r14, %[r14]\n mov %%r15, %[r15]\n"
                   "movq %%xmm9, %[xmm]\n fstpl %[y]\n stmxcsr %[mxa]\n fnstcw %[cwa]\n"
                   : "=&a"(pid), [r12] "=m"(r12), [r13] "=m"(r13), [r14] "=m"(r14), [r15] "=m"(r15), [xmm] "=m"(xmm),
                     [y] "=m"(y), [mxa] "=m"(mxcsr_after), [cwa] "=m"(cw_after)
                   : [mx] "m"(mxcsr), [cw] "m"(cw), [x] "m"(x)
                   : "rcx", "r11", "r12", "r13", "r14", "r15", "xmm9", "memory");
  unsigned normal = 0x1f80;
  unsigned short normal_cw = 0x37f;
  __asm__ volatile("ldmxcsr %0\n fldcw %1" ::"m"(normal), "m"(normal_cw));
  CHECK(errno == 77 && in_tls == 1234);
  CHECK(r12 == 0x1212121212121212 && r13 == 0x1313131313131313 && r14 == 0x1414141414141414);
  CHECK(r15 == 0x1515151515151515 && xmm == r12 && y == x);
  CHECK(mxcsr_after == mxcsr && cw_after == cw);
  CHECK(!sigaltstack(0, &now) && now.ss_sp == alt && now.ss_size == sizeof alt && now.ss_flags == 0);
  CHECK(!sigprocmask(SIG_SETMASK, 0, &got));
  CHECK(sigismember(&got, SIGUSR1) && sigismember(&got, SIGRTMAX) && !sigismember(&got, SIGUSR2));
  CHECK(!sigpending(&got) && sigismember(&got, SIGUSR1) == (pid != 0));
  unsigned cpu = sched_getcpu();
  CHECK(cpu < (unsigned)sysconf(_SC_NPROCESSORS_CONF));
  if (!pid) {
    CHECK(getppid() > 1 && syscall(SYS_gettid) == getpid());
    _exit(12);
  }
  CHECK(status_of(pid) == 12 << 8);
  puts("same state");
  return 0;
}

// What mmap and madvise say about the child.
static int mode_inheritance(void) {
  size_t n = 3 * 4096;
  char *m[5];
  for (int i = 0; i < 5; i++) {
    m[i] = mmap(0, n, 3, (i == 4 ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);
    CHECK(m[i] != MAP_FAILED);
    memset(m[i], 'a' + i, n);
  }
  CHECK(!madvise(m[0], n, MADV_DONTFORK) && !madvise(m[1], n, MADV_WIPEONFORK));
  CHECK(!mprotect(m[2], n, PROT_READ) && !mprotect(m[3], n, PROT_NONE));
  int p[2];
  CHECK(!pipe(p));
  fflush(stdout);
  pid_t pid = fork();
  if (!pid) {
    CHECK(write(p[1], m[0], 1) == -1 && errno == EFAULT);
    CHECK(m[1][0] == 0 && m[1][n - 1] == 0);
    CHECK(m[2][0] == 'c' && read(open("/dev/zero", O_RDONLY), m[2], 1) == -1 && errno == EFAULT);
    CHECK(write(p[1], m[3], 1) == -1 && errno == EFAULT);
    CHECK(!mprotect(m[3], n, PROT_READ) && m[3][4096] == 'd');
    m[4][5] = 'z';
    _exit(0);
  }
  CHECK(status_of(pid) == 0 && m[4][5] == 'z' && m[0][0] == 'a' && m[1][0] == 'b');
  fflush(stdout);
  pid = fork();
  if (!pid) {
    m[2][1] = 1;
    _exit(0);
  }
  int status = status_of(pid);
  printf("write to read-only: signal %d\n", WTERMSIG(status));
  return 0;
}

static int deep(int n) {
  volatile char page[4096];
  page[n % 4096] = n;
  return n ? deep(n - 1) + page[n % 4096] % 2 : 0;
}

// The child's heap and stack grow.
static int mode_growth(void) {
  char *old = malloc(100);
  pid_t pid = fork();
  if (!pid) {
    char *small[2000];
    for (int i = 0; i < 2000; i++) {
      small[i] = malloc(5000);
      memset(small[i], i, 5000);
    }
    for (int i = 0; i < 2000; i++) {
      CHECK(small[i][4999] == (char)i);
      free(small[i]);
    }
    CHECK(deep(1000) >= 0);
    free(old);
    _exit(0);
  }
  CHECK(status_of(pid) == 0 && deep(1000) >= 0);
  return 0;
}

static volatile int stop;
static void *churn(void *arg) {
  unsigned n = 0;
  while (!stop) {
    size_t size = 1000 + n % 300000;
    char *p = malloc(size);
    memset(p, n, size);
    free(p);
    n += 7919;
  }
  return 0;
}

static void *forks(void *arg) {
  for (int i = 0; i < 20; i++) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid)
      _exit(i);
    CHECK(status_of(pid) == i << 8);
  }
  return 0;
}

// Threads fork while others allocate.
static int mode_thread_forks(void) {
  pthread_t a[2], b[3];
  for (int i = 0; i < 2; i++)
    pthread_create(&a[i], 0, churn, 0);
  for (int i = 0; i < 3; i++)
    pthread_create(&b[i], 0, forks, 0);
  for (int i = 0; i < 3; i++)
    pthread_join(b[i], 0);
  stop = 1;
  for (int i = 0; i < 2; i++)
    pthread_join(a[i], 0);
  puts("forked");
  return 0;
}

static int tree(int depth) {
  int total = 1;
  for (int i = 0; depth && i < 3; i++) {
    pid_t pid = fork();
    if (pid < 0)
      _exit(98);
    if (!pid)
      _exit(tree(depth - 1));
    total += WEXITSTATUS(status_of(pid));
  }
  return total;
}

static int mode_tree(void) {
  printf("%d processes\n", tree(3));
  return 0;
}

static volatile int alarms, children;
static void on_alarm(int s) { alarms++; }
static void on_child(int s) { children++; }

// A fast timer and SIGCHLD handlers around forks; the child has no timer.
static int mode_signals(void) {
  struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
  sigaction(SIGALRM, &sa, 0);
  sa.sa_handler = on_child;
  sigaction(SIGCHLD, &sa, 0);
  struct itimerval tick = {{0, 1000}, {0, 1000}}, none;
  setitimer(ITIMER_REAL, &tick, 0);
  for (int i = 0; i < 30; i++) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid) {
      CHECK(!getitimer(ITIMER_REAL, &none) && none.it_value.tv_usec == 0);
      _exit(i);
    }
    CHECK(status_of(pid) == i << 8);
  }
  while (alarms < 3)
    pause();
  printf("SIGCHLD %s\n", children > 0 ? "came" : "did not come");
  return 0;
}

// What clone's flags store and where.
static int mode_clone_flags(void) {
  pid_t ptid = 0;
  static volatile pid_t ctid;
  long pid = syscall(SYS_clone, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD, 0, &ptid,
                     &ctid, 0);
  if (!pid)
    _exit(ctid == syscall(SYS_gettid) ? 0 : 1);
  CHECK(pid > 0 && ptid == pid && status_of(pid) == 0 && ctid == 0);
  int pidfd = -1;
  pid = syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, 0, &pidfd, 0, 0);
  if (!pid)
    _exit(3);
  siginfo_t info;
  CHECK(pid > 0 && pidfd >= 0 && !waitid(3 /* P_PIDFD */, pidfd, &info, WEXITED));
  CHECK(info.si_pid == pid && info.si_status == 3);
  // Another signal than SIGCHLD, and none.
  pid = syscall(SYS_clone, 0, 0, 0, 0, 0);
  if (!pid)
    _exit(6);
  int status;
  CHECK(waitpid(pid, &status, 0) == -1 && errno == ECHILD);
  CHECK(waitpid(pid, &status, __WCLONE) == pid && status == 6 << 8);
  CHECK(syscall(SYS_clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0) == -1 && errno == EINVAL);
  return 0;
}

// Scheduling, name, directory and rights are the calling thread's.
static int mode_attributes(void) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(0, &set);
  sched_setaffinity(0, sizeof set, &set);
  setpriority(PRIO_PROCESS, 0, 7);
  prctl(PR_SET_NAME, "a name");
  CHECK(!chdir("/usr"));
  umask(027);
  if (!getuid()) {
    gid_t groups[] = {100, 200};
    CHECK(!syscall(SYS_setgroups, 2, groups) && !syscall(SYS_setresgid, 65534, 65534, 65534));
    CHECK(!syscall(SYS_setresuid, 65534, 65534, 65534));
  }
  fflush(stdout);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (!pid) {
    char name[16], cwd[100];
    prctl(PR_GET_NAME, name);
    sched_getaffinity(0, sizeof set, &set);
    printf("%d cpus, nice %d, %s, %s, umask %o, uid %d %d gid %d %d\n", CPU_COUNT(&set), getpriority(PRIO_PROCESS, 0),
           name, getcwd(cwd, sizeof cwd), umask(0), getuid(), geteuid(), getgid(), getegid());
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
      if (!strncmp(line, "Groups", 6) || !strncmp(line, "Cap", 3))
        fputs(line, stdout);
    exit(0);
  }
  CHECK(status_of(pid) == 0);
  return 0;
}

// posix_spawn and vfork: borrowed memory until execve.
static int mode_spawn(void) {
  char *argv[] = {"echo", "spawned", 0};
  pid_t pid;
  fflush(stdout);
  CHECK(!posix_spawnp(&pid, "echo", 0, 0, argv, environ) && status_of(pid) == 0);
  CHECK(posix_spawn(&pid, "/nonexistent", 0, 0, argv, environ) == ENOENT);
  volatile int shared = 1;
  pid = vfork();
  if (!pid) {
    shared = 2;
    execl("/bin/echo", "echo", "vforked", (char *)0);
    _exit(1);
  }
  CHECK(status_of(pid) == 0 && shared == 2);
  return 0;
}

static void handler(int s) {}

static void *execs(void *argv) {
  execv(self, argv);
  CHECK(!"reached");
  return 0;
}

// Prepares all that execve changes or keeps, and replaces itself; mode "after" prints what is left.
static int mode_exec(const char *how) {
  signal(SIGUSR1, handler);
  signal(SIGUSR2, SIG_IGN);
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  sigprocmask(SIG_SETMASK, &mask, 0);
  kill(getpid(), SIGTERM);
  static char alt[65536];
  stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt};
  sigaltstack(&ss, 0);
  CHECK(open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0 && open("/dev/zero", O_RDONLY) >= 0);
  struct itimerval far = {{0, 0}, {1000, 0}};
  setitimer(ITIMER_REAL, &far, 0);
  timer_t timer;
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
  struct itimerspec later = {{0, 0}, {1000, 0}};
  CHECK(!timer_create(CLOCK_MONOTONIC, &event, &timer) && !timer_settime(timer, 0, &later, 0));
  prctl(PR_SET_NAME, "old name");
  prctl(PR_SET_PDEATHSIG, 0);
  unsigned mxcsr = 0x3f80;
  __asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
  char *big = mmap(0, 64 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(big, 1, 8 << 20);
  char pid[20];
  sprintf(pid, "%d", getpid());
  char *argv[] = {"family", "after", pid, "", "last", 0};
  fflush(stdout);
  if (!strcmp(how, "main"))
    execv(self, argv);
  pthread_t t[4];
  for (int i = 0; i < 3; i++)
    pthread_create(&t[i], 0, churn, 0);
  if (!strcmp(how, "main-threads"))
    execv(self, argv);
  pthread_create(&t[3], 0, execs, argv);
  if (!strcmp(how, "thread-main-sleeps"))
    for (;;)
      pause();
  if (!strcmp(how, "thread-main-forks"))
    for (;;) {
      pid_t p = fork();
      if (!p)
        _exit(0);
      waitpid(p, 0, 0);
    }
  churn(0);
  return 1;
}

static int mode_after(int argc, char **argv) {
  for (int i = 0; i < argc; i++)
    printf("[%s]", i == 2 ? "pid" : argv[i]);
  printf(" pid %s\n", atoi(argv[2]) == getpid() && syscall(SYS_gettid) == getpid() ? "kept" : "changed");
  for (int s = 1; s < 65; s++) {
    struct sigaction sa = {0};
    if (s != 32 && s != 33 && !sigaction(s, 0, &sa) && sa.sa_handler != SIG_DFL)
      printf("signal %d %s\n", s, sa.sa_handler == SIG_IGN ? "ignored" : "caught");
  }
  sigset_t set;
  sigprocmask(SIG_SETMASK, 0, &set);
  printf("blocked %d %d", sigismember(&set, SIGTERM), sigismember(&set, SIGHUP));
  sigpending(&set);
  printf(" pending %d\n", sigismember(&set, SIGTERM));
  stack_t ss;
  sigaltstack(0, &ss);
  printf("altstack %d\n", ss.ss_flags);
  for (int fd = 0; fd < 20; fd++)
    if (fcntl(fd, F_GETFD) >= 0)
      printf("fd %d open\n", fd);
  struct itimerval t;
  getitimer(ITIMER_REAL, &t);
  printf("itimer %s\n", t.it_value.tv_sec > 900 ? "kept" : "gone");
  FILE *f = fopen("/proc/self/timers", "r");
  CHECK(f);
  printf("POSIX timers %s\n", fgetc(f) == EOF ? "gone" : "kept");
  fclose(f);
  char name[16], exe[4096] = "", line[256];
  prctl(PR_GET_NAME, name);
  readlink("/proc/self/exe", exe, sizeof exe - 1);
  unsigned mxcsr;
  __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
  printf("name %s exe %s mxcsr %#x\n", name, strcmp(exe, self) ? exe : "self", mxcsr);
  f = fopen("/proc/self/cmdline", "r");
  size_t n = fread(line, 1, sizeof line, f);
  fclose(f);
  printf("cmdline of %s, %zu arguments\n", line, ({ size_t c = 0; for (size_t i = 0; i < n; i++) c += !line[i]; c; }));
  for (size_t i = 0; i < sizeof statics; i++)
    CHECK(statics[i] == 0);
  pthread_t thread;
  stop = 1;
  CHECK(!pthread_create(&thread, 0, churn, 0) && !pthread_join(thread, 0));
  fflush(stdout);
  pid_t pid = fork();
  if (!pid)
    _exit(9);
  CHECK(status_of(pid) == 9 << 8);
  return 23;
}

// Replaces itself many times; memory of the old ones must not add up.
static int mode_chain(int left) {
  char *p = malloc(20 << 20);
  memset(p, left, 20 << 20);
  if (!left) {
    puts("end of the chain");
    return 0;
  }
  char number[20];
  sprintf(number, "%d", left - 1);
  execl(self, "family", "chain", number, (char *)0);
  return 1;
}

// Replaces itself for ever, with threads to be ended each time; forks, too.
static int mode_rounds(void) {
  pthread_t t;
  for (int i = 0; i < 3; i++)
    pthread_create(&t, 0, churn, 0);
  pid_t pid = fork();
  if (!pid)
    _exit(0);
  CHECK(status_of(pid) == 0);
  execl(self, "family", "rounds", (char *)0);
  return 1;
}

static void try_exec(const char *what, const char *path, char **argv) {
  execve(path, argv, environ);
  printf("%s: %s\n", what, strerrorname_np(errno));
}

static void put(const char *path, const void *bytes, size_t n, int mode) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  CHECK(fd >= 0 && write(fd, bytes, n) == (ssize_t)n && !fchmod(fd, mode));
  close(fd);
}

// Every way execve fails, after which the program goes on as if nothing had been.
static int mode_exec_errors(const char *dir) {
  char *argv[] = {"x", 0};
  CHECK(!chdir(dir));
  char elf[64] = "\177ELF\2\1\1";
  try_exec("missing", "none", argv);
  try_exec("empty", "", argv);
  try_exec("directory", "/", argv);
  put("plain", "text", 4, 0644);
  try_exec("no permission", "plain", argv);
  try_exec("below a file", "plain/x", argv);
  put("text", "text", 4, 0755);
  try_exec("neither ELF nor script", "text", argv);
  put("nothing", "", 0, 0755);
  try_exec("empty file", "nothing", argv);
  put("short", elf, sizeof elf, 0755);
  try_exec("ELF without sense", "short", argv);
  put("script", "#!/none/such\n", 13, 0755);
  try_exec("script without interpreter", "script", argv);
  put("loop", "#!loop\n", 7, 0755);
  try_exec("script of itself", "loop", argv);
  symlink("link", "link");
  try_exec("link to itself", "link", argv);
  char longer[5000];
  memset(longer, 'a', sizeof longer - 1);
  longer[sizeof longer - 1] = 0;
  try_exec("long path", longer, argv);
  put("busy", elf, sizeof elf, 0755);
  int busy = open("busy", O_RDWR);
  try_exec("open for writing", "busy", argv);
  close(busy);
  char *huge = malloc(200001);
  memset(huge, 'b', 200000);
  huge[200000] = 0;
  char *long_argv[] = {"x", huge, 0};
  try_exec("long argument", "/bin/true", long_argv);
  huge[100000] = 0;
  char **many = calloc(2001, sizeof *many);
  for (int i = 0; i < 2000; i++)
    many[i] = huge;
  try_exec("many arguments", "/bin/true", many);
  try_exec("bad path", (char *)8, argv);
  try_exec("bad vector", "/bin/true", (char **)8);
  char *bad[] = {"x", (char *)8, 0};
  try_exec("bad argument", "/bin/true", bad);
  char *end = mmap(0, 8192, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(end + 4096, 4096);
  memset(end, 'c', 4096);
  bad[1] = end;
  try_exec("argument without end", "/bin/true", bad);
  CHECK(syscall(SYS_execveat, -1, "x", argv, environ, 0) == -1);
  printf("bad directory: %s\n", strerrorname_np(errno));
  CHECK(syscall(SYS_execveat, -100, "x", argv, environ, 12345) == -1);
  printf("bad flags: %s\n", strerrorname_np(errno));
  CHECK(syscall(SYS_execveat, -100, "link", argv, environ, AT_SYMLINK_NOFOLLOW) == -1);
  printf("link not followed: %s\n", strerrorname_np(errno));
  CHECK(syscall(SYS_execveat, 0, "", argv, environ, 0) == -1);
  printf("empty without the flag: %s\n", strerrorname_np(errno));
  return 0;
}

// execveat and friends.
static int mode_execveat(const char *how) {
  char *argv[] = {"family", "hello", 0};
  fflush(stdout);
  if (!strcmp(how, "fd"))
    fexecve(open(self, O_RDONLY | O_CLOEXEC), argv, environ);
  if (!strcmp(how, "path-fd"))
    syscall(SYS_execveat, open(self, O_PATH | O_CLOEXEC), "", argv, environ, AT_EMPTY_PATH);
  if (!strcmp(how, "dir"))
    syscall(SYS_execveat, open("/bin", O_RDONLY | O_DIRECTORY | O_CLOEXEC), "echo", argv, environ, 0);
  if (!strcmp(how, "cwd") && !chdir("/bin"))
    syscall(SYS_execveat, AT_FDCWD, "echo", argv, environ, 0);
  if (!strcmp(how, "self-link"))
    execve("/proc/self/exe", argv, environ);
  printf("%s\n", strerror(errno));
  return 1;
}

static int mode_hello(void) {
  char exe[4096] = "";
  readlink("/proc/self/exe", exe, sizeof exe - 1);
  printf("hello from %s\n", strcmp(exe, self) ? exe : "self");
  return 0;
}

static void *nothing(void *arg) { return arg; }

// Threads that end: each join must return.
static int mode_joins(void) {
  for (int round = 0; round < 150; round++) {
    pthread_t t[8];
    for (long i = 0; i < 8; i++)
      CHECK(!pthread_create(&t[i], 0, nothing, (void *)i));
    for (long i = 0; i < 8; i++) {
      void *got;
      CHECK(!pthread_join(t[i], &got) && got == (void *)i);
    }
  }
  puts("joined");
  return 0;
}

static pthread_mutex_t *robust;
static void *dies_holding(void *arg) {
  pthread_mutex_lock(&robust[0]);
  pthread_mutex_lock(&robust[1]);
  return 0;
}

// The kernel marks mutexes whose owner has ended.
static int mode_robust(void) {
  robust = mmap(0, 8192, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 100; i++) {
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    for (int k = 0; k < 2; k++)
      pthread_mutex_init(&robust[k], &attr);
    pthread_t t;
    pthread_create(&t, 0, dies_holding, 0);
    pthread_join(t, 0);
    for (int k = 0; k < 2; k++) {
      CHECK(pthread_mutex_lock(&robust[k]) == EOWNERDEAD && !pthread_mutex_consistent(&robust[k]));
      pthread_mutex_unlock(&robust[k]);
    }
  }
  puts("owner died");
  return 0;
}

static void *late(void *arg) {
  usleep(50000);
  write(1, "late thread\n", 12);
  if (arg)
    exit(31);
  return 0;
}

// The main thread goes first.
static int mode_main_leaves(const char *how) {
  pthread_t t;
  pthread_create(&t, 0, late, strcmp(how, "exit") ? 0 : "");
  pthread_exit(0);
}

int main(int argc, char **argv) {
  static char path[4096];
  readlink("/proc/self/exe", path, sizeof path - 1);
  self = path;
  const char *mode = argc > 1 ? argv[1] : "", *arg = argc > 2 ? argv[2] : "";
#define MODE(name, call)                                                                                               \
  if (!strcmp(mode, name))                                                                                             \
  return call
  MODE("no-child", mode_no_child());
  MODE("statuses", mode_statuses());
  MODE("isolation", mode_isolation());
  MODE("state", mode_state());
  MODE("inheritance", mode_inheritance());
  MODE("growth", mode_growth());
  MODE("thread-forks", mode_thread_forks());
  MODE("tree", mode_tree());
  MODE("signals", mode_signals());
  MODE("clone-flags", mode_clone_flags());
  MODE("attributes", mode_attributes());
  MODE("spawn", mode_spawn());
  MODE("exec", mode_exec(arg));
  MODE("after", mode_after(argc, argv));
  MODE("chain", mode_chain(atoi(arg)));
  MODE("rounds", mode_rounds());
  MODE("exec-errors", mode_exec_errors(arg));
  MODE("execveat", mode_execveat(arg));
  MODE("hello", mode_hello());
  MODE("joins", mode_joins());
  MODE("robust", mode_robust());
  MODE("main-leaves", mode_main_leaves(arg));
  return 64;
}
