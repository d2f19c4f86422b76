// Random memory calls in a window of fixed addresses. Prints what every call, every
// access and every fault came to, so that two virtual memories can be compared line
// by line. Where Linux itself leaves a choice (where a mapping goes, which neighbours
// become one, what is resident, what MADV_FREE keeps) nothing is printed, or the call
// is not made: a small model of the window says when.
//
//   differential DIRECTORY FIRST_SEED SEEDS OPERATIONS [unpinned]
//
// unpinned: without process_vm_writev, which stores through pinned pages.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define P 4096ul
#define N 64
#define FILE_PAGES 12
// The last page ends within the private file. In the shared file it does not: how long
// stores behind the end are remembered depends on when Linux writes the page.
#define FILE_BYTES (FILE_PAGES * P - 1000)
static char *const base = (char *)0x200000000000ul;
static char *const far = (char *)0x200040000000ul;

enum { NONE, ANON, SHARED, FILE_PRIVATE, FILE_SHARED };
static struct { int kind, prot, cut, locked, mark; } page[N + 1];

static uint64_t rng, counter;
static int seed, op, unpinned;
static uint64_t next(void) {
    rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17;
    return rng * 2685821657736338717ull >> 16;
}
static uint64_t below(uint64_t n) { return next() % n; }

static char out[1 << 16];
static size_t used;
static void flush(void) {
    for (size_t done = 0; done < used;) {
        ssize_t n = write(1, out + done, used - done);
        if (n <= 0) _exit(3);
        done += n;
    }
    used = 0;
}
static void say(const char *format, ...) {
    va_list list;
    if (used > sizeof out - 4096) flush();
    va_start(list, format);
    used += vsnprintf(out + used, 2048, format, list);
    va_end(list);
}
static void result(long r) {
    if (r == -1) say(" = %d", -errno); else say(" = %ld", r);
}

static sigjmp_buf back;
static int signo, code;
static char *where;
static void handler(int s, siginfo_t *info, void *context) {
    (void)context;
    signo = s; code = info->si_code; where = info->si_addr;
    siglongjmp(back, 1);
}
static void say_fault(void) {
    if (where >= base && where < base + N * P) say(" sig%d.%d@%lx", signo, code, (long)(where - base));
    else if (where >= far && where < far + (64ul << 20)) say(" sig%d.%d@far%lx", signo, code, (long)(where - far));
    else say(" sig%d.%d@%p", signo, code, where);
}
static void peek(char *at) {
    if (sigsetjmp(back, 0)) { say_fault(); return; }
    say(" %lx", *(volatile uint64_t *)at);
}
static void poke(char *at) {
    if (sigsetjmp(back, 0)) { say_fault(); return; }
    *(volatile uint64_t *)at = ++counter;
    say(" ok");
}
static uint64_t hash(const char *from, size_t n) {
    uint64_t h = 1469598103934665603ull;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)from[i]) * 1099511628211ull;
    return h;
}

// The model.
static void cut(int from, int n) { page[from].cut = 1; page[from + n].cut = 1; }
static void set(int from, int n, int kind, int prot) {
    cut(from, n);
    for (int i = from; i < from + n; i++) { page[i].kind = kind; page[i].prot = prot; page[i].locked = page[i].mark = 0; if (i > from) page[i].cut = 0; }
}
// One mapping without seams, whatever Linux merges.
static int whole(int from, int n) {
    if (page[from].kind == NONE) return 0;
    for (int i = from + 1; i < from + n; i++)
        if (page[i].cut || page[i].kind != page[from].kind || page[i].prot != page[from].prot) return 0;
    return 1;
}
static int holes(int from, int n) {
    for (int i = from; i < from + n; i++) if (page[i].kind == NONE) return 1;
    return 0;
}

static int private_fd, read_fd, shared_fd, write_fd, scratch_fd, dir_fd, pipe_fd[2];
static char buffer[32 * P];

static int some_prot(void) {
    static const int prots[] = { 3, 3, 3, 3, 3, 3, 3, 3, 1, 1, 1, 0, 0, 5, 7, 2, 4 };
    return prots[below(sizeof prots / sizeof *prots)];
}
static int pages_at(int from) {
    int most = N - from, n = 1 + below(below(3) ? 6 : 20);
    return n < most ? n : most;
}

