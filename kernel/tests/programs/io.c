// Bytes in files, pipes, sockets and counters: every line says what a call gave. The same on Linux as in our kernel.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

// O_LARGEFILE as the kernel has it, which is set in every file.
#ifdef __aarch64__
#define LARGE 0400000
#else
#define LARGE 0100000
#endif

#define T(e) (errno = 0, said(#e, (long)(e)))
#define BAD ((void *)8)

static long said(const char *what, long r)
{
	if (r < 0)
		printf("%s: %s\n", what, strerrorname_np(errno));
	else
		printf("%s: %ld\n", what, r);
	return r;
}

static char big[300000];

static unsigned sum(const char *p, size_t n)
{
	unsigned s = 0;
	while (n--)
		s = s * 31 + (unsigned char)*p++;
	return s;
}

static long size(int fd)
{
	struct stat s;
	return fstat(fd, &s) ? -1 : s.st_size;
}

static void positions(void)
{
	char b[100];
	int fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0600);
	T(write(fd, "hello world", 11));
	T(lseek(fd, 0, SEEK_CUR));
	T(lseek(fd, -3, SEEK_END));
	T(read(fd, b, 10));
	T(read(fd, b, 10));
	T(lseek(fd, -1, SEEK_SET));
	T(lseek(fd, -100, SEEK_CUR));
	T(lseek(fd, 0, 9));
	T(lseek(fd, 5, SEEK_DATA));
	T(lseek(fd, 5, SEEK_HOLE));
	T(lseek(fd, 11, SEEK_DATA));
	T(lseek(fd, 100, SEEK_HOLE));
	T(pread(fd, b, 5, 6));
	printf("%.5s\n", b);
	T(pread(fd, b, 5, 20));
	T(pread(fd, b, 5, -1));
	T(pwrite(fd, "W", 1, 6));
	T(lseek(fd, 0, SEEK_SET));
	T(read(fd, b, 100));
	printf("%.11s\n", b);
	T(lseek(fd, 10000, SEEK_SET));
	T(write(fd, "x", 1));
	T(size(fd));
	T(lseek(fd, 0, SEEK_HOLE));
	T(lseek(fd, 4096, SEEK_DATA));
	T(lseek(fd, 0, SEEK_DATA));
	T(pread(fd, b, 5, 9996));
	printf("%d %d\n", b[3], b[4]);
	T(read(fd, BAD, 1));
	T(lseek(fd, 0, SEEK_SET));
	T(read(fd, BAD, 1));
	T(write(fd, BAD, 1));
	T(read(fd, BAD, 0));
	T(read(-1, b, 1));
	struct iovec v[3] = { { b, 3 }, { b + 50, 0 }, { b + 10, 4 } };
	T(readv(fd, v, 3));
	printf("%.3s %.4s\n", b, b + 10);
	T(preadv(fd, v, 3, 2));
	printf("%.3s %.4s\n", b, b + 10);
	T(pwritev(fd, v, 3, 20));
	T(readv(fd, v, -1));
	T(readv(fd, BAD, 1));
	v[0].iov_len = -1;
	T(readv(fd, v, 2));
	T(readv(fd, v, 0));
	T(close(fd));
	fd = open("f", O_WRONLY | O_APPEND);
	T(lseek(fd, 0, SEEK_CUR));
	T(write(fd, "end", 3));
	T(lseek(fd, 0, SEEK_CUR));
	T(pwrite(fd, "P", 1, 0));
	T(size(fd));
	T(read(fd, b, 1));
	T(fcntl(fd, F_GETFL) & ~LARGE);
	T(fcntl(fd, F_SETFL, O_NONBLOCK));
	T(fcntl(fd, F_GETFL) & ~LARGE);
	T(lseek(fd, 2, SEEK_SET));
	T(write(fd, "Z", 1));
	T(size(fd));
	T(close(fd));
	fd = open("f", O_RDONLY);
	T(write(fd, "x", 1));
	T(ftruncate(fd, 0));
	int a = dup(fd);
	T(lseek(fd, 7, SEEK_SET));
	T(lseek(a, 0, SEEK_CUR));
	T(close(a));
	T(dup2(fd, 50));
	T(dup2(fd, fd) == fd);
	T(dup2(99, 99));
	T(dup3(fd, fd, 0));
	T(dup3(fd, 51, O_CLOEXEC));
	T(fcntl(50, F_GETFD));
	T(fcntl(51, F_GETFD));
	T(fcntl(fd, F_DUPFD, 60));
	T(fcntl(fd, F_DUPFD_CLOEXEC, 60));
	T(fcntl(fd, F_DUPFD, -1));
	T(fcntl(fd, 9999));
	T(fcntl(99, F_GETFD));
	T(dup2(fd, 5000000));
	T(dup2(fd, -1));
	T(syscall(SYS_close_range, 50, 100, 0));
	T(fcntl(51, F_GETFD));
	T(syscall(SYS_close_range, 100, 50, 0));
	T(close(fd));
}

