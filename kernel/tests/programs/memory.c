/* Memory calls: what they give and refuse. Prints the same on Linux. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL

static sigjmp_buf back;
static volatile sig_atomic_t signal_code;
static char *volatile signal_address;

static void caught(int sig, siginfo_t *info, void *context)
{
	(void)context;
	signal_code = sig * 100 + info->si_code;
	signal_address = info->si_addr;
	siglongjmp(back, 1);
}

/* The signal that touching gives, as "signal * 100 + code"; 0: none. */
static int touch(char *at, int write)
{
	signal_code = 0;
	if (sigsetjmp(back, 1) == 0) {
		if (write)
			*(volatile char *)at = 1;
		else
			(void)*(volatile char *)at;
		return 0;
	}
	return signal_address == at ? signal_code : -signal_code;
}

static const char *error(long result)
{
	return result == -1 ? strerrorname_np(errno) : "ok";
}
#define SAY(call) printf("%-70s %s\n", #call, error((long)(call)))
#define NUMBER(what) printf("%-70s %ld\n", #what, (long)(what))

static char *fresh(int pages)
{
	return mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void files(void)
{
	int fd = open("/tmp/memory.test", O_RDWR | O_CREAT | O_TRUNC, 0600);
	int readonly = open("/tmp/memory.test", O_RDONLY);
	int writeonly = open("/tmp/memory.test", O_WRONLY);
	char text[] = "the quick brown fox";
	NUMBER(write(fd, text, sizeof text));
	char *shared = mmap(0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char *private = mmap(0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, readonly, 0);
	NUMBER(strcmp(shared, text));
	NUMBER(strcmp(private, text));
	NUMBER(shared[PAGE - 1]);
	NUMBER(touch(shared + PAGE, 0));
	NUMBER(touch(private + PAGE, 1));
	shared[0] = 'T';
	char c = 0;
	pread(fd, &c, 1, 0);
	NUMBER(c);
	private[1] = 'X';
	pread(fd, &c, 1, 1);
	NUMBER(c);
	pwrite(fd, "Q", 1, 4);
	NUMBER(shared[4]);
	NUMBER(ftruncate(fd, 2 * PAGE));
	NUMBER(touch(shared + PAGE, 1));
	NUMBER(touch(shared + 2 * PAGE, 1));
	NUMBER(ftruncate(fd, 10));
	NUMBER(touch(shared + PAGE, 0));
	NUMBER(shared[11]);
	SAY(msync(shared, PAGE, MS_SYNC));
	SAY(msync(shared, PAGE, MS_SYNC | MS_ASYNC));
	SAY(msync(shared + 1, PAGE, MS_SYNC));
	SAY(mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, readonly, 0));
	SAY(mmap(0, PAGE, PROT_READ, MAP_PRIVATE, writeonly, 0));
	SAY(mmap(0, PAGE, PROT_READ, MAP_PRIVATE, -1, 0));
	SAY(mmap(0, PAGE, PROT_READ, MAP_PRIVATE, fd, 1));
	SAY(mmap(0, 0, PROT_READ, MAP_PRIVATE, fd, 0));
	SAY(mmap(0, PAGE, PROT_READ, 0, fd, 0));
	char *ro = mmap(0, PAGE, PROT_READ, MAP_SHARED, readonly, 0);
	SAY(mprotect(ro, PAGE, PROT_READ | PROT_WRITE));
	SAY(mprotect(ro, PAGE, PROT_READ | PROT_EXEC));
	int dir = open("/tmp", O_RDONLY);
	SAY(mmap(0, PAGE, PROT_READ, MAP_PRIVATE, dir, 0));
	int zero = open("/dev/zero", O_RDWR);
	char *z = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero, 0);
	NUMBER(z[5]);
	pid_t child = fork();
	if (child == 0) {
		shared[2] = 'C';
		private[2] = 'C';
		_exit(0);
	}
	waitpid(child, 0, 0);
	NUMBER(shared[2]);
	NUMBER(private[2]);
	close(fd);
	unlink("/tmp/memory.test");
	NUMBER(shared[0]);
	SAY(munmap(shared, 3 * PAGE));
	SAY(munmap(private, 3 * PAGE));
}

