/* Keeps more memory in use than there is, until its input ends: soak MIB THREADS SEED COUNTERS.
 * Each thread has pages that name themselves and changes them in patterns that take turns: sweeps,
 * random, a hot tenth, strides, and pieces that are given back and begun anew. Children of fork
 * look at pages that are never changed. COUNTERS is a file in which each thread's progress is,
 * the number of children, and whether one is just being made. */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, PIECE = 32, TURN = 4096, MOST = 16, FRESH = -1 };
static uint64_t *memory, *constant, seed;
static size_t pages, of_thread, threads, constants;
static int32_t *rounds; /* of each page; FRESH: it reads as zeroes */
static volatile int ended;
/* Linux's own memory: whoever watches reads the file. */
static volatile uint64_t *counters;

static uint64_t mix(uint64_t x) {
    x ^= x >> 33, x *= 0xff51afd7ed558ccdULL, x ^= x >> 33, x *= 0xc4ceb9fe1a85ec53ULL;
    return x ^ x >> 33;
}
/* Word i of a page in a round: of eight pages one is noise, one repeats a word, the others are
 * like a heap. */
static uint64_t word(size_t page, int32_t round, int i) {
    uint64_t name = mix(seed + page * 1000003 + (uint64_t)round);
    if (page % 8 == 0) return mix(name + i);
    if (page % 8 == 1) return name;
    switch (i % 4) {
    case 0: return name + i;
    case 1: return 0x7f1234000000 | (mix(name + i) & 0xffff0);
    case 2: return mix(name - i) % 100;
    default: return 0;
    }
}
static void fill(uint64_t *to, size_t page, int32_t round) {
    for (int i = 0; i < WORDS; i++) to[i] = word(page, round, i);
}
static void look(const uint64_t *at, size_t page, int32_t round, const char *what) {
    for (int i = 0; i < WORDS; i++) {
        uint64_t want = round == FRESH ? 0 : word(page, round, i);
        if (at[i] != want) {
            printf("%s: page %zu, round %d, word %d is %llx, not %llx\n", what, page, round, i,
                (unsigned long long)at[i], (unsigned long long)want);
            fflush(stdout);
            _exit(3);
        }
    }
}
static size_t choose(uint64_t step, uint64_t r) {
    switch (step / TURN % 5) {
    case 0: return step % of_thread;
    case 1: return r % of_thread;
    case 2: return r % 16 ? (r >> 8) % (of_thread / 10) : (r >> 8) % of_thread;
    case 3: return step * 17 % of_thread;
    default: return (step / PIECE * 7919 * PIECE + step % PIECE) % of_thread;
    }
}
static void *work(void *arg) {
    size_t me = (size_t)arg, first = me * of_thread;
    uint64_t r = mix(seed + me) | 1;
    for (uint64_t step = me * TURN; !ended; step++) {
        r = mix(r + step);
        size_t page = first + choose(step, r);
        uint64_t *at = memory + page * WORDS;
        if (step / TURN % 5 == 4 && step % PIECE == 0 && page % PIECE == 0 && page + PIECE <= first + of_thread) {
            if (madvise(at, PIECE * PAGE, MADV_DONTNEED)) return perror("madvise"), _exit(4), NULL;
            for (size_t i = 0; i < PIECE; i++) rounds[page + i] = FRESH;
        }
        look(at, page, rounds[page], "own");
        if (r >> 40 & 1) fill(at, page, ++rounds[page]);
        if ((r >> 41) % 8 == 0) look(constant + (r >> 44) % constants * WORDS, pages + (r >> 44) % constants, 0, "constant");
        counters[me * 8]++;
    }
    return NULL;
}
static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}
/* One child at least. They take a fifth of the time at most: nobody gets on during fork. */
static void *family(void *arg) {
    (void)arg;
    do {
        double begun = seconds();
        counters[MOST * 8 + 1] = 1;
        pid_t child = fork();
        if (child == 0) {
            for (size_t n = 0; n < constants; n++) look(constant + n * WORDS, pages + n, 0, "child");
            _exit(0);
        }
        counters[MOST * 8 + 1] = 0;
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child || status) printf("child %x\n", status), fflush(stdout), _exit(5);
        counters[MOST * 8]++;
        double next = 3 + seconds() + 4 * (seconds() - begun);
        while (!ended && seconds() < next) nanosleep(&(struct timespec){.tv_nsec = 50000000}, 0);
    } while (!ended);
    return NULL;
}
static uint64_t *map(size_t bytes, int fd) {
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *p = mmap(0, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    return p == MAP_FAILED ? (perror("mmap"), exit(2), NULL) : p;
}
int main(int argc, char **argv) {
    if (argc != 5) return 2;
    threads = strtoul(argv[2], 0, 10), seed = strtoull(argv[3], 0, 10);
    if (threads == 0 || threads > MOST) return 2;
    size_t all = strtoul(argv[1], 0, 10) * 256;
    constants = all / 8, of_thread = (all - constants) / threads / PIECE * PIECE, pages = of_thread * threads;
    int fd = open(argv[4], O_RDWR);
    if (fd < 0) return perror(argv[4]), 2;
    counters = map((MOST + 1) * 64, fd);
    memory = map(pages * PAGE, -1), constant = map(constants * PAGE, -1);
    rounds = (int32_t *)map(pages * sizeof *rounds, -1);
    for (size_t n = 0; n < pages; n++) fill(memory + n * WORDS, n, 0);
    for (size_t n = 0; n < constants; n++) fill(constant + n * WORDS, pages + n, 0);
    puts("ready"), fflush(stdout);
    pthread_t t[MOST + 1];
    for (size_t k = 0; k < threads; k++) pthread_create(&t[k], 0, work, (void *)k);
    pthread_create(&t[threads], 0, family, 0);
    char c;
    while (read(0, &c, 1) > 0);
    ended = 1;
    for (size_t k = 0; k <= threads; k++) pthread_join(t[k], 0);
    for (size_t n = 0; n < pages; n++) look(memory + n * WORDS, n, rounds[n], "end");
    for (size_t n = 0; n < constants; n++) look(constant + n * WORDS, pages + n, 0, "end");
    puts("right");
    return 0;
}