static void contents(void)
{
	static char other[sizeof big];
	for (size_t i = 0; i < sizeof big; i++)
		big[i] = i * 7 + i / 251;
	int fd = open("big", O_RDWR | O_CREAT | O_TRUNC, 0600);
	T(write(fd, big, sizeof big));
	T(pread(fd, other, sizeof other, 0));
	T(memcmp(big, other, sizeof big));
	for (int i = 0; i < 100; i++) {
		size_t at = i * 2999 % 290000, n = i * 97 % 9000;
		memset(big + at, i, n);
		if (pwrite(fd, big + at, n, at) != (ssize_t)n)
			printf("short\n");
	}
	T(pread(fd, other, sizeof other, 0));
	T(memcmp(big, other, sizeof big));
	T(ftruncate(fd, 5000));
	T(size(fd));
	T(ftruncate(fd, 9000));
	T(pread(fd, other, sizeof other, 0));
	T(memcmp(big, other, 5000));
	int zero = 1;
	for (int i = 5000; i < 9000; i++)
		zero &= other[i] == 0;
	T(zero);
	T(ftruncate(fd, -1));
	T(truncate("big", 100));
	T(truncate("none", 100));
	T(truncate(".", 100));
	T(size(fd));
	T(fallocate(fd, 0, 50, 10000));
	T(size(fd));
	T(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 20000));
	T(size(fd));
	T(lseek(fd, 0, SEEK_HOLE));
	T(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 1));
	T(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10, 5000));
	T(lseek(fd, 0, SEEK_HOLE));
	T(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096));
	T(lseek(fd, 0, SEEK_HOLE));
	T(lseek(fd, 4096, SEEK_DATA));
	T(pread(fd, other, 20, 0));
	printf("%u\n", sum(other, 20));
	T(fallocate(fd, 0, -1, 10));
	T(fallocate(fd, 0, 0, 0));
	T(posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED));
	T(posix_fadvise(fd, 0, 0, 77));
	T(fsync(fd));
	T(fdatasync(fd));
	int to = open("copy", O_RDWR | O_CREAT | O_TRUNC, 0600);
	T(lseek(fd, 0, SEEK_SET));
	T(sendfile(to, fd, NULL, 4000));
	T(lseek(fd, 0, SEEK_CUR));
	off_t at = 100;
	T(sendfile(to, fd, &at, 50));
	printf("%ld\n", (long)at);
	T(size(to));
	loff_t in = 0, out = 10000;
	T(copy_file_range(fd, &in, to, &out, 3000, 0));
	printf("%ld %ld %ld\n", (long)in, (long)out, size(to));
	T(copy_file_range(fd, NULL, to, NULL, 3000, 1));
	in = out = 0;
	T(copy_file_range(to, &in, to, &out, 3000, 0));
	T(close(to));
	T(flock(fd, LOCK_EX));
	to = open("big", O_RDONLY);
	T(flock(to, LOCK_EX | LOCK_NB));
	T(flock(to, LOCK_SH | LOCK_NB));
	T(flock(fd, LOCK_SH));
	T(flock(to, LOCK_SH | LOCK_NB));
	T(flock(to, 77));
	T(close(fd));
	T(flock(to, LOCK_EX | LOCK_NB));
	T(close(to));
	T(flock(to, LOCK_EX));
	fd = open("/dev/zero", O_RDWR);
	T(lseek(fd, 5, SEEK_SET));
	T(pread(fd, other, 10, 5));
	T(read(fd, other, sizeof other));
	T(close(fd));
	fd = open("/dev/full", O_RDWR);
	T(write(fd, "x", 1));
	T(read(fd, other, 5));
	T(close(fd));
	fd = open("/dev/urandom", O_RDONLY);
	T(read(fd, other, 5));
	T(close(fd));
}