static void do_mmap(void) {
    int from = below(N), n = pages_at(from), prot = some_prot(), how = below(20);
    char *at = base + from * P;
    int flags = MAP_FIXED, fd = -1, kind = ANON;
    long offset = 0;
    if (how < 7) flags |= MAP_PRIVATE | MAP_ANONYMOUS;
    else if (how < 9) { flags |= MAP_SHARED | MAP_ANONYMOUS; kind = SHARED; }
    else if (how < 14) { flags |= MAP_PRIVATE; fd = below(3) ? read_fd : private_fd; offset = below(FILE_PAGES + 2) * P; kind = FILE_PRIVATE; }
    else if (how < 16) { flags |= MAP_SHARED; fd = shared_fd; offset = below(FILE_PAGES) * P; kind = FILE_SHARED; }
    else if (how < 18) flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    else flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (!below(8)) flags |= MAP_NORESERVE;
    if (!below(8)) flags |= MAP_POPULATE;
    if (!below(24)) flags |= MAP_LOCKED;
    if (!below(16)) flags |= MAP_STACK;
    say("mmap %d+%d prot %d flags %x kind %d offset %ld", from, n, prot, flags, kind, offset / P);
    errno = 0;
    char *got = mmap(at, n * P, prot, flags, fd, offset);
    if (got == MAP_FAILED) { result(-1); return; }
    if (got != at) { say(" elsewhere"); munmap(got, n * P); return; }
    say(" there");
    set(from, n, kind, prot);
    if (flags & MAP_LOCKED) for (int i = from; i < from + n; i++) { page[i].locked = kind == ANON && (prot & 1); page[i].mark = 1; }
}

