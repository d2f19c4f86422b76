// timerfd_create(2), signalfd(2), rseq(2), setitimer(2) of consumed time, /proc/self/auxv and environ (proc(5)): what is
// to be seen of them does not depend on how fast the machine is.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void timers(void) {
  int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
  uint64_t start = now(), times = 0;
  struct itimerspec once = {{0, 0}, {0, 30000000}}, often = {{0, 5000000}, {0, 5000000}}, left;
  timerfd_settime(fd, 0, &once, 0);
  ssize_t got = read(fd, &times, 8);
  printf("read %zd: ", got);
  printf("due %lu, after 30 ms: %d\n", times, now() - start >= 30000000);
  timerfd_gettime(fd, &left);
  printf("left: %ld %ld\n", left.it_value.tv_sec, left.it_value.tv_nsec);
  timerfd_settime(fd, 0, &often, 0);
  uint64_t sum = 0;
  int reads = 0;
  while (sum < 5) {
    read(fd, &times, 8);
    sum += times, reads++;
  }
  printf("five times in at most five reads: %d\n", reads <= 5);
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  struct itimerspec absolute = {{0, 0}, at}, past;
  timerfd_settime(fd, TFD_TIMER_ABSTIME, &absolute, &past);
  printf("interval before: %ld, over at once: %zd\n", past.it_interval.tv_nsec, read(fd, &times, 8));
  // Who polls hears of it.
  timerfd_settime(fd, 0, &once, 0);
  struct pollfd p = {fd, POLLIN, 0};
  int n = poll(&p, 1, -1);
  printf("poll %d %#x\n", n, p.revents);
  read(fd, &times, 8);
  int set = epoll_create1(0);
  struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u32 = 7};
  epoll_ctl(set, EPOLL_CTL_ADD, fd, &ev);
  timerfd_settime(fd, 0, &once, 0);
  n = epoll_wait(set, &ev, 1, -1);
  printf("epoll %d %u,", n, ev.data.u32);
  printf(" again %d\n", epoll_wait(set, &ev, 1, 0));
  close(fd), close(set);
}

static void signals(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1), sigaddset(&set, SIGCHLD), sigaddset(&set, SIGRTMIN);
  sigprocmask(SIG_BLOCK, &set, 0);
  int fd = signalfd(-1, &set, SFD_NONBLOCK);
  struct signalfd_siginfo s[4];
  ssize_t n = read(fd, s, sizeof s);
  printf("none: %zd %s\n", n, strerrorname_np(errno));
  union sigval v = {.sival_int = 77};
  sigqueue(getpid(), SIGRTMIN, v);
  kill(getpid(), SIGUSR1);
  sigqueue(getpid(), SIGRTMIN, v);
  struct pollfd p = {fd, POLLIN, 0};
  printf("poll %d\n", poll(&p, 1, -1));
  n = read(fd, s, sizeof s);
  printf("%zd\n", n);
  for (int i = 0; i < n / (ssize_t)sizeof *s; i++)
    printf("signal %u code %d mine %d value %d\n", s[i].ssi_signo, s[i].ssi_code, s[i].ssi_pid == (unsigned)getpid(),
           s[i].ssi_code < 0 ? s[i].ssi_int : 0);
  // One that blocks, for the end of a child.
  fcntl(fd, F_SETFL, 0);
  fflush(stdout);
  pid_t child = fork();
  if (!child) {
    usleep(20000);
    _exit(9);
  }
  n = read(fd, s, sizeof s);
  printf("%zd: signal %u code %d of the child %d status %d\n", n, s->ssi_signo, s->ssi_code, s->ssi_pid == (unsigned)child,
         s->ssi_status);
  waitpid(child, 0, 0);
  // Another set.
  sigdelset(&set, SIGUSR1);
  signalfd(fd, &set, 0);
  kill(getpid(), SIGUSR1);
  p.revents = 0;
  printf("not of the set: %d\n", poll(&p, 1, 0));
  close(fd);
  signal(SIGUSR1, SIG_IGN);
  sigprocmask(SIG_UNBLOCK, &set, 0);
}

