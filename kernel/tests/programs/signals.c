// Signals of each kind: handlers and their flags, masks, queues, faults with their addresses, alternate stacks,
// interrupted calls. Prints the same on Linux.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile sig_atomic_t got, nested, depth;
static siginfo_t last;
static ucontext_t *context;
static sigjmp_buf back;

static void note(int s) { got = s; }
static void note_info(int s, siginfo_t *i, void *c) { got = s; last = *i; context = c; }
static void jump(int s, siginfo_t *i, void *c) { got = s; last = *i; (void)c; siglongjmp(back, 1); }

static void set(int s, void (*f)(int, siginfo_t *, void *), int flags) {
  struct sigaction a = {0};
  a.sa_sigaction = f;
  a.sa_flags = flags | SA_SIGINFO;
  sigaction(s, &a, 0);
}
static void set_plain(int s, void (*f)(int), int flags) {
  struct sigaction a = {0};
  a.sa_handler = f;
  a.sa_flags = flags;
  sigaction(s, &a, 0);
}

static void kill_self(void) {
  set(SIGUSR1, note_info, 0);
  kill(getpid(), SIGUSR1);
  printf("kill: got %d code %d pid ok %d uid %d\n", got, last.si_code, last.si_pid == getpid(), last.si_uid);
  raise(SIGUSR1);
  printf("raise: code %d pid ok %d\n", last.si_code, last.si_pid == getpid());
  union sigval v = {.sival_int = 77};
  sigqueue(getpid(), SIGUSR1, v);
  printf("sigqueue: code %d value %d\n", last.si_code, last.si_value.sival_int);
}

static char order[16];
static int at;
static void append(int s, siginfo_t *i, void *c) { (void)c; order[at++] = s == SIGUSR1 ? 'u' : '0' + i->si_value.sival_int; }

static void masks(void) {
  sigset_t s, old, p;
  sigfillset(&s);
  sigprocmask(SIG_SETMASK, &s, &old);
  set(SIGUSR1, append, 0);
  set(SIGRTMIN + 3, append, 0);
  for (int i = 0; i < 3; i++) {
    kill(getpid(), SIGUSR1);
    union sigval v = {.sival_int = i};
    sigqueue(getpid(), SIGRTMIN + 3, v);
  }
  sigpending(&p);
  printf("pending: usr1 %d rt %d usr2 %d\n", sigismember(&p, SIGUSR1), sigismember(&p, SIGRTMIN + 3), sigismember(&p, SIGUSR2));
  sigprocmask(SIG_SETMASK, 0, &s);
  printf("kill blocked: %d stop blocked: %d\n", sigismember(&s, SIGKILL), sigismember(&s, SIGSTOP));
  sigprocmask(SIG_SETMASK, &old, 0);
  // The handlers' frames nest: what is delivered last runs first. Sorted, the counts are what matters.
  int u = 0;
  for (int i = 0; i < at; i++) u += order[i] == 'u';
  printf("delivered %d, usr1 %d\n", at, u);
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, SIGUSR2);
  sigprocmask(SIG_BLOCK, &one, 0);
  struct timespec ts = {0, 20000000};
  errno = 0;
  int r = sigtimedwait(&one, &last, &ts);
  printf("sigtimedwait: %d %s\n", r, strerror(errno));
  kill(getpid(), SIGUSR2);
  r = sigtimedwait(&one, &last, &ts);
  printf("sigtimedwait: %d code %d\n", r, last.si_code);
  set_plain(SIGUSR2, SIG_IGN, 0);
  kill(getpid(), SIGUSR2);
  sigpending(&p);
  printf("blocked and ignored is pending: %d\n", sigismember(&p, SIGUSR2));
  sigprocmask(SIG_SETMASK, &old, 0);
}

static void again(int s) {
  if (depth == 0) {
    depth++;
    raise(s);
    nested = got == 0;
    got = s;
  } else
    got = 99;
}

