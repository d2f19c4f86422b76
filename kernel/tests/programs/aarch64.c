// What is aarch64's own: the frame of a signal, vectors and the state of floating point, codes of exceptions, caches,
// counters and features that programs use without the kernel. sigaction(2), signal(7), getauxval(3), membarrier(2).
// What it prints is what Debian's Linux 6.1 prints, on QEMU's `max` without SVE.
// kernel-test aarch64: arch=aarch64
//> vectors across a handler: 0 bad, fpcr 0
//> vectors of threads that take turns: 0 bad
//> fpcr in a child: 9
//> store to nothing: SEGV, code 1, address right, fault address right, class 0x24, write 1, pc right
//> records: vectors 1, syndrome 1; aligned 1, linked 1
//> store to what is read only: SEGV, code 2, address right, fault address right, class 0x24, write 1, pc right
//> load of nothing: SEGV, code 1, address right, fault address right, class 0x24, write 0, pc right
//> load over an edge: SEGV, code 1, address right, fault address right, class 0x24, write 0, pc right
//> an address with a tag: SEGV, code 1, address right, fault address right, class 0x24, write 0, pc right
//> an address of neither half: SEGV, code 1, address right, fault address right, class 0x24, write 0, pc right
//> the kernel's half: SEGV, code 1, address right, fault address right, class 0x24, write 0, pc right
//> tags: 0, to a call: EFAULT
//> no instruction: ILL, code 1, address right, fault address 0, class 0, write 0, pc right
//> a breakpoint: TRAP, code 1, address right, fault address 0, class 0, write 0, pc right
//> a register of the kernel's: ILL, code 1, address right, fault address 0, class 0, write 0, pc right
//> unaligned: unaligne
//> an exclusive load, unaligned: BUS, code 1, address right, fault address right, class 0x24, write 0, pc right
//> a handler changes a vector: 0x1234567890
//> another signal: USR2, code 0, linked 1
//> another level: 0xb, no vectors: 0xb, conditions: 0xa00
//> own restorer: 0, handled 10, told again 1
//> code that was written: 210
//> zeroed: 0, may zero 1, lines 1
//> the counter counts, often 1; tpidrro 0
//> fp 1, simd 1, atomics: 5 42
//> registers across a call: 0x9999 0x1818 0x2828 173 77
#define _GNU_SOURCE
#include <asm/sigcontext.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

typedef unsigned __int128 vector;

// Loads v0 to v31, and stores them.
#define EACH(op, p) \
  op " q0, q1, [" p "]\n" op " q2, q3, [" p ", #32]\n" op " q4, q5, [" p ", #64]\n" op " q6, q7, [" p ", #96]\n" \
  op " q8, q9, [" p ", #128]\n" op " q10, q11, [" p ", #160]\n" op " q12, q13, [" p ", #192]\n" \
  op " q14, q15, [" p ", #224]\n" op " q16, q17, [" p ", #256]\n" op " q18, q19, [" p ", #288]\n" \
  op " q20, q21, [" p ", #320]\n" op " q22, q23, [" p ", #352]\n" op " q24, q25, [" p ", #384]\n" \
  op " q26, q27, [" p ", #416]\n" op " q28, q29, [" p ", #448]\n" op " q30, q31, [" p ", #480]\n"
#define ALL \
  "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", \
      "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31"

static void fill(vector *v, uint64_t seed) {
  for (int i = 0; i < 32; i++) v[i] = (vector)(seed * 3 + i) << 64 | (seed ^ i * 0x0101010101010101ull);
}

// One system call between; gives how many vectors are not what they were.
static int across(long n, long a, long b, uint64_t seed) {
  vector in[32], out[32];
  fill(in, seed);
  register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = 0,
                x3 __asm__("x3") = 0, x4 __asm__("x4") = 0;
  __asm__ volatile(EACH("ldp", "%[in]") "svc #0\n" EACH("stp", "%[out]")
                   : "+r"(x0) : [in] "r"(in), [out] "r"(out), "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory", ALL);
  int bad = 0;
  for (int i = 0; i < 32; i++) bad += in[i] != out[i];
  return x0 == 0 ? bad : bad + 1000;
}