static int piped;

static void on_pipe(int s)
{
	piped++;
}

static void pipes(void)
{
	int p[2], n;
	char b[100];
	signal(SIGPIPE, on_pipe);
	T(pipe(p));
	T(write(p[1], "abcdef", 6));
	T(ioctl(p[0], FIONREAD, &n));
	printf("%d\n", n);
	T(read(p[0], b, 4));
	T(read(p[0], b, 10));
	T(read(p[1], b, 1));
	T(write(p[0], b, 1));
	T(lseek(p[0], 0, SEEK_SET));
	T(pread(p[0], b, 1, 0));
	T(pwrite(p[1], b, 1, 0));
	T(fcntl(p[0], F_SETFL, O_NONBLOCK));
	T(read(p[0], b, 1));
	T(fcntl(p[1], F_SETFL, O_NONBLOCK));
	T(fcntl(p[1], F_GETPIPE_SZ));
	T(write(p[1], big, 100000));
	T(write(p[1], big, 1));
	T(read(p[0], b, 100));
	T(write(p[1], big, 200));
	struct pollfd pf[2] = { { p[0], POLLIN | POLLOUT }, { p[1], POLLIN | POLLOUT } };
	T(poll(pf, 2, 0));
	printf("%x %x\n", pf[0].revents, pf[1].revents);
	static char much[70000];
	T(read(p[0], much, sizeof much));
	T(memcmp(much, big + 100, 65436));
	T(poll(pf, 2, 0));
	printf("%x %x\n", pf[0].revents, pf[1].revents);
	T(close(p[0]));
	T(poll(pf, 2, 0));
	printf("%x %x\n", pf[0].revents, pf[1].revents);
	T(write(p[1], "x", 1));
	T(piped);
	T(close(p[1]));
	T(pipe2(p, O_CLOEXEC | O_NONBLOCK));
	T(fcntl(p[0], F_GETFD));
	T(fcntl(p[1], F_GETFL));
	T(write(p[1], "x", 1));
	T(close(p[1]));
	pf[0] = (struct pollfd){ p[0], POLLIN };
	T(poll(pf, 1, -1));
	printf("%x\n", pf[0].revents);
	T(read(p[0], b, 10));
	T(read(p[0], b, 10));
	T(poll(pf, 1, -1));
	printf("%x\n", pf[0].revents);
	T(close(p[0]));
	T(pipe2(p, 1));
	T(pipe(BAD));
	T(dup(0) > 0);
	// A child writes more than the pipe holds.
	T(pipe(p));
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) {
		close(p[0]);
		for (int i = 0; i < 20; i++)
			if (write(p[1], big, 10000) != 10000)
				_exit(1);
		_exit(0);
	}
	close(p[1]);
	long total = 0, got;
	while ((got = read(p[0], much, 12345)) > 0)
		total += got;
	T(total);
	int st;
	T(waitpid(pid, &st, 0) == pid && st == 0);
	T(close(p[0]));
	// A pipe with a name.
	T(mkfifo("fifo", 0600));
	T(open("fifo", O_WRONLY | O_NONBLOCK));
	int r = open("fifo", O_RDONLY | O_NONBLOCK);
	T(r >= 0);
	T(read(r, b, 1));
	int w = open("fifo", O_WRONLY | O_NONBLOCK);
	T(w >= 0);
	T(read(r, b, 1));
	T(write(w, "hi", 2));
	T(read(r, b, 10));
	T(close(w));
	T(close(r));
	fflush(stdout);
	if (!(pid = fork())) {
		int fd = open("fifo", O_WRONLY);
		_exit(write(fd, "child", 5) != 5);
	}
	r = open("fifo", O_RDONLY);
	T(read(r, b, 10));
	T(waitpid(pid, &st, 0) == pid && st == 0);
	T(close(r));
}

