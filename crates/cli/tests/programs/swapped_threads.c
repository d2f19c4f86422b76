/* Threads that read and change pages of their own and of all in random order, while children are
 * forked that look at everything: swapped_threads THREADS MIB ROUNDS FORKS.
 * Of no rounds it does as many as it can until its input ends. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8 };
static uint64_t *memory;
static size_t pages, threads, rounds;
static volatile int ended;
static uint64_t *shared; /* never changed after the beginning */

static uint64_t mix(uint64_t x) {
    x ^= x >> 33, x *= 0xff51afd7ed558ccdULL, x ^= x >> 33, x *= 0xc4ceb9fe1a85ec53ULL;
    return x ^ x >> 33;
}
static void fill(uint64_t *page, uint64_t name) {
    page[0] = name;
    for (int i = 1; i < WORDS; i++) page[i] = mix(name + i);
}
static int right(const uint64_t *page) {
    uint64_t name = page[0];
    for (int i = 1; i < WORDS; i++)
        if (page[i] != mix(name + i)) return 0;
    return 1;
}
static void wrong(const char *what, size_t n) {
    printf("%s: page %zu is wrong\n", what, n);
    fflush(stdout);
    _exit(3);
}
static void *work(void *arg) {
    size_t me = (size_t)arg;
    uint64_t r = me + 1;
    for (size_t k = 0; rounds ? k < rounds : !ended; k++) {
        r = mix(r + k);
        size_t mine = (r % (pages / threads)) * threads + me;
        uint64_t *page = memory + mine * WORDS;
        if (!right(page) || page[0] % pages != mine) wrong("own", mine);
        if (k % 4 == 0) fill(page, page[0] + pages);
        size_t any = mix(r) % pages;
        uint64_t *s = shared + any * WORDS;
        if (s[0] != any || s[WORDS - 1] != mix(any + WORDS - 1)) wrong("shared", any);
    }
    return 0;
}
int main(int argc, char **argv) {
    if (argc != 5) return 2;
    threads = strtoul(argv[1], 0, 10), rounds = strtoul(argv[3], 0, 10);
    pages = strtoul(argv[2], 0, 10) * 128 / threads * threads;
    size_t forks = strtoul(argv[4], 0, 10);
    memory = mmap(0, 2 * pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 2;
    shared = memory + pages * WORDS;
    for (size_t n = 0; n < pages; n++) fill(memory + n * WORDS, n), fill(shared + n * WORDS, n);
    pthread_t all[64];
    for (size_t t = 0; t < threads; t++) pthread_create(&all[t], 0, work, (void *)t);
    for (size_t f = 0; f < forks; f++) {
        pid_t child = fork();
        if (child == 0) {
            for (size_t n = 0; n < pages; n++)
                if (!right(shared + n * WORDS)) wrong("child", n);
            _exit(0);
        }
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child || status) return printf("child %x\n", status), 4;
    }
    if (!rounds) {
        char c;
        puts("ready"), fflush(stdout);
        while (read(0, &c, 1) > 0);
        ended = 1;
    }
    for (size_t t = 0; t < threads; t++) pthread_join(all[t], 0);
    for (size_t n = 0; n < pages; n++)
        if (!right(memory + n * WORDS)) wrong("end", n);
    puts("right");
    return 0;
}