static volatile sig_atomic_t virtuals, profs;
static void on_virtual(int s) { virtuals++; }
static void on_prof(int s) { profs++; }

static void consumed(void) {
  signal(SIGVTALRM, on_virtual), signal(SIGPROF, on_prof);
  struct itimerval often = {{0, 10000}, {0, 10000}}, never = {{0, 0}, {0, 0}};
  setitimer(ITIMER_VIRTUAL, &often, 0), setitimer(ITIMER_PROF, &often, 0);
  volatile unsigned long work = 0;
  while (virtuals < 3 || profs < 3) work++;
  setitimer(ITIMER_VIRTUAL, &never, 0), setitimer(ITIMER_PROF, &never, 0);
  int v = virtuals, p = profs;
  // Who sleeps consumes nothing.
  setitimer(ITIMER_VIRTUAL, &often, 0);
  usleep(1000);
  setitimer(ITIMER_VIRTUAL, &never, 0);
  printf("consumed time: %d %d, asleep: %d\n", v >= 3, p >= 3, virtuals - v <= 1);
}

// A structure of our own: a library has registered one already, or not.
struct area {
  uint32_t start, cpu;
  uint64_t sequence;
  uint32_t flags, node, concurrent, unused;
} __attribute__((aligned(32)));
static struct area areas[2];
#define SIGNATURE 0x53053053

// A restartable sequence: n turns; out: its way out was taken.
#define DESCRIPTOR \
  ".pushsection __rseq_cs, \"aw\"\n" \
  ".balign 32\n" \
  "3: .long 0, 0\n .quad 1f, 2f - 1f, 4f\n" \
  ".popsection\n"
#if defined __x86_64__
#define RUN(n, out, sequence) \
  __asm__ volatile(DESCRIPTOR \
                   "lea 3b(%%rip), %%rax\n mov %%rax, %2\n" \
                   "1: dec %0\n jnz 1b\n" \
                   "2: jmp 5f\n .long 0x53053053\n" \
                   "4: mov $1, %1\n" \
                   "5:\n" \
                   : "+r"(n), "+r"(out), "=m"(sequence) : : "rax", "memory", "cc")
#elif defined __aarch64__
#define RUN(n, out, sequence) \
  __asm__ volatile(DESCRIPTOR \
                   "adrp x9, 3b\n add x9, x9, :lo12:3b\n str x9, %2\n" \
                   "1: subs %0, %0, #1\n b.ne 1b\n" \
                   "2: b 5f\n .long 0x53053053\n" \
                   "4: mov %1, #1\n" \
                   "5:\n" \
                   : "+r"(n), "+r"(out), "=m"(sequence) : : "x9", "memory", "cc")
#else
#define RUN(n, out, sequence) \
  __asm__ volatile(DESCRIPTOR \
                   "la t0, 3b\n sd t0, %2\n" \
                   "1: addi %0, %0, -1\n bnez %0, 1b\n" \
                   "2: j 5f\n .long 0x53053053\n" \
                   "4: li %1, 1\n" \
                   "5:\n" \
                   : "+r"(n), "+r"(out), "=m"(sequence) : : "t0", "memory")
#endif

// Threads that have taken their way out often enough. They go on until both have: one that is alone on its CPU is
// hardly ever interrupted.
static int satisfied;