static void change_all(int s) {
  vector v[32];
  fill(v, 0x5a5a);
  __asm__ volatile(EACH("ldp", "%0") "msr fpcr, %1\n" : : "r"(v), "r"(1ul << 22) : "memory", ALL);
}

static uint64_t fpcr(void) {
  uint64_t v;
  __asm__ volatile("mrs %0, fpcr" : "=r"(v));
  return v;
}

static void *rounds(void *seed) {
  uint64_t mode = ((uint64_t)seed & 3) << 22, bad = 0;
  __asm__ volatile("msr fpcr, %0" : : "r"(mode));
  for (int i = 0; i < 300; i++) bad += across(SYS_sched_yield, 0, 0, (uint64_t)seed + i) != 0 || fpcr() != mode;
  return (void *)bad;
}

static void floating(void) {
  signal(SIGUSR1, change_all);
  printf("vectors across a handler: %d bad, fpcr %#lx\n", across(SYS_kill, getpid(), SIGUSR1, 7), fpcr());
  pthread_t t[4];
  long bad = 0;
  for (long i = 0; i < 4; i++) pthread_create(&t[i], 0, rounds, (void *)(i + 40));
  for (int i = 0; i < 4; i++) {
    void *r;
    pthread_join(t[i], &r);
    bad += (long)r;
  }
  printf("vectors of threads that take turns: %ld bad\n", bad);
  __asm__ volatile("msr fpcr, %0" : : "r"(2ul << 22));
  fflush(stdout);
  pid_t p = fork();
  if (!p) _exit(fpcr() == 2ul << 22 ? 9 : 1);
  int status;
  waitpid(p, &status, 0);
  __asm__ volatile("msr fpcr, xzr");
  printf("fpcr in a child: %d\n", WEXITSTATUS(status));
}

// What the last handler saw.
static struct {
  int signal, code, records, vectors, syndromes, aligned, linked;
  uint64_t address, fault, class, write, pc, sp, state;
} seen;

static void look(int s, siginfo_t *i, void *c) {
  ucontext_t *u = c;
  mcontext_t *m = &u->uc_mcontext;
  memset(&seen, 0, sizeof seen);
  seen.signal = s, seen.code = i->si_code, seen.address = (uint64_t)i->si_addr, seen.fault = m->fault_address;
  seen.pc = m->pc, seen.sp = m->sp, seen.state = m->pstate;
  uint64_t frame[2];
  memcpy(frame, __builtin_frame_address(0), 16);
  uint64_t *link = (uint64_t *)frame[0];
  seen.linked = link[0] == m->regs[29] && link[1] == m->regs[30];
  seen.aligned = (uint64_t)c % 16 == 0 && (char *)c - (char *)i == 128;
  for (char *r = (char *)m->__reserved;;) {
    struct _aarch64_ctx *head = (void *)r;
    if (!head->magic) break;
    seen.records++;
    if (head->magic == FPSIMD_MAGIC) {
      struct fpsimd_context *f = (void *)r;
      seen.vectors = head->size == sizeof *f;
      f->vregs[31] = 0x1234567890ull;
    }
    if (head->magic == ESR_MAGIC) {
      uint64_t esr = ((struct esr_context *)r)->esr;
      seen.syndromes++, seen.class = esr >> 26, seen.write = esr >> 6 & 1;
    }
    r += head->size;
  }
  m->pc += 4;
}

// Runs one instruction that ends in `look`, which goes on behind it.
#define ONE(text, ...) \
  ({ \
    uint64_t at_; \
    __asm__ volatile("adr %0, 1f\n1: " text : "=&r"(at_) : __VA_ARGS__ : "memory", "x9"); \
    at_; \
  })