static void anonymous(void)
{
	char *p = fresh(8);
	memset(p, 'a', 8 * PAGE);
	SAY(munmap(p + 2 * PAGE, PAGE));
	NUMBER(touch(p + 2 * PAGE, 0));
	SAY(mprotect(p, 8 * PAGE, PROT_READ));
	NUMBER(touch(p, 1));
	NUMBER(touch(p + 3 * PAGE, 1));
	SAY(mprotect(p + 3 * PAGE, PAGE, PROT_NONE));
	NUMBER(touch(p + 3 * PAGE, 0));
	SAY(mmap(p + 2 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	SAY(mmap(p + 2 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	SAY(mmap(p + 1, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	NUMBER(p[2 * PAGE]);
	NUMBER(p[4 * PAGE]);
	SAY(mprotect(p, 8 * PAGE, PROT_READ | PROT_WRITE));
	SAY(madvise(p + 4 * PAGE, PAGE, MADV_DONTNEED));
	NUMBER(p[4 * PAGE]);
	NUMBER(p[5 * PAGE]);
	SAY(madvise(p + 1, PAGE, MADV_DONTNEED));
	SAY(madvise(p, PAGE, 77));
	SAY(madvise(p, PAGE, MADV_REMOVE));
	SAY(munmap(p + 6 * PAGE, PAGE));
	SAY(madvise(p, 8 * PAGE, MADV_DONTNEED));
	NUMBER(p[7 * PAGE]);
	SAY(mprotect(p, 8 * PAGE, PROT_READ));
	SAY(mprotect(p + 1, PAGE, PROT_READ));
	SAY(mprotect(p, PAGE, 0x40));
	SAY(munmap(p + 1, PAGE));
	SAY(munmap(p, 0));
	SAY(munmap(p, 8 * PAGE));
	SAY(munmap((void *)-PAGE, 2 * PAGE));
	SAY(mmap(0, -PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	unsigned char vec[4];
	p = fresh(4);
	p[PAGE] = 1;
	SAY(mincore(p, 4 * PAGE, vec));
	printf("resident %d %d %d %d\n", vec[0] & 1, vec[1] & 1, vec[2] & 1, vec[3] & 1);
	SAY(mincore(p + 1, PAGE, vec));
	SAY(mincore(p, PAGE, (void *)8));
	SAY(mlock(p, 4 * PAGE));
	SAY(mincore(p, 4 * PAGE, vec));
	printf("resident %d %d %d %d\n", vec[0] & 1, vec[1] & 1, vec[2] & 1, vec[3] & 1);
	SAY(madvise(p, PAGE, MADV_DONTNEED));
	SAY(munlock(p, 4 * PAGE));
	SAY(madvise(p, PAGE, MADV_DONTNEED));
	SAY(mlockall(0));
	SAY(mlockall(MCL_CURRENT | MCL_FUTURE));
	char *q = fresh(2);
	SAY(mincore(q, 2 * PAGE, vec));
	printf("resident %d %d\n", vec[0] & 1, vec[1] & 1);
	SAY(munlockall());
	SAY(mlock((void *)PAGE, PAGE));
	munmap(q, 2 * PAGE);
	munmap(p, 4 * PAGE);
}

static void moved(void)
{
	char *p = fresh(4);
	for (int i = 0; i < 4; i++)
		p[i * PAGE] = 'a' + i;
	char *guard = mmap(p + 4 * PAGE, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	SAY(mremap(p, 4 * PAGE, 8 * PAGE, guard == p + 4 * PAGE ? 0 : 0));
	char *q = mremap(p, 4 * PAGE, 8 * PAGE, MREMAP_MAYMOVE);
	printf("moved: %c%c%c%c %d\n", q[0], q[PAGE], q[2 * PAGE], q[3 * PAGE], q[7 * PAGE]);
	q = mremap(q, 8 * PAGE, 2 * PAGE, 0);
	printf("cut: %c%c, behind: %d\n", q[0], q[PAGE], touch(q + 2 * PAGE, 0));
	char *to = fresh(4);
	char *r = mremap(q, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	printf("fixed: %d %c%c %d, old: %d\n", r == to, r[0], r[PAGE], r[3 * PAGE], touch(q, 0));
	SAY(mremap(r, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, r + PAGE));
	SAY(mremap(r + 1, PAGE, PAGE, 0));
	SAY(mremap(r, PAGE, 0, 0));
	SAY(mremap(r, PAGE, PAGE, MREMAP_FIXED, to));
	SAY(mremap(r, 0, PAGE, MREMAP_MAYMOVE));
	char *s = mremap(r, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
	printf("kept: %c%c and %d\n", s[0], s[PAGE], r[0]);
	char *shared = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *twice = mremap(shared, 0, 2 * PAGE, MREMAP_MAYMOVE);
	twice[PAGE] = 'z';
	printf("twice: %c\n", shared[PAGE]);
	SAY(remap_file_pages(shared, PAGE, 0, 1, 0));
	printf("other page: %c\n", shared[0]);
	munmap(shared, 2 * PAGE);
	/* Shared memory shows in both places. */
	char *both = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	both[PAGE] = 'b';
	char *there = mremap(both, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
	printf("kept shared: %d %d\n", there != MAP_FAILED && there != both, there == MAP_FAILED ? 0 : there[PAGE]);
	there[PAGE] = 'c';
	printf("still there: %c\n", both[PAGE]);
}

static void forked(void)
{
	char *copy = fresh(1), *wiped = fresh(1), *gone = fresh(1);
	char *shared = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	*copy = *wiped = *gone = *shared = 'p';
	SAY(madvise(wiped, PAGE, MADV_WIPEONFORK));
	SAY(madvise(shared, PAGE, MADV_WIPEONFORK));
	SAY(madvise(gone, PAGE, MADV_DONTFORK));
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		printf("child: %c %d %c gone %d\n", *copy, *wiped, *shared, touch(gone, 0));
		*copy = *shared = 'c';
		exit(0);
	}
	waitpid(child, 0, 0);
	printf("parent: %c %c %c %c\n", *copy, *wiped, *gone, *shared);
}

static void segments(void)
{
	int id = shmget(IPC_PRIVATE, 2 * PAGE, IPC_CREAT | 0600);
	NUMBER(id >= 0);
	char *a = shmat(id, 0, 0), *b = shmat(id, 0, SHM_RDONLY);
	a[0] = 's';
	printf("segment: %c, read only: %d\n", b[0], touch(b, 1));
	struct shmid_ds ds;
	SAY(shmctl(id, IPC_STAT, &ds));
	printf("attached %ld, %zu bytes, mode %o\n", (long)ds.shm_nattch, ds.shm_segsz, ds.shm_perm.mode & 0777);
	SAY(shmctl(id, IPC_RMID, 0));
	SAY(shmdt(a + PAGE));
	SAY(shmdt(a));
	printf("still: %c\n", b[0]);
	SAY(shmdt(b));
	SAY(shmctl(id, IPC_STAT, &ds));
	SAY(shmget(0x4711, 0, IPC_CREAT | 0600));
	SAY(shmget(0x4711, PAGE, 0));
}

static int deep(int n)
{
	volatile char room[PAGE];
	room[0] = n;
	return n == 0 ? 0 : deep(n - 1) + room[0] - room[0];
}

int main(void)
{
	struct sigaction sa = { .sa_sigaction = caught, .sa_flags = SA_SIGINFO };
	setvbuf(stdout, 0, _IOLBF, 0);
	sigaction(SIGSEGV, &sa, 0);
	sigaction(SIGBUS, &sa, 0);
	anonymous();
	moved();
	forked();
	files();
	segments();
	NUMBER(deep(1000));
	char *before = sbrk(0);
	NUMBER(sbrk(3 * PAGE) == before);
	before[2 * PAGE] = 1;
	NUMBER(sbrk(-3 * PAGE) == before + 3 * PAGE);
	SAY(brk(before + PAGE * PAGE * PAGE));
	return 0;
}
