/* Gets memory in every way there is, says where, and waits to be killed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096ul

static char initialised[3 * PAGE] = "data";
static char zeroed[64 * PAGE];
static __thread char local[PAGE];
static pthread_barrier_t barrier;

/* kind: the kind of entry expected, or "any" */
static void say(const char *kind, const char *what, void *at)
{
	if (at == MAP_FAILED || at == NULL) {
		printf("failed %s\n", what);
		exit(1);
	}
	printf("%s %lx %s\n", kind, (unsigned long)at, what);
}

static void *mapped(const char *kind, const char *what, void *at, size_t len, int prot, int flags, int fd)
{
	char *p = mmap(at, len, prot, flags, fd, 0);
	say(kind, what, p);
	if (prot & PROT_WRITE)
		for (size_t i = 0; i < len; i += PAGE)
			p[i] = 1;
	return p;
}

static void *thread(void *name)
{
	char frame[2 * PAGE];
	memset(frame, 1, sizeof frame);
	memset(local, 1, sizeof local);
	static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
	pthread_mutex_lock(&one);
	say("ours", "thread-stack", frame);
	say("ours", "thread-local", local);
	char *arena = malloc(100);
	memset(arena, 1, 100);
	say("ours", "thread-arena", arena);
	pthread_mutex_unlock(&one);
	pthread_barrier_wait(&barrier);
	for (;;)
		pause();
}

static void deep(int n)
{
	volatile char frame[16 * PAGE];
	frame[0] = 1;
	if (n)
		deep(n - 1);
	else
		say("ours", "deep-stack", (void *)frame);
	frame[1] = 1;
}

int main(int argc, char **argv)
{
	const int anon = MAP_PRIVATE | MAP_ANONYMOUS, rw = PROT_READ | PROT_WRITE;
	int fd = open(argv[0], O_RDONLY);
	char name[] = "/tmp/everyway-XXXXXX";
	int file = mkstemp(name);
	unlink(name);
	ftruncate(file, 16 * PAGE);

	initialised[0] = zeroed[0] = local[0] = 1;
	say("ours", "data", initialised);
	say("ours", "bss", zeroed + sizeof zeroed / 2);
	say("ours", "main-stack", &fd);
	say("ours", "main-local", local);
	deep(20);

	mapped("ours", "anonymous", 0, 8 * PAGE, rw, anon, -1);
	mapped("ours", "huge-reservation", 0, 1ul << 36, PROT_READ, anon | MAP_NORESERVE, -1);
	mapped("ours", "low-32bit", 0, 8 * PAGE, rw, anon | MAP_32BIT, -1);
	mapped("ours", "populated", 0, 8 * PAGE, rw, anon | MAP_POPULATE, -1);
	mapped("ours", "grows-down", 0, 8 * PAGE, rw, anon | MAP_GROWSDOWN, -1);
	mapped("ours", "executable", 0, 8 * PAGE, rw | PROT_EXEC, anon, -1);
	mapped("ours", "fixed-low", (void *)0x200000, 8 * PAGE, rw, anon | MAP_FIXED_NOREPLACE, -1);
	mapped("ours", "fixed-high", (void *)0x700000000000, 8 * PAGE, rw, anon | MAP_FIXED_NOREPLACE, -1);
	mapped("ours", "hinted", (void *)0x600000000000, 8 * PAGE, rw, anon, -1);
	mapped("ours", "file-private-writable", 0, PAGE, rw, MAP_PRIVATE, fd);
	mapped("any", "file-private", 0, PAGE, PROT_READ, MAP_PRIVATE, fd);
	mapped("foreign", "file-shared", 0, 16 * PAGE, rw, MAP_SHARED, file);
	mapped("foreign", "file-shared-read-only", 0, 16 * PAGE, PROT_READ, MAP_SHARED, file);
	mapped("foreign", "anonymous-shared", 0, 8 * PAGE, rw, MAP_SHARED | MAP_ANONYMOUS, -1);

	/* a file mapping that becomes writable, and text that is patched */
	char *p = mmap(0, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
	if (mprotect(p, PAGE, rw) == 0)
		p[0] = 1;
	say("ours", "file-made-writable", p);
	p = (char *)((unsigned long)&main & -PAGE);
	if (mprotect(p, PAGE, rw | PROT_EXEC) == 0)
		*(volatile char *)p = *(volatile char *)p;
	say("ours", "patched-text", p);

	p = mmap(0, 8 * PAGE, rw, anon, -1, 0);
	memset(p, 1, 8 * PAGE);
	p = mremap(p, 8 * PAGE, 4000 * PAGE, MREMAP_MAYMOVE);
	memset(p, 1, 4000 * PAGE);

	char *to = mmap(0, 4000 * PAGE, PROT_NONE, anon, -1, 0);
	p = mremap(p, 4000 * PAGE, 4000 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	say("ours", "moved-fixed", p);
	say("ours", "moved-end", p + 3999 * PAGE);
	munmap(p + 8 * PAGE, 8 * PAGE);
	mprotect(p + 32 * PAGE, 8 * PAGE, PROT_READ);
	mprotect(p + 64 * PAGE, 8 * PAGE, PROT_NONE);
	say("ours", "no-access", p + 64 * PAGE);
	madvise(p + 80 * PAGE, 8 * PAGE, MADV_DONTNEED);
	say("ours", "discarded", p + 80 * PAGE);

	p = sbrk(100 * PAGE);
	memset(p, 1, 100 * PAGE);
	say("ours", "brk", p + 99 * PAGE);
	p = malloc(100);
	say("ours", "malloc", p);
	p = malloc(64 << 20);
	memset(p, 1, 64 << 20);
	say("ours", "malloc-large", p + (32 << 20));

	int id = shmget(IPC_PRIVATE, 4 * PAGE, IPC_CREAT | 0600);
	p = id < 0 ? (void *)-1 : shmat(id, 0, 0);
	if (p != (char *)-1) {
		p[0] = 1;
		say("foreign", "sysv", p);
	}
	if (id >= 0)
		shmctl(id, IPC_RMID, 0);

	void *library = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
	void *other = dlopen("libsqlite3.so.0", RTLD_NOW | RTLD_LOCAL);
	if (library)
		say("any", "dlopen-text", dlsym(library, "cos"));
	if (other) {
		say("any", "dlopen-text", dlsym(other, "sqlite3_open"));
		say("ours", "dlopen-data", dlsym(other, "sqlite3_temp_directory"));
	}

	pthread_barrier_init(&barrier, 0, 5);
	for (int i = 0; i < 4; i++) {
		pthread_t t;
		pthread_create(&t, 0, thread, 0);
	}
	pthread_barrier_wait(&barrier);
	printf("ready\n");
	fflush(stdout);
	for (;;)
		pause();
}