static void flags(void) {
  struct sigaction a;
  set_plain(SIGUSR1, note, SA_RESETHAND);
  raise(SIGUSR1);
  sigaction(SIGUSR1, 0, &a);
  printf("RESETHAND: default now %d\n", a.sa_handler == SIG_DFL);
  got = 0, depth = 0;
  set_plain(SIGUSR1, again, 0);
  raise(SIGUSR1);
  printf("deferred inside: %d, then %d\n", nested, got);
  got = 0, depth = 0;
  set_plain(SIGUSR1, again, SA_NODEFER);
  raise(SIGUSR1);
  printf("NODEFER inside: %d\n", !nested);
  errno = 0;
  a.sa_handler = note;
  int r = sigaction(SIGKILL, &a, 0);
  printf("sigaction(KILL) %d %s\n", r, strerror(errno));
  errno = 0;
  r = sigaction(65, &a, 0);
  printf("sigaction(65) %d %s\n", r, strerror(errno));
  r = kill(getpid(), 0);
  printf("kill(0 sig) %d\n", r);
  r = kill(999999, 0);
  printf("kill(no such) %d %s\n", r, strerror(errno));
}

static void faults(void) {
  set(SIGSEGV, jump, SA_NODEFER);
  set(SIGBUS, jump, SA_NODEFER);
  set(SIGFPE, jump, SA_NODEFER);
  set(SIGILL, jump, SA_NODEFER);
  set(SIGTRAP, jump, SA_NODEFER);
  char *volatile p = mmap(0, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (!sigsetjmp(back, 1)) p[5] = 1;
  printf("write to read-only: %d code %d at +%ld\n", got, last.si_code, (long)((char *)last.si_addr - p));
  munmap(p + 4096, 4096);
  if (!sigsetjmp(back, 1)) (void)*(volatile char *)(p + 4100);
  printf("read of nothing: %d code %d at +%ld\n", got, last.si_code, (long)((char *)last.si_addr - p));
  if (!sigsetjmp(back, 1)) (void)*(volatile char *)16;
  printf("null: %d code %d at %p\n", got, last.si_code, last.si_addr);
  if (!sigsetjmp(back, 1)) (void)*(volatile char *)0xffff800000000000ul;
  printf("kernel: %d code %d at %p\n", got, last.si_code, last.si_addr);
#ifndef PORTABLE
  if (!sigsetjmp(back, 1)) (void)*(volatile char *)0x0123456789abcdeful;
  printf("non-canonical: %d code %d at %p\n", got, last.si_code, last.si_addr);
#endif
  if (!sigsetjmp(back, 1)) ((void (*)(void))p)();
  printf("execute data: %d code %d at +%ld\n", got, last.si_code, (long)((char *)last.si_addr - p));
#ifndef PORTABLE
  volatile int zero = 0;
  if (!sigsetjmp(back, 1)) zero = 1 / zero;
  printf("division: %d code %d addr set %d\n", got, last.si_code, last.si_addr != 0);
  if (!sigsetjmp(back, 1)) __asm__ volatile("ud2");
  printf("ud2: %d code %d addr set %d\n", got, last.si_code, last.si_addr != 0);
  if (!sigsetjmp(back, 1)) __asm__ volatile("int3");
  printf("int3: %d code %d\n", got, last.si_code);
  if (!sigsetjmp(back, 1)) __asm__ volatile("hlt");
  printf("hlt: %d code %d\n", got, last.si_code);
#endif
}

static char stack[65536] __attribute__((aligned(16)));
static volatile int on_stack;
static void overflow(int s, siginfo_t *i, void *c) {
  (void)c;
  char here;
  got = s;
  last = *i;
  stack_t now;
  sigaltstack(0, &now);
  on_stack = &here >= stack && &here < stack + sizeof stack;
  on_stack += 2 * (now.ss_flags == SS_ONSTACK);
  siglongjmp(back, 1);
}
static int recurse(int n) {
  volatile char block[4096];
  block[0] = n;
  return n < 0 ? 0 : recurse(n + 1) + block[0];
}

static void alternate(void) {
  stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack}, old;
  printf("sigaltstack %d\n", sigaltstack(&ss, &old));
  printf("old disabled %d\n", old.ss_flags == SS_DISABLE);
  set(SIGSEGV, overflow, SA_ONSTACK);
  for (int i = 0; i < 2; i++) {
    if (!sigsetjmp(back, 1)) recurse(0);
    printf("overflow: %d code ok %d on stack %d\n", got, last.si_code == SEGV_MAPERR || last.si_code == SEGV_ACCERR, on_stack);
  }
  ss.ss_size = 100;
  errno = 0;
  int small = sigaltstack(&ss, 0);
  printf("too small %d %s\n", small, strerror(errno));
  ss.ss_flags = SS_DISABLE;
  sigaltstack(&ss, 0);
}

