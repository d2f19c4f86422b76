// Identities, limits, prctl, names, exec and its ways to fail, semaphores, other processes' memory. Prints the same
// on Linux, as root.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *what, long r) { printf("%s: %ld %s\n", what, r, r < 0 ? strerror(errno) : ""); }
static int st;
// Waits for this child and no other: the first process of a machine has orphans to wait for, too.
#define CHILD(...) do { pid_t child_ = fork(); if (!child_) { __VA_ARGS__; _exit(0); } waitpid(child_, &st, 0); } while (0)

static void ids(void) {
  unsigned a, b, c;
  CHILD({
    say("setresuid", syscall(SYS_setresuid, 1000, 2000, 3000));
    syscall(SYS_getresuid, &a, &b, &c);
    printf("%u %u %u\n", a, b, c);
    say("setuid(5)", syscall(SYS_setuid, 5));
    say("setuid(3000)", syscall(SYS_setuid, 3000));
    syscall(SYS_getresuid, &a, &b, &c);
    printf("%u %u %u\n", a, b, c);
    say("seteuid back", syscall(SYS_setresuid, -1, 1000, -1));
    say("setreuid(2000)", syscall(SYS_setreuid, 2000, -1));
    say("kill(1)", kill(getppid(), 0));
    say("setgroups", syscall(SYS_setgroups, 0, 0));
    say("setpriority", setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) - 1));
    say("setpriority up", setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + 1));
    struct rlimit rl = {1, RLIM_INFINITY};
    rl.rlim_max = 1ul << 62;
    say("raise a hard limit", setrlimit(RLIMIT_NPROC, &rl));
  });
  CHILD({
    say("setuid as root", syscall(SYS_setuid, 77));
    syscall(SYS_getresuid, &a, &b, &c);
    printf("%u %u %u\n", a, b, c);
    say("setuid(0)", syscall(SYS_setuid, 0));
  });
  CHILD({
    say("setregid", syscall(SYS_setregid, 8, 9));
    syscall(SYS_getresgid, &a, &b, &c);
    printf("%u %u %u\n", a, b, c);
    gid_t g[3] = {1, 2, 3};
    say("setgroups", syscall(SYS_setgroups, 3, g));
    say("getgroups", syscall(SYS_getgroups, 0, 0));
    say("getgroups(2)", syscall(SYS_getgroups, 2, g));
    say("setfsuid", syscall(SYS_setfsuid, 4));
    say("setfsuid", syscall(SYS_setfsuid, -1));
  });
}

static void limits(void) {
  struct rlimit r;
  getrlimit(RLIMIT_STACK, &r);
  printf("stack %ld\n", (long)r.rlim_cur);
  CHILD({
    struct rlimit n = {100, 200};
    say("set", setrlimit(RLIMIT_CORE, &n));
    getrlimit(RLIMIT_CORE, &r);
    printf("%ld %ld\n", (long)r.rlim_cur, (long)r.rlim_max);
    n.rlim_cur = 300;
    say("above the hard one", setrlimit(RLIMIT_CORE, &n));
    say("no such", setrlimit(99, &n));
    CHILD({
      getrlimit(RLIMIT_CORE, &r);
      printf("inherited %ld\n", (long)r.rlim_cur);
    });
  });
}