static void waits(void)
{
	int e = eventfd(3, 0), s = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
	uint64_t v = 0;
	T(read(e, &v, 8));
	T(v);
	T(read(e, &v, 4));
	v = 10;
	T(write(e, &v, 8));
	v = -1;
	T(write(e, &v, 8));
	T(read(s, &v, 8));
	T(v);
	T(read(s, &v, 8));
	T(read(s, &v, 8));
	struct pollfd pf[4] = { { e, POLLIN | POLLOUT }, { s, POLLIN | POLLOUT }, { -1, POLLIN }, { 77, POLLIN } };
	T(poll(pf, 4, 0));
	printf("%x %x %x %x\n", pf[0].revents, pf[1].revents, pf[2].revents, pf[3].revents);
	T(poll(pf + 1, 1, 0));
	pf[1].events = POLLIN;
	T(poll(pf + 1, 1, 20));
	T(poll(NULL, 0, 10));
	T(poll(BAD, 1, 0));
	struct timespec ts = { 0, 10000000 };
	T(ppoll(pf + 1, 1, &ts, NULL));
	ts.tv_nsec = 2000000000;
	T(ppoll(pf + 1, 1, &ts, NULL));
	fd_set in, out;
	FD_ZERO(&in);
	FD_ZERO(&out);
	FD_SET(e, &in);
	FD_SET(s, &in);
	FD_SET(s, &out);
	struct timeval tv = { 0, 0 };
	T(select(20, &in, &out, NULL, &tv));
	printf("%d %d %d\n", !!FD_ISSET(e, &in), !!FD_ISSET(s, &in), !!FD_ISSET(s, &out));
	FD_ZERO(&in);
	FD_SET(s, &in);
	tv.tv_usec = 10000;
	T(select(20, &in, NULL, NULL, &tv));
	FD_SET(15, &in);
	T(select(20, &in, NULL, NULL, &tv));
	T(select(-1, &in, NULL, NULL, &tv));
	int ep = epoll_create1(0);
	struct epoll_event ev = { EPOLLIN, { .u64 = 5 } }, got[4];
	T(epoll_ctl(ep, EPOLL_CTL_ADD, e, &ev));
	T(epoll_ctl(ep, EPOLL_CTL_ADD, e, &ev));
	T(epoll_ctl(ep, EPOLL_CTL_MOD, s, &ev));
	ev = (struct epoll_event){ EPOLLIN | EPOLLET, { .u64 = 6 } };
	T(epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev));
	T(epoll_wait(ep, got, 4, 0));
	printf("%x %d\n", got[0].events, (int)got[0].data.u64);
	v = 1;
	T(write(s, &v, 8));
	T(epoll_wait(ep, got, 4, 0));
	T(epoll_wait(ep, got, 4, 0));
	T(epoll_ctl(ep, EPOLL_CTL_DEL, e, NULL));
	T(epoll_wait(ep, got, 4, 10));
	T(epoll_wait(ep, got, 0, 10));
	int f = open("f", O_RDONLY);
	T(epoll_ctl(ep, EPOLL_CTL_ADD, f, &ev));
	pf[0] = (struct pollfd){ f, POLLIN | POLLOUT };
	T(poll(pf, 1, 0));
	printf("%x\n", pf[0].revents);
	T(close(f));
	// Somebody else ends the wait.
	int p[2];
	T(pipe(p));
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) {
		usleep(30000);
		_exit(write(p[1], "x", 1) != 1);
	}
	pf[0] = (struct pollfd){ p[0], POLLIN };
	T(poll(pf, 1, -1));
	printf("%x\n", pf[0].revents);
	T(waitpid(pid, NULL, 0) == pid);
	T(close(p[0]));
	T(close(p[1]));
	T(close(e));
	T(close(s));
	T(close(ep));
}