static void change(int s, siginfo_t *i, void *c) {
  (void)s;
  (void)i;
  ucontext_t *u = c;
#if defined(__x86_64__)
  u->uc_mcontext.gregs[REG_RBX] = 4711;
  u->uc_mcontext.gregs[REG_RIP] += 2;
#elif defined(__riscv)
  u->uc_mcontext.__gregs[REG_S1] = 4711;
  u->uc_mcontext.__gregs[REG_PC] += 4;
#else
  u->uc_mcontext.regs[19] = 4711;
  u->uc_mcontext.pc += 4;
#endif
}

static void registers(void) {
  set(SIGILL, change, 0);
  unsigned long rbx = 1, rcx = 2, r8 = 0;
#if defined(__x86_64__)
  __asm__ volatile("mov $5, %%r8\n mov $7, %%rcx\n mov $1, %%rbx\n ud2\n mov %%rbx, %0\n mov %%rcx, %1\n mov %%r8, %2" : "=r"(rbx), "=r"(rcx), "=r"(r8) : : "rbx", "rcx", "r8");
#elif defined(__riscv)
  __asm__ volatile("li t3, 5\n li t1, 7\n li s1, 1\n .option push\n .option norvc\n unimp\n .option pop\n mv %0, s1\n mv %1, t1\n mv %2, t3" : "=&r"(rbx), "=&r"(rcx), "=&r"(r8) : : "s1", "t1", "t3");
#else
  __asm__ volatile("mov x9, #5\n mov x10, #7\n mov x19, #1\n udf #0\n mov %0, x19\n mov %1, x10\n mov %2, x9" : "=&r"(rbx), "=&r"(rcx), "=&r"(r8) : : "x9", "x10", "x19");
#endif
  printf("after the handler: %lu %lu %lu\n", rbx, rcx, r8);
  // Vector registers survive a handler that uses them.
  set(SIGUSR1, note_info, 0);
  double d[4] = {1.5, 2.5, 3.5, 4.5}, e[4];
  int pid = getpid();
#if defined(__x86_64__)
  __asm__ volatile("movupd (%1), %%xmm6\n movupd 16(%1), %%xmm7\n mov $62, %%eax\n mov %2, %%edi\n mov $10, %%esi\n syscall\n movupd %%xmm6, (%0)\n movupd %%xmm7, 16(%0)" : : "r"(e), "r"(d), "r"(pid) : "rax", "rdi", "rsi", "rcx", "r11", "xmm6", "xmm7", "memory");
#elif defined(__riscv)
  __asm__ volatile("fld ft8, (%1)\n fld ft9, 8(%1)\n fld fa5, 16(%1)\n fld fs3, 24(%1)\n li a7, 129\n mv a0, %2\n li a1, 10\n ecall\n fsd ft8, (%0)\n fsd ft9, 8(%0)\n fsd fa5, 16(%0)\n fsd fs3, 24(%0)" : : "r"(e), "r"(d), "r"(pid) : "a0", "a1", "a7", "ft8", "ft9", "fa5", "fs3", "memory");
#else
  __asm__ volatile("ldp q6, q7, [%1]\n mov x8, #129\n mov w0, %w2\n mov x1, #10\n svc #0\n stp q6, q7, [%0]" : : "r"(e), "r"(d), "r"(pid) : "x0", "x1", "x8", "v6", "v7", "memory");
#endif
  printf("vectors: %g %g %g %g\n", e[0], e[1], e[2], e[3]);
}

