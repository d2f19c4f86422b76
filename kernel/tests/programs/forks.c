// A thousand processes: alive together, then one after the other. Prints the same on Linux.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
  int n = argc > 1 ? atoi(argv[1]) : 1000, ok = 0, st;
  int go[2];
  char c;
  pipe(go);
  for (int i = 0; i < n; i++) {
    pid_t p = fork();
    if (p < 0) {
      perror("fork");
      return 1;
    }
    if (!p) {
      close(go[1]);
      read(go[0], &c, 1);
      _exit(i & 0x7f);
    }
  }
  close(go[1]);
  long sum = 0, want = 0;
  for (int i = 0; i < n; i++) want += i & 0x7f;
  while (wait(&st) > 0) {
    ok += WIFEXITED(st);
    sum += WEXITSTATUS(st);
  }
  printf("together: %d of %d, sum %s\n", ok, n, sum == want ? "right" : "wrong");
  ok = 0;
  for (int i = 0; i < n; i++) {
    if (!fork()) _exit(1);
    ok += wait(&st) > 0 && WEXITSTATUS(st) == 1;
  }
  printf("one by one: %d\n", ok);
  return 0;
}
