// wait4, waitid, process groups, stopping and going on, orphans. Prints the same on Linux.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void show(const char *what, int r, int st) {
  printf("%s: %s", what, r < 0 ? strerror(errno) : r == 0 ? "nothing" : "child");
  if (r > 0) {
    if (WIFEXITED(st)) printf(" exited %d", WEXITSTATUS(st));
    if (WIFSIGNALED(st)) printf(" killed %d", WTERMSIG(st));
    if (WIFSTOPPED(st)) printf(" stopped %d", WSTOPSIG(st));
    if (WIFCONTINUED(st)) printf(" continued");
  }
  printf("\n");
}

static volatile sig_atomic_t chld;
static siginfo_t info;
static void on_chld(int s, siginfo_t *i, void *c) { (void)s; (void)c; chld++; info = *i; }

static void nap(int ms) {
  struct timespec t = {ms / 1000, ms % 1000 * 1000000l};
  while (nanosleep(&t, &t) && errno == EINTR) {}
}

int main(void) {
  setvbuf(stdout, 0, _IONBF, 0);
  int st = 0, r;
  errno = 0;
  r = wait(&st);
  show("no child", r, st);
  pid_t p = fork();
  if (!p) _exit(7);
  r = waitpid(p, &st, 0);
  show("end", r, st);
  p = fork();
  if (!p) for (;;) pause();
  r = waitpid(p, &st, WNOHANG);
  show("nohang", r, st);
  kill(p, SIGSTOP);
  r = waitpid(p, &st, WUNTRACED);
  show("stop", r, st);
  r = waitpid(p, &st, WUNTRACED | WNOHANG);
  show("stop reported once", r, st);
  kill(p, SIGCONT);
  r = waitpid(p, &st, WCONTINUED);
  show("cont", r, st);
  kill(p, SIGTSTP);
  r = waitpid(p, &st, WUNTRACED);
  show("tstp", r, st);
  kill(p, SIGTERM);
  nap(50);
  r = waitpid(p, &st, WNOHANG);
  show("stopped does not die of TERM", r, st);
  kill(p, SIGCONT);
  r = waitpid(p, &st, 0);
  show("now it does", r, st);
  p = fork();
  if (!p) for (;;) pause();
  kill(p, SIGSTOP);
  waitpid(p, &st, WUNTRACED);
  kill(p, SIGKILL);
  r = waitpid(p, &st, 0);
  show("kill while stopped", r, st);

  // SIGCHLD and what comes with it.
  struct sigaction a = {0};
  a.sa_sigaction = on_chld;
  a.sa_flags = SA_SIGINFO | SA_RESTART;
  sigaction(SIGCHLD, &a, 0);
  // The child ends only when told: the signals about it do not meet.
  int tell[2];
  char byte;
  pipe(tell);
  p = fork();
  if (!p) {
    raise(SIGSTOP);
    read(tell[0], &byte, 1);
    _exit(3);
  }
  waitpid(p, &st, WUNTRACED);
  while (info.si_code != CLD_STOPPED) nap(1);
  printf("SIGCHLD %d code %d status %d pid ok %d\n", info.si_signo, info.si_code, info.si_status, info.si_pid == p);
  kill(p, SIGCONT);
  waitpid(p, &st, WCONTINUED);
  while (info.si_code != CLD_CONTINUED) nap(1);
  printf("SIGCHLD code %d status %d\n", info.si_code, info.si_status);
  write(tell[1], "x", 1);
  waitpid(p, &st, 0);
  while (info.si_code != CLD_EXITED) nap(1);
  printf("SIGCHLD code %d status %d\n", info.si_code, info.si_status);
  chld = 0;
  a.sa_flags = SA_SIGINFO | SA_NOCLDSTOP;
  sigaction(SIGCHLD, &a, 0);
  p = fork();
  if (!p) {
    raise(SIGSTOP);
    raise(SIGKILL);
  }
  waitpid(p, &st, WUNTRACED);
  nap(20);
  printf("NOCLDSTOP: %d\n", chld);
  kill(p, SIGCONT);
  waitpid(p, &st, 0);
  while (info.si_code != CLD_KILLED) nap(1);
  printf("killed: code %d status %d\n", info.si_code, info.si_status);
  signal(SIGCHLD, SIG_IGN);
  p = fork();
  if (!p) _exit(1);
  errno = 0;
  r = waitpid(p, &st, 0);
  show("ignored children", r, st);
  signal(SIGCHLD, SIG_DFL);

  // waitid
  siginfo_t i;
  p = fork();
  if (!p) _exit(9);
  memset(&i, 0, sizeof i);
  r = waitid(P_PID, p, &i, WEXITED | WNOWAIT);
  printf("waitid %d: signo %d code %d status %d pid ok %d\n", r, i.si_signo, i.si_code, i.si_status, i.si_pid == p);
  r = waitid(P_ALL, 0, &i, WEXITED);
  printf("again %d: status %d\n", r, i.si_status);
  errno = 0;
  r = waitid(P_ALL, 0, &i, WEXITED);
  printf("none %d %s\n", r, strerror(errno));
  errno = 0;
  r = waitid(P_ALL, 0, &i, 0);
  printf("no options %d %s\n", r, strerror(errno));

  // Groups
  p = fork();
  if (!p) {
    setpgid(0, 0);
    printf("own group %d\n", getpgrp() == getpid());
    pid_t c = fork();
    if (!c) for (;;) pause();
    kill(0, SIGURG);
    _exit(getpgid(c) == getpid() ? (killpg(0, SIGTERM), 1) : 2);
  }
  setpgid(p, p);
  r = waitpid(-p, &st, 0);
  show("group", r, st);
  while (waitpid(-1, &st, WNOHANG) > 0) {}
  p = fork();
  if (!p) {
    pid_t s = setsid();
    printf("setsid %d sid %d pgid %d\n", s == getpid(), getsid(0) == getpid(), getpgrp() == getpid());
    errno = 0;
    s = setsid();
    printf("again %d %s\n", s, strerror(errno));
    errno = 0;
    s = setpgid(0, 0);
    printf("leader's setpgid %d %s\n", s, strerror(errno));
    _exit(0);
  }
  // As the first process this one inherits orphans: it waits for its own child.
  waitpid(p, 0, 0);
  errno = 0;
  r = setpgid(999999, 0);
  printf("setpgid(none) %d %s\n", r, strerror(errno));
  errno = 0;
  r = kill(-999999, 0);
  printf("kill(no group) %d %s\n", r, strerror(errno));

  // Exit status of _exit is eight bits; a grandchild outlives its parent.
  p = fork();
  if (!p) _exit(0x1234);
  waitpid(p, &st, 0);
  printf("eight bits: %#x\n", st);
  int fd[2];
  pipe(fd);
  p = fork();
  if (!p) {
    pid_t me = getpid();
    if (!fork()) {
      while (getppid() == me) nap(5);
      write(fd[1], "o", 1);
      _exit(0);
    }
    _exit(0);
  }
  waitpid(p, 0, 0);
  char c = 0;
  read(fd[0], &c, 1);
  printf("orphan: %c\n", c);
  struct rusage u;
  r = getrusage(RUSAGE_CHILDREN, &u);
  printf("rusage %d, %d\n", r, u.ru_utime.tv_sec < 100);
  // vfork
  volatile int shared = 1;
  p = vfork();
  if (!p) {
    shared = 2;
    _exit(4);
  }
  waitpid(p, &st, 0);
  printf("vfork: %d, exit %d\n", shared, WEXITSTATUS(st));
  return 0;
}
