/* Fills pages, waits for a byte, and looks at every page: survivor MIB. A page that cannot be
 * read (SIGBUS) is counted as lost, and nothing else may happen to any. At the end all others can
 * be changed, and what was lost can be mapped anew. To be linked statically: its own pages are
 * locked. */
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8 };
static sigjmp_buf back;
static uint64_t *volatile touched;
static volatile int looking; /* at what may be lost */
static uint64_t mix(uint64_t x) {
    x ^= x >> 33, x *= 0xff51afd7ed558ccdULL, x ^= x >> 33, x *= 0xc4ceb9fe1a85ec53ULL;
    return x ^ x >> 33;
}
static void bus(int number, siginfo_t *info, void *context) {
    char *at = info->si_addr;
    if (!looking || at < (char *)touched || at >= (char *)touched + PAGE) {
        static const char what[] = "SIGBUS for another page, or one that was there\n";
        write(1, what, sizeof what - 1);
        _exit(4);
    }
    siglongjmp(back, 1);
}
static void fill(uint64_t *page, uint64_t name) {
    for (int i = 0; i < WORDS; i++) page[i] = mix(name * WORDS + i);
}
static int right(const uint64_t *page, uint64_t name) {
    for (int i = 0; i < WORDS; i++)
        if (page[i] != mix(name * WORDS + i)) return 0;
    return 1;
}
int main(int argc, char **argv) {
    if (argc != 2) return 2;
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    size_t pages = strtoul(argv[1], 0, 10) * 256, lost = 0, wrong = 0;
    char *gone = calloc(pages, 1), c;
    /* What it needs itself is not to be lost. */
    if (!gone || mlockall(MCL_CURRENT)) return 2;
    uint64_t *memory = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 2;
    struct sigaction act = {.sa_sigaction = bus, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &act, 0);
    for (size_t n = 0; n < pages; n++) fill(memory + n * WORDS, n);
    printf("ready %p\n", (void *)memory), fflush(stdout);
    if (read(0, &c, 1) < 0) return 2;
    looking = 1;
    for (volatile size_t n = 0; n < pages; n++) {
        touched = memory + n * WORDS;
        if (sigsetjmp(back, 1)) {
            gone[n] = 1, lost++;
            printf("lost %p\n", (void *)touched);
        } else if (!right(touched, n))
            wrong++;
    }
    /* What was in memory and is not changed may be lost later. */
    for (volatile size_t n = 0; n < pages; n++) {
        touched = memory + n * WORDS;
        if (sigsetjmp(back, 1)) {
            if (gone[n]) return printf("lost twice: %p\n", (void *)touched), 3;
            gone[n] = 1, lost++;
            printf("lost %p\n", (void *)touched);
        }
        if (gone[n] && mmap(touched, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != touched)
            return printf("cannot be mapped: %p\n", (void *)touched), 3;
        fill(touched, n + pages);
    }
    looking = 0;
    for (size_t n = 0; n < pages; n++) wrong += !right(touched = memory + n * WORDS, n + pages);
    printf("%zu lost, %zu wrong\n", lost, wrong);
    return wrong != 0;
}