// Counts in a restartable sequence, a step a turn, and looks for the way out now and then.
static void *count(void *arg) {
  struct area *a = arg;
  long r = syscall(SYS_rseq, a, sizeof *a, 0, SIGNATURE);
  if (r && errno != EINVAL && errno != EBUSY && errno != EPERM) return (void *)1;
  if (r) return (void *)2;
  unsigned long aborts = 0, done = 0, cpus = 0;
  uint64_t until = now() + 30000000000ull;
  while (__atomic_load_n(&satisfied, __ATOMIC_RELAXED) < 2 && now() < until) {
    uint64_t out = 0, n = 200000;
    RUN(n, out, a->sequence);
    aborts += out, done += !out;
    if (out && aborts == 3) __atomic_fetch_add(&satisfied, 1, __ATOMIC_RELAXED);
    cpus |= a->cpu != a->start || a->cpu > 64;
    if (out && a->sequence) return (void *)3;
  }
  if (cpus) return (void *)4;
  if (syscall(SYS_rseq, a, sizeof *a, 1, 7) != -1 || errno != EPERM) return (void *)5;
  if (syscall(SYS_rseq, a, sizeof *a, 1, SIGNATURE)) return (void *)6;
  return aborts < 3 ? (void *)7 : 0;
}

static void sequences(void) {
  if (!syscall(SYS_rseq, &areas[0], sizeof areas[0], 0, SIGNATURE)) syscall(SYS_rseq, &areas[0], sizeof areas[0], 1, SIGNATURE);
  errno = 0;
  printf("odd address: %ld", syscall(SYS_rseq, (char *)areas + 4, 32, 0, SIGNATURE));
  printf(" %s\n", errno == EINVAL ? "EINVAL" : strerrorname_np(errno));
  // Two on one CPU take turns.
  cpu_set_t one;
  CPU_ZERO(&one);
  sched_getaffinity(0, sizeof one, &one);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &one)) cpu++;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  sched_setaffinity(0, sizeof one, &one);
  pthread_t t[2];
  void *r[2];
  for (int i = 0; i < 2; i++) pthread_create(&t[i], 0, count, &areas[i]);
  for (int i = 0; i < 2; i++) pthread_join(t[i], &r[i]);
  printf("sequences: %ld %ld\n", (long)r[0], (long)r[1]);
}

static long slurp(const char *path, char *to, long room) {
  int fd = open(path, O_RDONLY);
  long n = 0, r;
  while (fd >= 0 && (r = read(fd, to + n, room - n)) > 0) n += r;
  close(fd);
  return n;
}

static void start(char **argv) {
  static char text[65536];
  if (!getenv("AGAIN")) {
    fflush(stdout);
    pid_t p = fork();
    if (!p) {
      char *env[] = {"AGAIN=1", "EMPTY=", "LAST=some text", 0}, *args[] = {argv[0], "more", 0};
      execve("/proc/self/exe", args, env);
      _exit(1);
    }
    int status;
    waitpid(p, &status, 0);
    printf("again: %#x\n", status);
    return;
  }
  long n = slurp("/proc/self/environ", text, sizeof text);
  printf("environ: %ld bytes,", n);
  for (char *s = text; s < text + n; s += strlen(s) + 1) printf(" [%s]", s);
  n = slurp("/proc/self/auxv", text, sizeof text);
  Elf64_auxv_t *a = (Elf64_auxv_t *)text;
  int wrong = 0, entries = n / sizeof *a;
  // On x86-64 the C library has its own idea of AT_HWCAP.
  for (int i = 0; i < entries && a[i].a_type; i++)
    wrong += a[i].a_type != AT_HWCAP && getauxval(a[i].a_type) != a[i].a_un.a_val;
  printf("\nauxv: whole %d, ends %d, wrong %d\n", n % sizeof *a == 0, entries && a[entries - 1].a_type == 0, wrong);
  fflush(stdout);
  _exit(0);
}

int main(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "sequences")) {
    sequences();
    return 0;
  }
  start(argv);
  timers();
  signals();
  consumed();
  fflush(stdout);
  // Without the C library's own registration: as a new program.
  setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=0", 1);
  pid_t p = fork();
  if (!p) {
    execl("/proc/self/exe", argv[0], "sequences", (char *)0);
    _exit(1);
  }
  int status;
  waitpid(p, &status, 0);
  printf("with sequences: %#x\n", status);
  return 0;
}
