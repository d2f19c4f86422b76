// Memory calls that random operations in a window do not make: prints what each does.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#define P 4096ul

static sigjmp_buf back;
static void handler(int s, siginfo_t *info, void *c) { (void)c; siglongjmp(back, s * 100 + info->si_code); }
static long touch(volatile char *at) {
    int r = sigsetjmp(back, 1);
    return r ? -r : *at;
}
static long store(volatile char *at, char v) {
    int r = sigsetjmp(back, 1);
    if (r) return -r;
    *at = v;
    return *at;
}
#define SAY(call) do { errno = 0; long r_ = (long)(call); printf("%s: %s %d\n", #call, r_ == -1 ? "fails" : r_ ? "something" : "0", errno); } while (0)
#define NUM(value) printf("%s: %ld\n", #value, (long)(value))

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    setvbuf(stdout, 0, _IONBF, 0);
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
    sigaction(SIGSEGV, &action, 0);
    sigaction(SIGBUS, &action, 0);
    char *at = (char *)0x210000000000ul, *p, *q;

    // SysV segments.
    int id = shmget(IPC_PRIVATE, 3 * P + 5, IPC_CREAT | 0600);
    p = shmat(id, 0, 0);
    NUM(p == (char *)-1);
    NUM(store(p + 3 * P, 7));
    q = shmat(id, at, 0);
    NUM(q == at);
    NUM(touch(at + 3 * P));
    SAY(shmat(id, at + P, 0));
    SAY(shmat(id, at + 1, 0));
    NUM(shmat(id, at + P + 1, SHM_RND | SHM_REMAP) == at + P);
    SAY(shmat(id, 0, SHM_REMAP));
    SAY(shmat(99999, 0, 0));
    q = shmat(id, at + 16 * P, SHM_RDONLY);
    NUM(store(q, 1));
    SAY(shmdt(at + P));
    SAY(shmdt(at + P));
    SAY(shmdt(p + 8));
    NUM(touch(at + P));
    SAY(munmap(p + P, P));
    NUM(touch(p + P) == touch(p + 3 * P));
    SAY(shmdt(p));
    NUM(touch(p + 3 * P));
    SAY(shmdt(q));
    struct shmid_ds about;
    shmctl(id, IPC_STAT, &about);
    NUM(about.shm_nattch);
    shmctl(id, IPC_RMID, 0);

    // /dev/zero.
    int zero = open("/dev/zero", O_RDWR);
    p = mmap(at + 64 * P, 4 * P, 3, MAP_PRIVATE | MAP_FIXED, zero, 0);
    NUM(store(p, 5));
    SAY(madvise(p, P, MADV_FREE));
    p = mmap(at + 80 * P, 4 * P, 3, MAP_SHARED | MAP_FIXED, zero, 0);
    NUM(store(p, 6));

    // A file that becomes writable privately, beyond its end too.
    char path[4096];
    snprintf(path, sizeof path, "%s/file", argv[1]);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    for (int i = 0; i < 10000; i++) if (write(fd, "0123456789" + i % 10, 1) != 1) return 3;
    int rd = open(path, O_RDONLY);
    p = mmap(at + 96 * P, 5 * P, PROT_READ, MAP_PRIVATE | MAP_FIXED, rd, 0);
    NUM(touch(p + 9999));
    NUM(store(p + 1, 1));
    SAY(mprotect(p + P, 2 * P, PROT_READ | PROT_WRITE));
    NUM(touch(p + P));
    NUM(store(p + P, 'x'));
    NUM(touch(p + 9999));
    NUM(touch(p + 3 * P));
    SAY(mprotect(p + 3 * P, P, PROT_READ | PROT_WRITE));
    NUM(store(p + 3 * P, 1));
    SAY(madvise(p + P, P, MADV_DONTNEED));
    NUM(touch(p + P));
    q = mmap(at + 112 * P, 2 * P, PROT_READ, MAP_SHARED | MAP_FIXED, rd, 0);
    SAY(mprotect(q, P, PROT_READ | PROT_WRITE));
    SAY(mprotect(q, P, PROT_READ | PROT_EXEC));
    SAY(madvise(q, P, MADV_REMOVE));
    SAY(madvise(p, P, MADV_WIPEONFORK));
    SAY(mmap(0, P, 3, MAP_SHARED, rd, 0));
    SAY(syscall(SYS_remap_file_pages, p, P, 0, 0, 0));

    // Advice about children.
    char *shared = mmap(0, 2 * P, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *wiped = mmap(0, P, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *absent = mmap(0, P, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *kept = mmap(0, P, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *shared = *wiped = *absent = *kept = 1;
    SAY(madvise(wiped, P, MADV_WIPEONFORK));
    SAY(madvise(absent, P, MADV_DONTFORK));
    SAY(madvise(shared, P, MADV_WIPEONFORK));
    NUM(*shared);
    NUM(*kept);
    SAY(madvise(shared, P, MADV_REMOVE));
    NUM(*shared);
    SAY(madvise(kept, P, MADV_REMOVE));

    // Locking what comes.
    SAY(mlockall(0));
    SAY(mlockall(8));
    SAY(mlockall(MCL_ONFAULT));
    SAY(mlockall(MCL_FUTURE));
    p = mmap(at + 128 * P, 8 * P, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    unsigned char vec[8];
    SAY(mincore(p, 8 * P, vec));
    NUM(vec[0] & vec[7] & 1);
    SAY(madvise(p, P, MADV_DONTNEED));
    SAY(munlockall());
    SAY(madvise(p, P, MADV_DONTNEED));
    SAY(mlockall(MCL_CURRENT));
    SAY(munlockall());

    // process_madvise on oneself.
    int self = syscall(SYS_pidfd_open, getpid(), 0);
    memset(p, 3, 8 * P);
    struct iovec iov[2] = { { p, P }, { p + 2 * P, P } };
    SAY(syscall(SYS_process_madvise, self, iov, 2, MADV_COLD, 0));
    SAY(syscall(SYS_process_madvise, self, iov, 2, MADV_COLD, 1));
    SAY(syscall(SYS_process_madvise, 999, iov, 2, MADV_COLD, 0));
    SAY(syscall(SYS_process_madvise, self, 8, 2, MADV_COLD, 0));
    SAY(syscall(SYS_process_madvise, zero, iov, 2, MADV_COLD, 0));
    NUM(p[2 * P]);

    // Limits.
    struct rlimit limit = { 64ul << 30, RLIM_INFINITY };
    struct rlimit none;
    getrlimit(RLIMIT_AS, &none);
    SAY(mmap(0, 1ul << 43, 0, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED);
    p = mmap(0, 100ul << 30, 0, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    NUM(p == MAP_FAILED);
    SAY(mprotect(p + (50ul << 30), 1 << 20, 3));
    NUM(store(p + (50ul << 30), 4));
    SAY(munmap(p, 100ul << 30));
    setrlimit(RLIMIT_DATA, &(struct rlimit){ 1 << 20, none.rlim_max });
    char *brk0 = (char *)syscall(SYS_brk, 0);
    NUM((char *)syscall(SYS_brk, brk0 + (64 << 20)) == brk0);
    (void)limit;

    // Alignment and memory policy.
    NUM(((unsigned long)mmap(0, P, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) & (P - 1)));
    SAY(syscall(SYS_mbind, at + 128 * P, P, 0, 0, 0, 0));
    SAY(syscall(SYS_pkey_mprotect, at + 128 * P, P, 1, -1));
    SAY(syscall(SYS_pkey_mprotect, at + 128 * P, P, 1, 5));
    return 0;
}