static void settings(void) {
  char name[17] = "";
  say("PR_SET_NAME", prctl(PR_SET_NAME, "a name that is much too long"));
  say("PR_GET_NAME", prctl(PR_GET_NAME, name));
  printf("%s\n", name);
  say("dumpable", prctl(PR_GET_DUMPABLE));
  say("set 2", prctl(PR_SET_DUMPABLE, 2));
  say("set 0", prctl(PR_SET_DUMPABLE, 0));
  say("dumpable", prctl(PR_GET_DUMPABLE));
  say("death 100", prctl(PR_SET_PDEATHSIG, 100));
  say("no new privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
  say("no such", prctl(12345));
  say("personality", personality(0xffffffff));
  struct utsname u;
  uname(&u);
  printf("%s %s\n", u.sysname, u.machine);
  struct sysinfo si;
  say("sysinfo", sysinfo(&si));
  printf("ram %d unit %u\n", si.totalram > 1 << 20, si.mem_unit);
  cpu_set_t set;
  say("affinity", sched_getaffinity(0, sizeof set, &set) < 0);
  say("count", CPU_COUNT(&set) > 0);
  say("scheduler", syscall(SYS_sched_getscheduler, 0));
  say("max", sched_get_priority_max(SCHED_FIFO));
  say("max", sched_get_priority_max(99));
  unsigned cpu = 99;
  say("getcpu", syscall(SYS_getcpu, &cpu, 0, 0));
  char r1[32] = {0}, r2[32] = {0};
  say("random", getrandom(r1, 32, 0));
  say("random", getrandom(r2, 32, GRND_NONBLOCK));
  printf("differ %d\n", memcmp(r1, r2, 32) != 0);
  say("bad flags", getrandom(r1, 32, 64));
  int fd[2];
  pipe(fd);
  CHILD({
    if (!fork()) {
      prctl(PR_SET_PDEATHSIG, SIGUSR1);
      sigset_t s;
      sigemptyset(&s);
      sigaddset(&s, SIGUSR1);
      sigprocmask(SIG_BLOCK, &s, 0);
      write(fd[1], "r", 1);
      int got;
      sigwait(&s, &got);
      write(fd[1], got == SIGUSR1 ? "d" : "x", 1);
      _exit(0);
    }
    char c;
    read(fd[0], &c, 1);
  });
  char c = 0;
  read(fd[0], &c, 1);
  printf("parent's death: %c\n", c);
}

static void put(const char *path, const char *text, int mode) {
  int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
  write(fd, text, strlen(text));
  close(fd);
  chmod(path, mode);
}

static void execs(char *self) {
  char *argv[] = {"name", "child", "x", 0}, *envp[] = {"A=b", 0};
  say("no such file", execve("/no/such", argv, envp));
  say("a directory", execve("/", argv, envp));
  CHILD(execve(self, argv, envp));
  printf("status %d\n", WEXITSTATUS(st));
  char *big[64];
  char *s = malloc(140000);
  memset(s, 'a', 139999);
  s[139999] = 0;
  big[0] = s;
  big[1] = 0;
  say("one too long", execve(self, big, envp));
  char *bad[] = {(char *)8, 0};
  say("bad pointer", execve(self, bad, envp));
  say("bad path", execve((char *)8, argv, envp));
  say("bad list", execve(self, (char **)8, envp));
  // What is handled becomes default, what is ignored stays; the mask stays; alarms go on.
  CHILD({
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, (void (*)(int))1234);
    sigset_t m;
    sigemptyset(&m);
    sigaddset(&m, SIGINT);
    sigprocmask(SIG_BLOCK, &m, 0);
    argv[1] = "signals";
    execve(self, argv, envp);
  });
}

static int child(int argc, char **argv, char **envp) {
  if (!strcmp(argv[1], "signals")) {
    struct sigaction a, b;
    sigset_t m;
    sigaction(SIGUSR1, 0, &a);
    sigaction(SIGUSR2, 0, &b);
    sigprocmask(0, 0, &m);
    printf("exec: ignored %d default %d blocked %d\n", a.sa_handler == SIG_IGN, b.sa_handler == SIG_DFL, sigismember(&m, SIGINT));
    return 0;
  }
  printf("argc %d argv0 %s env %s\n", argc, argv[0], envp[0]);
  printf("aux: pagesz %lu clktck %lu secure %lu uid %lu hwcap %d random %d execfn %d phnum %d entry %d platform %s\n", getauxval(AT_PAGESZ), getauxval(AT_CLKTCK), getauxval(AT_SECURE), getauxval(AT_UID), getauxval(AT_HWCAP) != 0, getauxval(AT_RANDOM) != 0, getauxval(AT_EXECFN) != 0, getauxval(AT_PHNUM) > 2, getauxval(AT_ENTRY) != 0, (char *)getauxval(AT_PLATFORM));
  return 21;
}

