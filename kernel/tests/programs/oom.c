// Memory runs out: the largest process is killed, its memory is there again, and the others go on. Not for Linux, where
// it would take all there is.
// kernel-test oom: cpus=2 mem=40M
// kernel-test oom-swap: cpus=1 mem=40M swap=pool:4M,/dev/vda disk=8M
//> hog: 0x9, small: 0
//> again: 0x9, small: 0
//> room for 12 MiB: yes
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void hog(void) {
  for (unsigned long n = 1;; n++) {
    char *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) _exit(3);
    for (int i = 0; i < 1 << 20; i += 8) {
      n = n * 6364136223846793005u + 1442695040888963407u;
      *(unsigned long *)(p + i) = n;
    }
  }
}

static void small(int go) {
  char c;
  unsigned sum = 0;
  char *p = malloc(1 << 20);
  // It works while the hog grows, and after it is gone.
  for (int turn = 0; turn < 20; turn++) {
    memset(p, turn, 1 << 20);
    for (int i = 0; i < 1 << 20; i++) sum += p[i];
    usleep(20000);
  }
  while (read(go, &c, 1) > 0) {
  }
  memset(p, 1, 1 << 20);
  for (int i = 0; i < 1 << 20; i++) sum += p[i];
  _exit(sum != 190u * (1 << 20) + (1 << 20));
}

static void once(const char *what) {
  int go[2], of_hog, of_small;
  pipe(go);
  pid_t s = fork();
  if (!s) {
    close(go[1]);
    small(go[0]);
  }
  pid_t h = fork();
  if (!h) hog();
  waitpid(h, &of_hog, 0);
  close(go[0]);
  close(go[1]);
  waitpid(s, &of_small, 0);
  printf("%s: %#x, small: %d\n", what, of_hog, of_small);
  fflush(stdout);
}

int main(void) {
  once("hog");
  once("again");
  char *p = mmap(0, 12 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(p, 1, 12 << 20);
  printf("room for 12 MiB: %s\n", p[(12 << 20) - 1] ? "yes" : "no");
  return 0;
}