static void sockets(void)
{
	int s[2], n;
	char b[100];
	T(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	T(write(s[0], "one", 3));
	T(write(s[0], "two", 3));
	T(ioctl(s[1], FIONREAD, &n));
	T(n);
	T(recv(s[1], b, 2, MSG_PEEK));
	T(read(s[1], b, 100));
	T(recv(s[1], b, 2, MSG_DONTWAIT));
	T(write(s[1], "back", 4));
	T(read(s[0], b, 100));
	T(lseek(s[0], 0, SEEK_SET));
	T(shutdown(s[0], SHUT_WR));
	T(read(s[1], b, 100));
	piped = 0;
	T(write(s[0], "x", 1));
	T(piped);
	T(send(s[0], "x", 1, MSG_NOSIGNAL));
	T(piped);
	T(write(s[1], "still", 5));
	struct pollfd pf[2] = { { s[0], POLLIN | POLLOUT }, { s[1], POLLIN | POLLOUT | POLLRDHUP } };
	T(poll(pf, 2, 0));
	printf("%x %x\n", pf[0].revents, pf[1].revents);
	T(close(s[1]));
	T(read(s[0], b, 100));
	T(read(s[0], b, 100));
	T(poll(pf, 1, 0));
	printf("%x\n", pf[0].revents);
	T(close(s[0]));
	T(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, s));
	T(write(s[0], "one", 3));
	T(write(s[0], "", 0));
	T(write(s[0], "three", 5));
	T(read(s[1], b, 2));
	T(read(s[1], b, 100));
	T(read(s[1], b, 100));
	T(read(s[1], b, 100));
	int type = 0;
	socklen_t len = sizeof type;
	T(getsockopt(s[0], SOL_SOCKET, SO_TYPE, &type, &len));
	T(type);
	struct iovec v[2] = { { "ab", 2 }, { "cd", 2 } }, w[2] = { { b, 1 }, { b + 10, 9 } };
	struct msghdr m = { .msg_iov = v, .msg_iovlen = 2 }, g = { .msg_iov = w, .msg_iovlen = 2 };
	T(sendmsg(s[0], &m, 0));
	T(recvmsg(s[1], &g, 0));
	printf("%.1s %.3s\n", b, b + 10);
	T(close(s[0]));
	T(close(s[1]));
	T(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s));
	T(write(s[0], "packet", 6));
	T(close(s[0]));
	T(read(s[1], b, 100));
	T(read(s[1], b, 100));
	T(close(s[1]));
	T(socketpair(AF_UNIX, 99, 0, s));
	T(socketpair(12345, SOCK_STREAM, 0, s));
	int f = open("f", O_RDONLY);
	T(send(f, "x", 1, 0));
	T(close(f));
}

static void memory(void)
{
	char b[100];
	int m = memfd_create("name", MFD_ALLOW_SEALING);
	T(write(m, "memory", 6));
	T(fcntl(m, F_GET_SEALS));
	T(ftruncate(m, 10000));
	T(fcntl(m, F_ADD_SEALS, F_SEAL_SHRINK));
	T(ftruncate(m, 100));
	T(ftruncate(m, 20000));
	T(fcntl(m, F_ADD_SEALS, F_SEAL_GROW));
	T(ftruncate(m, 30000));
	T(pwrite(m, "x", 1, 20000));
	T(pwrite(m, "x", 1, 19999));
	T(fcntl(m, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL));
	T(pwrite(m, "x", 1, 0));
	T(fcntl(m, F_ADD_SEALS, F_SEAL_WRITE));
	T(fcntl(m, F_GET_SEALS));
	sprintf(b, "/proc/self/fd/%d", m);
	char t[100] = "";
	T(readlink(b, t, 99));
	printf("%s\n", t);
	struct stat s;
	T(fstat(m, &s));
	printf("%o %ld\n", s.st_mode, (long)s.st_nlink);
	int again = open(b, O_RDONLY);
	T(read(again, t, 6));
	printf("%.6s\n", t);
	T(close(again));
	T(close(m));
	m = memfd_create("plain", MFD_CLOEXEC);
	T(fcntl(m, F_ADD_SEALS, F_SEAL_WRITE));
	T(fcntl(m, F_GETFD));
	T(close(m));
	T(memfd_create("x", 0x4000));
	T(memfd_create(BAD, 0));
}

int main(void)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	char base[] = "/dev/shm/ioXXXXXX";
	T(mkdtemp(base) ? 0 : -1);
	T(chdir(base));
	positions();
	contents();
	pipes();
	waits();
	sockets();
	memory();
	return 0;
}
