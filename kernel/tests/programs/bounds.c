/* What bounds memory: resource limits, the end of files, seals, gaps below stacks. Prints the same on Linux.
 * setrlimit(2), mmap(2), mremap(2), mlock(2), madvise(2), memfd_create(2), fcntl(2). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define RW (PROT_READ | PROT_WRITE)

static sigjmp_buf back;
static volatile int signal_code;

static void caught(int sig, siginfo_t *info, void *context)
{
	signal_code = sig * 100 + info->si_code;
	siglongjmp(back, 1);
}

/* The signal that touching gives, as "signal * 100 + code"; 0: none. */
static int touch(char *at, int write)
{
	signal_code = 0;
	if (sigsetjmp(back, 1) == 0) {
		if (write)
			*(volatile char *)at = write;
		else
			(void)*(volatile char *)at;
	}
	return signal_code;
}

#define NUMBER(what) printf("%3d %-64s %ld\n", __LINE__, #what, (long)(what))
static void said(int line, const char *call, long result)
{
	printf("%3d %-64s %s\n", line, call, result == -1 ? strerrorname_np(errno) : "ok");
}
#define SAY(call) said(__LINE__, #call, (long)(call))
#define CHILD(...)                                                                                 \
	do {                                                                                       \
		fflush(stdout);                                                                    \
		pid_t child_ = fork();                                                             \
		if (child_ == 0) {                                                                 \
			__VA_ARGS__;                                                               \
			fflush(stdout);                                                            \
			_exit(0);                                                                  \
		}                                                                                  \
		int status_;                                                                       \
		waitpid(child_, &status_, 0);                                                      \
		NUMBER(status_);                                                                   \
	} while (0)

static char *fresh(int pages)
{
	return mmap(0, pages * PAGE, RW, PRIVATE, -1, 0);
}

/* A field of /proc/self/status. */
static long field(const char *name)
{
	FILE *f = fopen("/proc/self/status", "r");
	char line[256];
	long value = -1;
	while (fgets(line, sizeof line, f))
		if (strncmp(line, name, strlen(name)) == 0)
			value = atol(line + strlen(name));
	fclose(f);
	return value;
}

/* What /proc/self/maps says of pages [0, n) from b. */
static void maps(char *b, long n)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	while (fgets(line, sizeof line, f)) {
		unsigned long start, end, offset;
		char rights[8], name[256] = "";
		sscanf(line, "%lx-%lx %7s %lx %*s %*s %255[^\n]", &start, &end, rights, &offset, name);
		if (end > (unsigned long)b && start < (unsigned long)b + n * PAGE)
			printf("    %ld-%ld %s %lx %s\n", (long)(start - (unsigned long)b) / (long)PAGE,
			       (long)(end - (unsigned long)b) / (long)PAGE, rights, offset, name);
	}
	fclose(f);
}

static void limit(int which, rlim_t to)
{
	struct rlimit r = { to, to };
	SAY(setrlimit(which, &r));
}

