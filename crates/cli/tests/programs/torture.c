// Threads that map, unmap, protect, move and drop memory under pressure, and check
// every byte they left there. torture SEED THREADS OPERATIONS MIB
//
// Every page of a thread's region holds one stamp, or is zero after MADV_DONTNEED; a
// small model says which. Workers come and go, a timer interrupts at 1 kHz, and the
// kernel reads and writes the regions too. Prints a digest of the model at the end.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#define PAGE 4096l
#define REGIONS 8

static long region_pages, operations;
static volatile sig_atomic_t ticks;
static uint64_t seed0, done_total;

struct region {
	char *at;
	uint64_t *stamp;
};
struct worker {
	int id, pipe[2];
	uint64_t rng;
	long done, quota;
	struct region r[REGIONS];
};

static void on_alarm(int s) { (void)s; ticks++; }
static void die(const struct worker *w, const char *what, long a, long b)
{
	fprintf(stderr, "torture: seed %lu worker %d op %ld: %s (%ld, %ld) errno %d\n", (unsigned long)seed0, w->id, w->done, what, a, b, errno);
	exit(1);
}
static uint64_t rnd(struct worker *w)
{
	w->rng ^= w->rng << 13; w->rng ^= w->rng >> 7; w->rng ^= w->rng << 17;
	return w->rng * 0x2545f4914f6cdd1dull >> 16;
}
static void put(struct worker *w, struct region *r, long p)
{
	uint64_t v = rnd(w) | 1, *at = (uint64_t *)(r->at + p * PAGE);
	for (long i = 0; i < 511; i += 73) at[i] = v + i;
	at[511] = v;
	r->stamp[p] = v;
}
static void check(struct worker *w, struct region *r, long p)
{
	uint64_t v = r->stamp[p], *at = (uint64_t *)(r->at + p * PAGE);
	for (long i = 0; i < 511; i += 73)
		if (at[i] != (v ? v + i : 0)) die(w, "wrong contents", p, i);
	if (at[511] != v) die(w, "wrong last word", p, 511);
}
static void step(struct worker *w)
{
	struct region *r = &w->r[rnd(w) % REGIONS];
	long p = rnd(w) % region_pages, n = 1 + rnd(w) % 24;
	if (n > region_pages - p) n = region_pages - p;
	char *at = r->at + p * PAGE;
	switch (rnd(w) % 8) {
	case 0: // drop
		if (madvise(at, n * PAGE, MADV_DONTNEED)) die(w, "madvise", p, n);
		memset(r->stamp + p, 0, n * 8);
		break;
	case 1: // protect, read, and back
		if (mprotect(at, n * PAGE, PROT_READ)) die(w, "mprotect", p, n);
		check(w, r, p);
		if (mprotect(at, n * PAGE, PROT_READ | PROT_WRITE)) die(w, "mprotect back", p, n);
		put(w, r, p);
		break;
	case 2: // replace
		if (mmap(at, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at) die(w, "mmap", p, n);
		memset(r->stamp + p, 0, n * 8);
		break;
	case 3: { // move the whole region
		char *to = mremap(r->at, region_pages * PAGE, region_pages * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
		if (to == MAP_FAILED) { // cut into several mappings: move by hand
			to = mmap(0, region_pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (to == MAP_FAILED) die(w, "mmap to move", p, n);
			for (long i = 0; i < region_pages; i++)
				if (r->stamp[i]) memcpy(to + i * PAGE, r->at + i * PAGE, PAGE);
		}
		if (munmap(r->at, region_pages * PAGE)) die(w, "munmap", p, n);
		r->at = to;
		w->done += 2;
		break;
	}
	case 4: { // through the kernel
		struct region *q = &w->r[rnd(w) % REGIONS];
		long to = rnd(w) % region_pages;
		if (write(w->pipe[1], at, PAGE) != PAGE) die(w, "write", p, 0);
		if (read(w->pipe[0], q->at + to * PAGE, PAGE) != PAGE) die(w, "read", to, 0);
		if (q != r || to != p) q->stamp[to] = r->stamp[p];
		check(w, q, to);
		break;
	}
	default:
		for (long i = p; i < p + n; i++) {
			check(w, r, i);
			if (rnd(w) % 2) put(w, r, i);
		}
	}
	w->done++;
}
static void *run(void *arg)
{
	struct worker *w = arg;
	for (long end = w->done + w->quota; w->done < end;) step(w);
	return 0;
}
int main(int argc, char **argv)
{
	if (argc != 5) return 2;
	seed0 = strtoull(argv[1], 0, 10);
	int threads = atoi(argv[2]);
	operations = atol(argv[3]);
	region_pages = (atol(argv[4]) << 20) / PAGE / threads / REGIONS;
	signal(SIGALRM, on_alarm);
	struct itimerval t = {{0, 1000}, {0, 1000}};
	setitimer(ITIMER_REAL, &t, 0);
	struct worker *w = calloc(threads, sizeof *w);
	pthread_t *id = calloc(threads, sizeof *id);
	for (int i = 0; i < threads; i++) {
		w[i].id = i;
		w[i].rng = (seed0 * 1000003 + i) * 0x9e3779b97f4a7c15ull | 1;
		w[i].quota = 50;
		if (pipe(w[i].pipe)) return 3;
		for (int k = 0; k < REGIONS; k++) {
			struct region *r = &w[i].r[k];
			r->stamp = calloc(region_pages, 8);
			r->at = mmap(0, region_pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (r->at == MAP_FAILED) return 4;
			for (long p = 0; p < region_pages; p++) put(&w[i], r, p);
		}
	}
	// Threads live for a few operations: creation and exit all the time.
	long rounds = operations / threads / 50 + 1;
	for (long round = 0; round < rounds; round++) {
		for (int i = 0; i < threads; i++)
			if (pthread_create(&id[i], 0, run, &w[i])) return 5;
		for (int i = 0; i < threads; i++) pthread_join(id[i], 0);
	}
	uint64_t digest = 14695981039346656037ull;
	for (int i = 0; i < threads; i++) {
		done_total += w[i].done;
		for (int k = 0; k < REGIONS; k++)
			for (long p = 0; p < region_pages; p++) {
				check(&w[i], &w[i].r[k], p);
				digest = (digest ^ w[i].r[k].stamp[p]) * 1099511628211ull;
			}
	}
	printf("%d threads, %s operations, digest %016lx\n", threads, (long)done_total >= operations ? "all" : "too few", (unsigned long)digest);
	return (long)done_total >= operations && ticks > 0 ? 0 : 6;
}