static void bad_mmap(void) {
    int from = below(N), n = pages_at(from), kind = below(22);
    char *at = base + from * P, *got;
    int prot = some_prot();
    say("bad mmap %d", kind);
    errno = 0;
    switch (kind) {
    case 0: got = mmap(at, 0, prot, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); break;
    case 1: got = mmap(at + 1, P, prot, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); break;
    case 2: got = mmap(at, P, prot, MAP_FIXED | MAP_ANONYMOUS, -1, 0); break;
    case 3: got = mmap(at, P, prot, MAP_FIXED | MAP_SHARED_VALIDATE | MAP_ANONYMOUS, -1, 0); break;
    case 4: got = mmap(at, P, prot, MAP_FIXED | MAP_PRIVATE, 999, 0); break;
    case 5: got = mmap(at, P, prot, MAP_FIXED | MAP_PRIVATE, write_fd, 0); break;
    case 6: got = mmap(at, P, prot | PROT_WRITE, MAP_FIXED | MAP_SHARED, read_fd, 0); break;
    case 7: got = mmap(at, -1ul, prot, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); break;
    case 8: got = mmap(0, 1ul << 47, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); break;
    case 9: got = mmap(at, P, prot, MAP_FIXED | MAP_SHARED_VALIDATE | 1 << 25, shared_fd, 0); break;
    case 10: got = mmap(at, P, prot, MAP_FIXED | MAP_PRIVATE, dir_fd, 0); break;
    case 11: got = mmap(at, P, prot, MAP_FIXED | MAP_PRIVATE, pipe_fd[0], 0); break;
    case 12: got = (char *)syscall(SYS_mmap, at, P, prot, MAP_FIXED | MAP_PRIVATE, private_fd, 100ul); break;
    case 13: got = (char *)syscall(SYS_mmap, at, 4 * P, prot, MAP_FIXED | MAP_PRIVATE, private_fd, -P); break;
    case 14: got = mmap(at, P, prot, MAP_FIXED | MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0); break;
    case 15: got = mmap((char *)0x7ffffffff000ul, P, prot, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); break;
    case 16: got = mmap((char *)-P, P, prot, MAP_FIXED_NOREPLACE | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); break;
    case 17: got = mmap(at, P, prot, MAP_FIXED, private_fd, 0); break;
    case 18: got = mmap(0, 1ul << 45, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); break;
    case 19: got = mmap(at, P, prot, MAP_FIXED | MAP_PRIVATE | MAP_GROWSDOWN, private_fd, 0);
        if (got == at) { say(" there"); set(from, 1, FILE_PRIVATE, prot); return; } break;
    case 20: got = mmap(at + 5, P, prot, MAP_FIXED_NOREPLACE | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); break;
    default: got = mmap(0, n * P, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
        say(" %s", got != MAP_FAILED && (unsigned long)got < 1ul << 32 ? "low" : "wrong");
        munmap(got, n * P); return;
    }
    result(got == MAP_FAILED ? -1 : (long)got);
}

static void do_munmap(void) {
    int from = below(N), n = pages_at(from);
    if (n > 5 && below(3)) n = 1 + below(5);
    say("munmap %d+%d", from, n);
    errno = 0;
    if (!below(12)) {
        switch (below(4)) {
        case 0: result(munmap(base + from * P, 0)); return;
        case 1: result(munmap(base + from * P + 8, P)); return;
        case 2: result(munmap(base + from * P, -1ul)); return;
        default: result(munmap((char *)0x7ffffffff000ul, P)); return;
        }
    }
    long r = munmap(base + from * P, n * P - (below(2) ? below(P) : 0));
    result(r);
    if (!r) set(from, n, NONE, 0);
}

static void do_mprotect(void) {
    int from = below(N), n = pages_at(from), prot = some_prot();
    say("mprotect %d+%d prot %d", from, n, prot);
    errno = 0;
    if (!below(12)) {
        switch (below(6)) {
        case 0: result(mprotect(base + from * P + 1, P, prot)); return;
        case 1: result(mprotect(base + from * P, P, prot | 0x40)); return;
        case 2: result(mprotect(base + from * P, P, prot | PROT_GROWSDOWN | PROT_GROWSUP)); return;
        case 3: result(mprotect(base + from * P, -1ul - P, prot)); return;
        case 4: result(mprotect(base + from * P, P, prot | PROT_GROWSDOWN)); return;
        default: result(mprotect(base + from * P, 0, prot | 0x40)); return;
        }
    }
    long r = below(6) ? mprotect(base + from * P, n * P, prot)
                      : syscall(SYS_pkey_mprotect, base + from * P, n * P, prot, -1);
    result(r);
    cut(from, n);
    for (int i = from; i < from + n && page[i].kind != NONE; i++) { page[i].prot = prot; if (!(prot & 1)) page[i].locked = 0; }
}

static void move_model(int from, int old, int to, int now, int keep) {
    int kind = page[from].kind, prot = page[from].prot, mark = page[from].mark;
    if (!keep) set(from, old, NONE, 0);
    set(to, now, kind, prot);
    for (int i = to; i < to + now; i++) page[i].mark = mark;
}

static void do_mremap(void) {
    int from = below(N), n = pages_at(from), to = below(N), now = 1 + below(12);
    char *at = base + from * P, *got;
    if (now > N - to) now = N - to;
    errno = 0;
    if (!below(10)) {
        int kind = below(9);
        say("bad mremap %d", kind);
        switch (kind) {
        case 0: got = mremap(at, P, P, 8); break;
        case 1: got = mremap(at + 1, P, P, 0); break;
        case 2: got = mremap(at, P, 0, 0); break;
        case 3: got = mremap(at, P, P, MREMAP_FIXED, base); break;
        case 4: got = mremap(at, P, P, MREMAP_FIXED | MREMAP_MAYMOVE, base + 1); break;
        case 5: got = mremap(at, 2 * P, 2 * P, MREMAP_FIXED | MREMAP_MAYMOVE, at + P); break;
        case 6: got = mremap(at, P, 2 * P, MREMAP_DONTUNMAP | MREMAP_MAYMOVE); break;
        case 7: got = mremap(at, P, P, MREMAP_FIXED | MREMAP_MAYMOVE, -P); break;
        default: got = mremap(at, P, -P, MREMAP_MAYMOVE); break;
        }
        result(got == MAP_FAILED ? -1 : got - base);
        return;
    }
    int how = below(6), kind = page[from].kind, overlap = from < to + now && to < from + n;
    say("mremap %d+%d how %d to %d+%d", from, n, how, to, now);
    if (kind == NONE) {
        got = mremap(at, n * P, now * P, MREMAP_MAYMOVE);
        result(got == MAP_FAILED ? -1 : got - base);
        return;
    }
    if (!whole(from, n)) { say(" seams"); return; }
    // Beyond its first size shared anonymous memory ends, differently.
    if (kind == SHARED && now > n) now = n;
    if (how == 0) {
        got = mremap(at, n * P, now * P, 0);
        if (got == at && now < n) set(from + now, n - now, NONE, 0);
        if (got == at && now > n) {
            if (from + now > N) { munmap(base + N * P, (from + now - N) * P); now = N - from; }
            for (int i = from + n; i < from + now; i++) { page[i] = page[from]; page[i].cut = 0; page[i].locked = 0; }
            page[from + now].cut = 1;
        }
        result(got == MAP_FAILED ? -1 : got - base);
    } else if (how == 1) {
        got = mremap(at, n * P, now * P, MREMAP_MAYMOVE);
        if (got == MAP_FAILED) { result(-1); return; }
        if (got == at) {
            say(" stays");
            if (from + now > N) { munmap(base + N * P, (from + now - N) * P); now = N - from; }
            if (now < n) set(from + now, n - now, NONE, 0);
            for (int i = from + n; i < from + now; i++) { page[i] = page[from]; page[i].cut = 0; page[i].locked = 0; }
            page[from + now].cut = 1;
            return;
        }
        say(" moves");
        if (page[from].prot & 1) for (int i = 0; i < now; i++) {
            if (sigsetjmp(back, 0)) { say(" sig%d.%d@+%lx", signo, code, (long)(where - got)); continue; }
            say(" %lx", hash(got + i * P, P));
        }
        munmap(got, now * P);
        set(from, n, NONE, 0);
    } else if (how < 4) {
        got = mremap(at, n * P, now * P, MREMAP_MAYMOVE | MREMAP_FIXED, base + to * P);
        result(got == MAP_FAILED ? -1 : got - base);
        if (got != MAP_FAILED) move_model(from, n, to, now, 0);
        else if (!overlap) say(" unexpected");
    } else if (how == 4) {
        // Linux unlocks the whole of what it has as one mapping.
        if (kind != ANON || page[from].mark) { say(" kind"); return; }
        if (to + n > N) to = N - n;
        got = mremap(at, n * P, n * P, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, base + to * P);
        result(got == MAP_FAILED ? -1 : got - base);
        if (got != MAP_FAILED) { move_model(from, n, to, n, 1); set(from, n, kind, page[from].prot); }
    } else {
        // A second mapping of the first page.
        got = mremap(at, 0, P, MREMAP_MAYMOVE | MREMAP_FIXED, base + to * P);
        result(got == MAP_FAILED ? -1 : got - base);
        if (got != MAP_FAILED) move_model(from, 1, to, 1, 1);
    }
}

static void do_madvise(void) {
    static const int advices[] = { MADV_DONTNEED, MADV_DONTNEED, MADV_DONTNEED, MADV_FREE, MADV_WILLNEED, MADV_NORMAL,
        MADV_RANDOM, MADV_SEQUENTIAL, MADV_DONTFORK, MADV_DOFORK, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP,
        MADV_DODUMP, MADV_WIPEONFORK, MADV_KEEPONFORK, 20, 22, 23, 999 };
    int from = below(N), n = pages_at(from), advice = advices[below(sizeof advices / sizeof *advices)];
    char *at = base + from * P;
    say("madvise %d+%d advice %d", from, n, advice);
    errno = 0;
    if (!below(16)) {
        switch (below(3)) {
        case 0: result(madvise(at + 1, P, advice)); return;
        case 1: result(madvise(at, -1ul, advice)); return;
        default: result(madvise(at, 0, advice)); return;
        }
    }
    // What FREE keeps is not said: it goes at once.
    result(madvise(at, n * P, advice));
    if (advice == MADV_FREE) { errno = 0; result(madvise(at, n * P, MADV_DONTNEED)); }
    if (advice != MADV_DONTNEED && advice != MADV_FREE && advice != MADV_WILLNEED) cut(from, n);
}

static void do_msync(void) {
    static const int modes[] = { MS_SYNC, MS_ASYNC, MS_INVALIDATE, MS_SYNC | MS_INVALIDATE, 0, MS_SYNC | MS_ASYNC, 8 };
    int from = below(N), n = pages_at(from), mode = modes[below(7)];
    say("msync %d+%d mode %d", from, n, mode);
    errno = 0;
    result(msync(base + from * P + !below(16), n * P, mode));
}

static void do_mincore(void) {
    unsigned char vec[N];
    int from = below(N), n = pages_at(from), absent = 0;
    say("mincore %d+%d", from, n);
    errno = 0;
    if (!below(8)) {
        switch (below(3)) {
        case 0: result(mincore(base + from * P + 1, P, vec)); return;
        case 1: result(mincore(base + from * P, P, (unsigned char *)8)); return;
        default: result(mincore(base + from * P, -1ul, vec)); return;
        }
    }
    memset(vec, 0, sizeof vec);
    long r = mincore(base + from * P, n * P, vec);
    result(r);
    if (!r) for (int i = 0; i < n; i++) absent += page[from + i].locked && !(vec[i] & 1);
    say(" absent %d", absent);
}

static void do_mlock(void) {
    int from = below(N), n = pages_at(from);
    if (n > 6) n = 6;
    errno = 0;
    cut(from, n);
    for (int i = from; i < from + n; i++) page[i].mark = 1;
    if (below(3)) {
        int on_fault = !below(4);
        say("mlock %d+%d %d", from, n, on_fault);
        long r = below(16) ? syscall(SYS_mlock2, base + from * P, n * P, on_fault) : syscall(SYS_mlock2, base, P, 4);
        result(r);
        if (!r && !on_fault) for (int i = from; i < from + n; i++) page[i].locked = page[i].kind == ANON && (page[i].prot & 1);
    } else {
        say("munlock %d+%d", from, n);
        result(munlock(base + from * P, n * P));
        for (int i = from; i < from + n; i++) page[i].locked = 0;
    }
}

static void do_kernel(void) {
    int from = below(N), how = below(8);
    size_t offset = from * P + below(P), n = 1 + below(below(2) ? 3 * P : 300);
    if (offset + n > N * P) n = N * P - offset;
    char *at = base + offset;
    long r;
    if (unpinned && how == 7) how = 4;
    errno = 0;
    say("kernel %d at %lx n %lu", how, (long)offset, n);
    switch (how) {
    case 0: r = pread(private_fd, at, n, below(4 * P)); result(r); break;
    case 1: lseek(private_fd, below(P), SEEK_SET); r = read(private_fd, at, n); result(r); break;
    case 2: r = pwrite(scratch_fd, at, n, 0); result(r);
        if (r > 0 && pread(scratch_fd, buffer, r, 0) == r) say(" %lx", hash(buffer, r));
        break;
    case 3: r = write(pipe_fd[1], at, n); result(r);
        if (r > 0 && read(pipe_fd[0], buffer, r) == r) say(" %lx", hash(buffer, r));
        break;
    case 4: {
        memset(buffer, (int)++counter, n);
        if (write(pipe_fd[1], buffer, n) != (long)n) _exit(4);
        errno = 0;
        r = read(pipe_fd[0], at, n); result(r);
        while (read(pipe_fd[0], buffer, sizeof buffer) > 0) {}
        break;
    }
    case 5: {
        struct iovec v[3] = { { base + below(N) * P + 100, 50 }, { at, n }, { base + below(N) * P, 10 } };
        r = preadv(private_fd, v, 3, below(P)); result(r);
        break;
    }
    case 6: {
        struct iovec local = { buffer, n }, remote = { at, n };
        r = process_vm_readv(getpid(), &local, 1, &remote, 1, 0); result(r);
        if (r > 0) say(" %lx", hash(buffer, r));
        break;
    }
    default: {
        memset(buffer, (int)++counter, n);
        struct iovec local = { buffer, n }, remote = { at, n };
        r = process_vm_writev(getpid(), &local, 1, &remote, 1, 0); result(r);
    }
    }
}

static void do_access(void) {
    say("access");
    for (int i = below(6); i >= 0; i--) {
        char *at = base + below(N) * P + below(512) * 8;
        say(" %lx:", (long)(at - base));
        if (below(2)) peek(at); else poke(at);
    }
}

static void do_brk(void) {
    static char *start, *now;
    if (!start) { start = (char *)syscall(SYS_brk, 0); start = now = (char *)(((long)start + P - 1) & -P); syscall(SYS_brk, start); }
    long want = below(40) * P / 3;
    char *got = (char *)syscall(SYS_brk, start + want);
    say("brk %ld = %ld", want, got - start);
    for (int i = 0; i < 3 && want > 8; i++) {
        char *at = start + below(want / 8) * 8;
        say(" %ld:", at - start);
        if (sigsetjmp(back, 0)) { say(" sig%d.%d", signo, code); continue; }
        say(" %lx", *(uint64_t *)at);
        *(uint64_t *)at = ++counter;
    }
    if (sigsetjmp(back, 0)) say(" beyond sig%d.%d", signo, code);
    else say(" beyond %d", *(volatile char *)(start + ((want + P - 1) & -P)));
    now = got;
}

// A mapping that grows down, in a place of its own.
static void do_growsdown(void) {
    char *top = far + (32ul << 20);
    int prot = below(4) ? 3 : 1;
    say("growsdown prot %d", prot);
    errno = 0;
    char *got = mmap(top - 4 * P, 4 * P, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0);
    result(got == MAP_FAILED ? -1 : got - far);
    for (int i = 0; i < 6; i++) {
        char *at = top - below(i < 3 ? 8 : 900) * P - 8;
        say(" %lx:", (long)(top - at));
        if (prot & 2) poke(at); else peek(at);
    }
    say(" limit:"); peek(top - (24ul << 20));
    errno = 0;
    if (below(2)) { result(mprotect(top - P, P, PROT_READ | PROT_GROWSDOWN)); poke(top - 3 * P); }
    result(munmap(far, 33ul << 20));
    peek(top - 8);
}

static void sweep(void) {
    say("sweep");
    for (int i = 0; i < N; i++) {
        if (sigsetjmp(back, 0)) { say_fault(); continue; }
        say(" %d:%lx", i, hash(base + i * P, P) & 0xffffffff);
    }
}

static void run(int operations) {
    rng = seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
    for (int i = 0; i < 8; i++) next();
    counter = (uint64_t)seed << 32;
    munmap(base, N * P);
    munlockall();
    memset(page, 0, sizeof page);
    for (long i = 0; i < (long)(FILE_PAGES * P / 8); i++) ((uint64_t *)buffer)[i] = (uint64_t)seed << 20 | i;
    if (pwrite(private_fd, buffer, FILE_BYTES, 0) != FILE_BYTES || pwrite(shared_fd, buffer, FILE_PAGES * P, 0) != FILE_PAGES * P) _exit(5);
    for (op = 0; op < operations; op++) {
        uint64_t kind = below(100);
        say("%d.%d ", seed, op);
        if (kind < 22) do_mmap();
        else if (kind < 25) bad_mmap();
        else if (kind < 34) do_munmap();
        else if (kind < 47) do_mprotect();
        else if (kind < 55) do_mremap();
        else if (kind < 65) do_madvise();
        else if (kind < 67) do_msync();
        else if (kind < 70) do_mincore();
        else if (kind < 73) do_mlock();
        else if (kind < 86) do_kernel();
        else if (kind < 96) do_access();
        else if (kind < 98) do_brk();
        else if (kind < 99) do_growsdown();
        else sweep();
        // Every call is followed by an access or two to what it was about, or not.
        for (int i = below(3); i > 0; i--) {
            char *at = base + below(N) * P + below(512) * 8;
            say(" | %lx:", (long)(at - base));
            if (below(2)) peek(at); else poke(at);
        }
        say("\n");
    }
    say("%d.end ", seed);
    sweep();
    say("\n");
}

static int file(const char *dir, const char *name, int flags) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, flags | O_CREAT, 0600);
    if (fd < 0) { perror(path); exit(2); }
    return fd;
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    unpinned = argc > 5;
    private_fd = file(argv[1], "private", O_RDWR | O_TRUNC);
    read_fd = file(argv[1], "private", O_RDONLY);
    write_fd = file(argv[1], "private", O_WRONLY);
    shared_fd = file(argv[1], "shared", O_RDWR | O_TRUNC);
    scratch_fd = file(argv[1], "scratch", O_RDWR | O_TRUNC);
    dir_fd = open(argv[1], O_RDONLY | O_DIRECTORY);
    if (pipe2(pipe_fd, O_NONBLOCK)) return 2;
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER };
    sigaction(SIGSEGV, &action, 0);
    sigaction(SIGBUS, &action, 0);
    int first = atoi(argv[2]), seeds = atoi(argv[3]);
    for (seed = first; seed < first + seeds; seed++) run(atoi(argv[4]));
    flush();
    return 0;
}
