// Files that shrink and grow under their mappings, and a file that two tasks map.
//
//   files DIRECTORY shared|untouched|resident
//
// A line for each thing seen.
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 20 };

static sigjmp_buf back;

static void bus(int sig, siginfo_t *info, void *context) {
    (void)context;
    siglongjmp(back, info->si_code == BUS_ADRERR ? sig : -1);
}

static void need(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

// The byte there, or what happened.
static void look(const char *who, volatile unsigned char *base, size_t at) {
    int sig = sigsetjmp(back, 1);
    if (sig == 0)
        printf("%s page %zu+%zu: %d\n", who, at / PAGE, at % PAGE, base[at]);
    else
        printf("%s page %zu+%zu: signal %d\n", who, at / PAGE, at % PAGE, sig);
}

// As look, of a page that was told to be behind the end a moment ago: machvm may say so for some
// milliseconds more.
static void look_again(const char *who, volatile unsigned char *base, size_t at) {
    for (volatile int tries = 0; tries < 2000; tries++) {
        if (sigsetjmp(back, 1) == 0) {
            (void)base[at];
            break;
        }
        usleep(5000);
    }
    look(who, base, at);
}

static unsigned char *map(int fd, int sharing) {
    void *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, sharing, fd, 0);
    need(p != MAP_FAILED, "mmap");
    return p;
}

static int make(const char *directory) {
    char path[4096];
    snprintf(path, sizeof path, "%s/mapped", directory);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    need(fd >= 0, "open");
    static unsigned char data[PAGES * PAGE];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)(i / PAGE + 1);
    need(write(fd, data, sizeof data) == (ssize_t)sizeof data, "write");
    return fd;
}

static void all(const char *who, unsigned char *p) {
    for (size_t page = 0; page < PAGES; page += 3) {
        look(who, p, page * PAGE);
        look(who, p, page * PAGE + 1000);
    }
}

// Parent and child map one file each for itself; stores are seen by both and by read(2).
static void shared(int fd) {
    unsigned char *p = map(fd, MAP_SHARED);
    int up[2], down[2];
    need(pipe(up) == 0 && pipe(down) == 0, "pipe");
    fflush(stdout);
    pid_t child = fork();
    need(child >= 0, "fork");
    char c = 0;
    if (child == 0) {
        unsigned char *q = map(fd, MAP_SHARED);
        for (int page = 0; page < PAGES; page++)
            q[page * PAGE + 7] = (unsigned char)(100 + page);
        need(write(up[1], "1", 1) == 1 && read(down[0], &c, 1) == 1, "pipe");
        all("child", q);
        need(msync(q, PAGES * PAGE, MS_SYNC) == 0, "msync");
        fflush(stdout);
        _exit(0);
    }
    need(read(up[0], &c, 1) == 1, "pipe");
    for (int page = 0; page < PAGES; page++)
        look("parent", p, (size_t)page * PAGE + 7);
    need(ftruncate(fd, 5 * PAGE + 500) == 0, "ftruncate");
    all("cut", p);
    look("cut", p, 5 * PAGE + 499);
    look("cut", p, 5 * PAGE + 500);
    need(write(down[1], "1", 1) == 1, "pipe");
    int status;
    need(waitpid(child, &status, 0) == child, "waitpid");
    printf("child: %d\n", status);
    need(ftruncate(fd, 15 * PAGE) == 0, "ftruncate");
    all("grown", p);
    p[14 * PAGE] = 9;
    need(msync(p, PAGES * PAGE, MS_SYNC) == 0 && msync(p, PAGE, MS_ASYNC) == 0, "msync");
    unsigned char byte;
    need(pread(fd, &byte, 1, 14 * PAGE) == 1, "pread");
    printf("read: %d\n", byte);
}

int main(int argc, char **argv) {
    need(argc == 3, "arguments");
    struct sigaction action = {.sa_sigaction = bus, .sa_flags = SA_SIGINFO};
    need(sigaction(SIGBUS, &action, NULL) == 0, "sigaction");
    int fd = make(argv[1]);
    if (strcmp(argv[2], "shared") == 0) {
        shared(fd);
        return 0;
    }
    unsigned char *p = map(fd, MAP_PRIVATE);
    p[1 * PAGE + 3] = 77;
    if (strcmp(argv[2], "resident") == 0)
        p[10 * PAGE + 3] = 88;
    need(ftruncate(fd, 5 * PAGE + 500) == 0, "ftruncate");
    look("private", p, 1 * PAGE + 3);
    look("private", p, 4 * PAGE);
    look("private", p, 5 * PAGE + 499);
    look("private", p, 5 * PAGE + 500);
    if (strcmp(argv[2], "resident") == 0) {
        look("written", p, 10 * PAGE + 3);
        return 0;
    }
    for (size_t page = 6; page < PAGES; page++)
        look("private", p, page * PAGE);
    need(ftruncate(fd, PAGES * PAGE) == 0, "ftruncate");
    for (size_t page = 4; page < PAGES; page++)
        look_again("grown", p, page * PAGE);
    return 0;
}