static void interrupted(void) {
  int fd[2];
  char c;
  pipe(fd);
  struct itimerval t = {{0, 0}, {0, 30000}};
  set_plain(SIGALRM, note, 0);
  setitimer(ITIMER_REAL, &t, 0);
  errno = 0;
  int r = read(fd[0], &c, 1);
  printf("read: %d %s\n", r, strerror(errno));
  set_plain(SIGALRM, note, SA_RESTART);
  if (fork() == 0) {
    usleep(150000);
    write(fd[1], "x", 1);
    _exit(0);
  }
  got = 0;
  setitimer(ITIMER_REAL, &t, 0);
  errno = 0;
  r = read(fd[0], &c, 1);
  printf("restarted read: %d %c handler ran %d\n", r, c, got == SIGALRM);
  wait(0);
  setitimer(ITIMER_REAL, &t, 0);
  struct timespec ts = {5, 0}, left;
  errno = 0;
  r = nanosleep(&ts, &left);
  printf("nanosleep: %d %s left %ld\n", r, strerror(errno), left.tv_sec);
  setitimer(ITIMER_REAL, &t, 0);
  errno = 0;
  r = pause();
  printf("pause: %d %s\n", r, strerror(errno));
  sigset_t block, none;
  sigemptyset(&block);
  sigemptyset(&none);
  sigaddset(&block, SIGUSR1);
  sigprocmask(SIG_BLOCK, &block, 0);
  set_plain(SIGUSR1, note, 0);
  raise(SIGUSR1);
  got = 0;
  errno = 0;
  r = sigsuspend(&none);
  printf("sigsuspend: %d %s got %d\n", r, strerror(errno), got);
  sigset_t now;
  sigprocmask(SIG_BLOCK, 0, &now);
  printf("mask back: %d\n", sigismember(&now, SIGUSR1));
  set_plain(SIGPIPE, note, 0);
  close(fd[0]);
  errno = 0;
  r = write(fd[1], "x", 1);
  printf("write to nobody: %d %s got %d\n", r, strerror(errno), got);
}

static void deaths(void) {
  int list[] = {SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGABRT, SIGFPE, SIGKILL, SIGSEGV, SIGPIPE, SIGALRM, SIGTERM, SIGUSR1, SIGCHLD, SIGCONT, SIGURG, SIGWINCH, SIGXCPU, SIGSYS, SIGRTMIN, SIGRTMAX};
  for (unsigned i = 0; i < sizeof list / sizeof *list; i++) {
    int s = list[i], st;
    if (fork() == 0) {
      signal(s, SIG_DFL);
      sigset_t none;
      sigemptyset(&none);
      sigprocmask(SIG_SETMASK, &none, 0);
      kill(getpid(), s);
      _exit(5);
    }
    wait(&st);
    printf("default of %d: signaled %d term %d exit %d\n", s, WIFSIGNALED(st), WIFSIGNALED(st) ? WTERMSIG(st) : 0, WIFEXITED(st) ? WEXITSTATUS(st) : -1);
  }
  int st;
  if (fork() == 0) {
    // Blocked, a fault kills all the same.
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, 0);
    signal(SIGSEGV, SIG_IGN);
    *(volatile int *)8 = 1;
    _exit(1);
  }
  wait(&st);
  printf("ignored fault: %d\n", WTERMSIG(st));
#ifndef PORTABLE
  if (fork() == 0) {
    // A handler without a stack to run on.
    set(SIGSEGV, note_info, 0);
    __asm__ volatile("mov $8, %rsp\n push %rax");
    _exit(1);
  }
  wait(&st);
  printf("no stack: %d\n", WTERMSIG(st));
  if (fork() == 0) {
    // Nonsense for sigreturn.
    __asm__ volatile("mov $16, %rsp\n mov $15, %eax\n syscall");
    _exit(1);
  }
  wait(&st);
  printf("bad sigreturn: %d\n", WTERMSIG(st));
#endif
}

int main(void) {
  setvbuf(stdout, 0, _IONBF, 0);
  kill_self();
  masks();
  flags();
  faults();
  alternate();
  registers();
  interrupted();
  deaths();
  return 0;
}
