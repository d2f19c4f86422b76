// Sets signal dispositions, mask and descriptors, then becomes its arguments: the caller that machvm and a native
// program are compared under.
// launch [-i SIG]... [-b SIG]... [-c FD]... PROGRAM ARG...
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
  int at = 1;
  sigset_t blocked;
  sigemptyset(&blocked);
  for (; at + 1 < argc && argv[at][0] == '-'; at += 2) {
    int n = atoi(argv[at + 1]);
    if (!strcmp(argv[at], "-i"))
      signal(n, SIG_IGN);
    if (!strcmp(argv[at], "-d"))
      signal(n, SIG_DFL);
    if (!strcmp(argv[at], "-b"))
      sigaddset(&blocked, n);
    if (!strcmp(argv[at], "-c"))
      close(n);
  }
  sigprocmask(SIG_SETMASK, &blocked, 0);
  execvp(argv[at], argv + at);
  return 111;
}