static void tell(const char *what, uint64_t at, uint64_t address) {
  printf("%s: %s, code %d, address %s, fault address %s, class %#lx, write %lu, pc %s\n", what, sigabbrev_np(seen.signal),
         seen.code, seen.address == address ? "right" : "wrong", seen.fault == address ? "right" : seen.fault ? "other" : "0",
         seen.class, seen.write, seen.pc == at ? "right" : "wrong");
}

static void exceptions(void) {
  struct sigaction a = {.sa_sigaction = look, .sa_flags = SA_SIGINFO};
  int all[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGUSR2};
  for (int i = 0; i < 5; i++) sigaction(all[i], &a, 0);
  char *p = mmap(0, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(p + 4096, 4096);
  tell("store to nothing", ONE("str xzr, [%1]", "r"(p + 4096)), (uint64_t)p + 4096);
  printf("records: vectors %d, syndrome %d; aligned %d, linked %d\n", seen.vectors, seen.syndromes, seen.aligned, seen.linked);
  tell("store to what is read only", ONE("str xzr, [%1]", "r"(p)), (uint64_t)p);
  tell("load of nothing", ONE("ldr x9, [%1]", "r"(p + 4096)), (uint64_t)p + 4096);
  tell("load over an edge", ONE("ldr x9, [%1]", "r"(p + 4092)), (uint64_t)p + 4096);
  tell("an address with a tag", ONE("ldr x9, [%1]", "r"(5ul << 60 | (uint64_t)(p + 4096))), (uint64_t)p + 4096);
  tell("an address of neither half", ONE("ldr x9, [%1]", "r"(1ul << 50)), 1ul << 50);
  tell("the kernel's half", ONE("ldr x9, [%1]", "r"(~0xffffull)), ~0xffffull);
  uint64_t fd = memfd_create("", 0);
  printf("tags: %d, to a call: %s\n", *(char *)(7ul << 60 | (uint64_t)p), write(fd, (char *)(7ul << 60 | (uint64_t)p), 1) < 0 ? strerrorname_np(errno) : "done");
  uint64_t pc = ONE("udf #7", "r"(p));
  tell("no instruction", pc, pc);
  pc = ONE("brk #5", "r"(p));
  tell("a breakpoint", pc, pc);
  pc = ONE("msr tpidr_el1, %1", "r"(p));
  tell("a register of the kernel's", pc, pc);
  uint64_t x;
  char odd[64] __attribute__((aligned(64))) = {0};
  memcpy(odd + 33, "unaligned", 9);
  memcpy(&x, odd + 33, 8);
  printf("unaligned: %.8s\n", (char *)&x);
  tell("an exclusive load, unaligned", ONE("ldaxr x9, [%1]", "r"(odd + 4)), (uint64_t)odd + 4);
  __asm__ volatile("movi v31.2d, #0\n str xzr, [%1]\n umov %0, v31.d[0]" : "=r"(x) : "r"(p + 4096) : "v31", "memory");
  printf("a handler changes a vector: %#lx\n", x);
  seen.signal = 0;
  kill(getpid(), SIGUSR2);
  printf("another signal: %s, code %d, linked %d\n", sigabbrev_np(seen.signal), seen.code, seen.linked);
}

static void cannot_return(int s, siginfo_t *i, void *c) {
  mcontext_t *m = &((ucontext_t *)c)->uc_mcontext;
  struct _aarch64_ctx *head = (void *)m->__reserved;
  if (s == SIGUSR1) m->pstate |= 5;
  if (s == SIGUSR2) head->magic = 77;
  if (s == SIGALRM) m->pstate |= 0xa0000000;
}

// In a child; how that ended.
static int child(int s, void (*f)(int, siginfo_t *, void *)) {
  fflush(stdout);
  pid_t p = fork();
  if (!p) {
    struct sigaction a = {.sa_sigaction = f, .sa_flags = SA_SIGINFO};
    sigaction(s, &a, 0);
    signal(SIGSEGV, SIG_DFL);
    uint64_t flags;
    long self = getpid();
    register long x8 __asm__("x8") = SYS_kill, x0 __asm__("x0") = self, x1 __asm__("x1") = s;
    __asm__ volatile("msr nzcv, xzr\n svc #0\n mrs %0, nzcv" : "=&r"(flags), "+r"(x0) : "r"(x8), "r"(x1) : "memory", "cc");
    _exit(flags >> 28);
  }
  int status = -1;
  waitpid(p, &status, 0);
  return status;
}

static void returns(void) {
  printf("another level: %#x, no vectors: %#x, conditions: %#x\n", child(SIGUSR1, cannot_return),
         child(SIGUSR2, cannot_return), child(SIGALRM, cannot_return));
}

static volatile int handled;
static void count(int s) { handled += s; }

// By a restorer of its own, which the C library has no need of.
__asm__("restorer: mov x8, #139\n svc #0\n");
extern void restorer(void);
static void own_restorer(void) {
  struct {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    unsigned long mask;
  } a = {count, 0x04000000, restorer, 0}, old = {0};
  long r = syscall(SYS_rt_sigaction, SIGUSR1, &a, 0, 8);
  kill(getpid(), SIGUSR1);
  syscall(SYS_rt_sigaction, SIGUSR1, 0, &old, 8);
  printf("own restorer: %ld, handled %d, told again %d\n", r, handled, old.restorer == restorer && old.flags == a.flags);
}

static void caches(void) {
  uint64_t ctr, zva;
  __asm__ volatile("mrs %0, ctr_el0\n mrs %1, dczid_el0" : "=r"(ctr), "=r"(zva));
  uint32_t *code = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  int sum = 0;
  for (int i = 0; i < 20; i++) {
    mprotect(code, 8192, PROT_READ | PROT_WRITE);
    code[0] = 0x52800000 | (i + 1) << 5;  // mov w0, #i + 1
    code[1] = 0xd65f03c0;                 // ret
    mprotect(code, 8192, PROT_READ | PROT_EXEC);
    __builtin___clear_cache((char *)code, (char *)code + 8);
    sum += ((int (*)(void))code)();
  }
  printf("code that was written: %d\n", sum);
  char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(p, 1, 4096);
  unsigned long block = 4ul << (zva & 15);
  for (char *q = p; q < p + 8192; q += block) __asm__ volatile("dc zva, %0" : : "r"(q) : "memory");
  int left = 0;
  for (int i = 0; i < 8192; i++) left += p[i];
  printf("zeroed: %d, may zero %d, lines %d\n", left, !(zva & 16), (ctr & 15) != 0);
}

static void features(void) {
  uint64_t a, b, f;
  __asm__ volatile("mrs %0, cntvct_el0\n mrs %1, cntfrq_el0" : "=r"(a), "=r"(f));
  do __asm__ volatile("isb\n mrs %0, cntvct_el0" : "=r"(b));
  while (b == a);
  __asm__ volatile("mrs %0, tpidrro_el0" : "=r"(a));
  printf("the counter counts, often %d; tpidrro %#lx\n", f >= 1000000, a);
  unsigned long caps = getauxval(AT_HWCAP);
  uint64_t word = 5, old = 0;
  if (caps & 1 << 8) __asm__ volatile(".arch armv8.1-a\n ldaddal %2, %0, %1" : "=r"(old), "+Q"(word) : "r"(37ul) : "memory");
  else old = 5, word = 42;
  printf("fp %ld, simd %ld, atomics: %lu %lu\n", (long)(caps & 1), (long)(caps >> 1 & 1), old, word);
  register uint64_t x9 __asm__("x9") = 0x9999, x18 __asm__("x18") = 0x1818, x28 __asm__("x28") = 0x2828;
  register long x8 __asm__("x8") = SYS_getppid, x0 __asm__("x0"), x7 __asm__("x7") = 77;
  __asm__ volatile("svc #0" : "=r"(x0), "+r"(x9), "+r"(x18), "+r"(x28), "+r"(x8), "+r"(x7) : : "memory");
  printf("registers across a call: %#lx %#lx %#lx %ld %ld\n", x9, x18, x28, x8, x7);
}

int main(void) {
  floating();
  exceptions();
  returns();
  own_restorer();
  caches();
  features();
}
