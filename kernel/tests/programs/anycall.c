// Any system call with any arguments, from children that are killed when they take too long: whatever they get, the kernel
// goes on and nothing is left over. Only under our kernel: what such calls do to a machine that is in use nobody knows.
// The arguments are a seed and a number of children; the same seed makes the same calls.
// kernel-test anycall: cpus=2 mem=128M args=1,150 arch=x86_64
// kernel-test anycall-small: cpus=1 mem=48M args=2,100 arch=x86_64
//> survived
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define PAGES 64ul

static uint64_t state;
static char *memory;

static uint64_t any(void) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

static uint64_t argument(void) {
  static const uint64_t odd[] = {
    0, 1, 2, 3, -1ul, PAGE, -PAGE, 0x7fffffff, 0x80000000, 0xffffffff, 1ul << 47, (1ul << 47) - PAGE, 1ul << 63,
    (1ul << 63) - 1, 0xffffffff80000000, 8, 16, 100, 255, 65536,
  };
  uint64_t in_memory = (uint64_t)memory;
  switch (any() % 8) {
  case 0:
  case 1: return odd[any() % (sizeof odd / sizeof *odd)];
  case 2: return in_memory + any() % (PAGES * PAGE);
  case 3: return in_memory + any() % PAGES * PAGE;
  case 4: return any() % 16;
  case 5: return in_memory + PAGES * PAGE - any() % 32;
  case 6: return any();
  default: return any() % PAGES * PAGE;
  }
}

// Memory is what this kernel is about: every other call is one of these.
static const int memory_calls[] = {
  SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise, SYS_msync, SYS_mincore, SYS_mlock, SYS_mlock2, SYS_munlock,
  SYS_mlockall, SYS_munlockall, SYS_remap_file_pages, SYS_process_vm_readv, SYS_process_vm_writev, SYS_memfd_create,
  SYS_ftruncate, SYS_fallocate, SYS_read, SYS_write, SYS_pread64, SYS_pwrite64, SYS_brk, SYS_shmget, SYS_shmat, SYS_shmdt,
  SYS_futex, SYS_readv, SYS_writev, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_sigaltstack, SYS_rseq,
};

// What makes processes, ends or stops other ones, or ends the machine.
static int is_left_out(long call) {
  switch (call) {
  case SYS_fork: case SYS_vfork: case SYS_clone: case SYS_clone3: case SYS_kill: case SYS_tkill: case SYS_tgkill:
  case SYS_rt_sigqueueinfo: case SYS_rt_tgsigqueueinfo: case SYS_pidfd_send_signal: case SYS_reboot: case SYS_exit:
  case SYS_exit_group: case SYS_pause: case SYS_setpgid: case SYS_setsid: case SYS_prlimit64: case SYS_setrlimit:
    return 1;
  default:
    return 0;
  }
}

static void child(void) {
  struct rlimit size = {16 << 20, 16 << 20};
  setrlimit(RLIMIT_FSIZE, &size);
  memory = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  strcpy(memory, "/tmp/any");
  strcpy(memory + PAGE, "/dev/zero");
  strcpy(memory + 2 * PAGE, "/proc/self/maps");
  mprotect(memory + 20 * PAGE, 4 * PAGE, PROT_READ);
  int none = open("/dev/null", O_RDWR), pair[2];
  for (int fd = 0; fd < 3; fd++) dup2(none, fd);
  open("/tmp/any", O_RDWR | O_CREAT, 0600);
  pipe(pair);
  socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
  memfd_create("any", 0);
  for (int i = 0; i < 300; i++) {
    long call = any() % 2 ? memory_calls[any() % (sizeof memory_calls / sizeof *memory_calls)] : (long)(any() % 460);
    uint64_t a[6];
    for (int k = 0; k < 6; k++) a[k] = argument();
    if (!is_left_out(call)) syscall(call, a[0], a[1], a[2], a[3], a[4], a[5]);
  }
  _exit(0);
}

int main(int argc, char **argv) {
  uint64_t seed = argc > 1 ? strtoull(argv[1], 0, 0) : 1;
  int children = argc > 2 ? atoi(argv[2]) : 100;
  for (int i = 0; i < children; i++) {
    state = (seed * 1000003 + i + 1) * 0x9e3779b97f4a7c15;
    pid_t p = fork();
    if (!p) child();
    if (p < 0) {
      printf("no child: %s\n", strerror(errno));
      return 1;
    }
    int waited = 0;
    while (!waitpid(p, 0, WNOHANG)) {
      usleep(2000);
      if (++waited == 40) kill(p, SIGKILL);
    }
  }
  unlink("/tmp/any");
  // Segments live as long as nobody removes them.
  for (int id = 0; id < 4096; id++) syscall(SYS_shmctl, id, 0, 0);
  puts("survived");
  return 0;
}