static void data(void)
{
	limit(RLIMIT_DATA, field("VmData:") * 1024 + (4 << 20));
	char *a = fresh(16);
	SAY(fresh(2000));
	SAY(sbrk(8 << 20));
	SAY(mmap(0, 2000 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	char *b = mmap(0, 2000 * PAGE, PROT_READ, PRIVATE, -1, 0);
	SAY(mprotect(b, 2000 * PAGE, RW));
	SAY(mremap(a, 16 * PAGE, 2000 * PAGE, MREMAP_MAYMOVE));
	SAY(fresh(500));
}

static void locked(void)
{
	limit(RLIMIT_MEMLOCK, 8 * PAGE);
	char *a = fresh(64);
	SAY(mlock(a, 16 * PAGE));
	munlock(a, 16 * PAGE);
	setuid(1000);
	SAY(mlock(a, 16 * PAGE));
	SAY(mlock(a, 8 * PAGE));
	SAY(mlock(a + 8 * PAGE, PAGE));
	SAY(mlock(a, 4 * PAGE));
	SAY(mremap(a, 8 * PAGE, 9 * PAGE, MREMAP_MAYMOVE));
	SAY(mmap(0, PAGE, RW, PRIVATE | MAP_LOCKED, -1, 0));
	SAY(mlockall(MCL_CURRENT));
	SAY(mlockall(MCL_FUTURE));
	SAY(fresh(16));
	SAY(munlockall());
	limit(RLIMIT_MEMLOCK, 0);
	SAY(mlock(a, 0));
	SAY(munlock(a, PAGE));
}

static void future(void)
{
	unsigned char there[4];
	SAY(mlockall(MCL_FUTURE));
	CHILD(char *a = fresh(4); mincore(a, 4 * PAGE, there); NUMBER(there[0] & 1));
	char *a = fresh(4);
	mincore(a, 4 * PAGE, there);
	NUMBER(there[3] & 1);
}

static void file_size(void)
{
	int fd = memfd_create("size", 0);
	signal(SIGXFSZ, SIG_IGN);
	/* What is printed goes to a file, too. */
	limit(RLIMIT_FSIZE, 1 << 20);
	SAY(ftruncate(fd, (1 << 20) + 1));
	SAY(ftruncate(fd, 1 << 20));
	NUMBER(pwrite(fd, "abc", 3, (1 << 20) - 1));
	SAY(pwrite(fd, "abc", 3, 1 << 20));
}

static int dive(int n)
{
	volatile char room[4000];
	memset((char *)room, n, sizeof room);
	return n > 0 ? dive(n - 1) + room[n] : room[5];
}

static void stack(void)
{
	limit(RLIMIT_STACK, 1 << 20);
	signal_code = 0;
	if (sigsetjmp(back, 1) == 0)
		dive(200);
	NUMBER(signal_code);
	if (sigsetjmp(back, 1) == 0)
		dive(300);
	NUMBER(signal_code);
}

static void growing(void)
{
	char *b = mmap(0, 1024 * PAGE, PROT_NONE, PRIVATE, -1, 0);
	munmap(b, 1024 * PAGE);
	char *s = mmap(b + 1000 * PAGE, 4 * PAGE, RW, PRIVATE | MAP_FIXED | MAP_GROWSDOWN, -1, 0);
	NUMBER(touch(s - 2 * PAGE, 1));
	maps(b, 1024);
	mmap(b + 600 * PAGE, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0);
	NUMBER(touch(b + 857 * PAGE, 1));
	NUMBER(touch(b + 856 * PAGE, 1));
	maps(b, 1024);
	munmap(b, 1024 * PAGE);
}

static void files(void)
{
	char page[PAGE];
	int fd = open("/tmp/bounds.test", O_RDWR | O_CREAT | O_TRUNC, 0600);
	memset(page, 'a', PAGE);
	for (int i = 0; i < 4; i++)
		write(fd, page, PAGE);
	char *p = mmap(0, 4 * PAGE, RW, MAP_PRIVATE, fd, 0);
	p[0] = 'x';
	p[PAGE] = 'x';
	SAY(madvise(p, PAGE, MADV_DONTNEED));
	NUMBER(p[0]);
	NUMBER(p[PAGE]);
	p[3 * PAGE] = 'x';
	ftruncate(fd, PAGE);
	NUMBER(touch(p + PAGE, 0));
	NUMBER(touch(p + 3 * PAGE, 0));
	ftruncate(fd, 4 * PAGE);
	NUMBER(p[3 * PAGE]);
	maps(p, 4);
	unlink("/tmp/bounds.test");
	maps(p, 4);
	munmap(p, 4 * PAGE);
	close(fd);
	int m = memfd_create("a name", 0);
	ftruncate(m, PAGE);
	p = mmap(0, PAGE, PROT_READ, MAP_SHARED, m, 0);
	maps(p, 1);
	SAY(mmap(0, PAGE, RW, MAP_SHARED_VALIDATE | MAP_SYNC, m, 0));
	SAY(mmap(0, 1UL << 44, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
}

static void seals(void)
{
	struct stat st;
	int m = memfd_create("s", MFD_ALLOW_SEALING);
	ftruncate(m, PAGE);
	char *w = mmap(0, PAGE, RW, MAP_SHARED, m, 0);
	SAY(fcntl(m, F_ADD_SEALS, F_SEAL_WRITE));
	mprotect(w, PAGE, PROT_READ);
	SAY(fcntl(m, F_ADD_SEALS, F_SEAL_WRITE));
	munmap(w, PAGE);
	SAY(fcntl(m, F_ADD_SEALS, F_SEAL_WRITE));
	int x = syscall(SYS_memfd_create, "x", 8);
	fstat(x, &st);
	NUMBER(st.st_mode & 0777);
	NUMBER(fcntl(x, F_GET_SEALS));
	SAY(syscall(SYS_memfd_create, "x", 0x18));
}

int main(void)
{
	static char other[65536];
	stack_t alternate = { .ss_sp = other, .ss_size = sizeof other };
	struct sigaction action = { .sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	sigaltstack(&alternate, 0);
	sigaction(SIGSEGV, &action, 0);
	sigaction(SIGBUS, &action, 0);
	CHILD(data());
	CHILD(locked());
	CHILD(future());
	CHILD(file_size());
	CHILD(stack());
	CHILD(growing());
	files();
	seals();
	return 0;
}
