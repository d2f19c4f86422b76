/* Uses memory in the ways that page replacement is about: a hot part, all of it at random, and
 * loops through all of it. walks PAGES ROUNDS SEED [kill|limit|spin] prints a sum of what it
 * read; with kill it ends by SIGKILL first, with limit no file of the process may grow beyond 1 KiB
 * from then on, and with limit and with spin it uses its pages for two seconds more. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    size_t pages = strtoul(argv[1], 0, 10), rounds = strtoul(argv[2], 0, 10);
    unsigned long long x = strtoull(argv[3], 0, 10) * 0x9e3779b97f4a7c15ull | 1, sum = 0;
    const char *end = argc > 4 ? argv[4] : "";
    char *m = malloc(pages * 4096);
    for (size_t i = 0; i < pages; i++)
        memset(m + i * 4096, (int)i, 4096);
    for (size_t r = 0; r < rounds; r++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        size_t page = (x >> 20) % (x % 4 ? pages / 8 : pages);
        volatile char *p = m + page * 4096;
        if (x & 256)
            p[7]++;
        else
            sum += (unsigned char)p[9];
        if (r % (rounds / 3 + 1) == rounds / 6)
            for (size_t i = 0; i < pages; i++)
                sum += (unsigned char)m[i * 4096 + 3];
    }
    if (!strcmp(end, "kill"))
        raise(SIGKILL);
    if (!strcmp(end, "limit"))
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 1024, 1024 });
    int spin = !strcmp(end, "limit") || !strcmp(end, "spin");
    for (double begun = now(); spin && now() - begun < 2;)
        for (size_t i = 0; i < pages; i++)
            ((volatile char *)m)[i * 4096 + 11]++;
    printf("%llu\n", sum);
    return 0;
}