static void semaphores(void) {
  int id = semget(IPC_PRIVATE, 3, 0600 | IPC_CREAT);
  printf("semget %d\n", id >= 0);
  unsigned short v[3] = {1, 2, 3}, w[3];
  say("SETALL", semctl(id, 0, SETALL, v));
  say("GETALL", semctl(id, 0, GETALL, w));
  printf("%d %d %d\n", w[0], w[1], w[2]);
  struct sembuf two[2] = {{0, -1, 0}, {1, -5, IPC_NOWAIT}};
  say("all or none", semop(id, two, 2));
  say("GETVAL", semctl(id, 0, GETVAL));
  say("bad index", semctl(id, 9, GETVAL));
  struct sembuf down = {0, -2, SEM_UNDO}, up = {0, 1, 0};
  pid_t p = fork();
  if (!p) {
    semop(id, &down, 1);
    _exit(0);
  }
  while (semctl(id, 0, GETNCNT) != 1) usleep(5000);
  semop(id, &up, 1);
  waitpid(p, 0, 0);
  say("undone", semctl(id, 0, GETVAL));
  struct sembuf zero = {0, 0, 0};
  struct timespec ts = {0, 20000000};
  say("timeout", semtimedop(id, &zero, 1, &ts));
  struct semid_ds ds;
  say("STAT", semctl(id, 0, IPC_STAT, &ds));
  printf("nsems %lu mode %o\n", ds.sem_nsems, ds.sem_perm.mode);
  p = fork();
  if (!p) {
    int r = semop(id, &zero, 1);
    _exit(r < 0 && errno == EIDRM ? 1 : 2);
  }
  while (semctl(id, 0, GETZCNT) != 1) usleep(5000);
  say("RMID", semctl(id, 0, IPC_RMID));
  waitpid(p, &st, 0);
  printf("removed under a waiter: %d\n", WEXITSTATUS(st));
  say("gone", semop(id, &up, 1));
}

static void remote(void) {
  static char mine[10000], his[10000];
  memset(his, 'h', sizeof his);
  int go[2], ready[2];
  char c;
  pipe(go);
  pipe(ready);
  pid_t p = fork();
  if (!p) {
    memset(his, 'c', sizeof his);
    write(ready[1], "r", 1);
    read(go[0], &c, 1);
    _exit(his[0] == 'W' && his[9999] == 'W' ? 3 : 4);
  }
  read(ready[0], &c, 1);
  struct iovec l = {mine, 10000}, r[2] = {{his, 5000}, {his + 5000, 5000}};
  say("readv", process_vm_readv(p, &l, 1, r, 2, 0));
  printf("%c %c own %c\n", mine[0], mine[9999], his[0]);
  memset(mine, 'W', sizeof mine);
  say("writev", process_vm_writev(p, &l, 1, r, 2, 0));
  struct iovec bad = {(void *)8, 100};
  say("bad remote", process_vm_readv(p, &l, 1, &bad, 1, 0));
  say("bad flags", process_vm_readv(p, &l, 1, r, 1, 1));
  say("nobody", process_vm_readv(999999, &l, 1, r, 1, 0));
  write(go[1], "g", 1);
  waitpid(p, &st, 0);
  printf("child saw %d\n", WEXITSTATUS(st));
}

int main(int argc, char **argv, char **envp) {
  setvbuf(stdout, 0, _IONBF, 0);
  if (argc > 1) return child(argc, argv, envp);
  ids();
  limits();
  settings();
  execs(argv[0]);
  semaphores();
  remote();
  return 0;
}
