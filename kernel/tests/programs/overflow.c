// A stack that overflows: SIGSEGV, on the other stack if there is one, for the first thread and for others; the process
// goes on. Prints the same on Linux.
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static __thread sigjmp_buf back;
static __thread char *other;
static __thread int deep;
enum { OTHER = 65536 };

static void caught(int signal, siginfo_t *info, void *context) {
  char here;
  int on_other = &here >= other && &here < other + OTHER;
  (void)context;
  siglongjmp(back, signal == SIGSEGV && info->si_addr && on_other ? 1 : 2);
}

__attribute__((noinline)) static int dive(int n) {
  volatile char room[1024];
  memset((char *)room, n, sizeof room);
  deep++;
  return dive(n + 1) + room[n % 1024];
}

static void *overflow(void *name) {
  other = malloc(OTHER);
  stack_t s = {.ss_sp = other, .ss_size = OTHER};
  sigaltstack(&s, 0);
  for (int turn = 0; turn < 3; turn++) {
    deep = 0;
    int how = sigsetjmp(back, 1);
    if (how == 0) dive(0);
    printf("%s: %s, %s\n", (char *)name, how == 1 ? "on the other stack" : "WRONG", deep > 50 ? "deep" : "SHALLOW");
  }
  s.ss_flags = SS_DISABLE;
  sigaltstack(&s, 0);
  free(other);
  return 0;
}

int main(void) {
  struct rlimit small = {1 << 20, 1 << 20};
  setvbuf(stdout, 0, _IONBF, 0);
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
  struct sigaction a = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigaction(SIGSEGV, &a, 0);
  setrlimit(RLIMIT_STACK, &small);
  overflow("first");
  pthread_t t;
  pthread_create(&t, 0, overflow, "thread");
  pthread_join(t, 0);
  // Without another stack there is nowhere to go.
  pid_t p = fork();
  if (!p) dive(0);
  int status;
  waitpid(p, &status, 0);
  printf("without: %#x\n", status & 0x7f);
  return 0;
}
