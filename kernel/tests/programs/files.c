// Names, links, directories, modes and times: every line says what a call gave. The same on Linux as in our kernel.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <unistd.h>

#define T(e) (errno = 0, said(#e, (long)(e)))

static long said(const char *what, long r)
{
	if (r < 0)
		printf("%s: %s\n", what, strerrorname_np(errno));
	else
		printf("%s: %ld\n", what, r);
	return r;
}

static int touch(const char *p)
{
	int fd = open(p, O_CREAT | O_WRONLY, 0644);
	return fd < 0 ? -1 : close(fd);
}

static void show(const char *p)
{
	struct stat s;
	if (lstat(p, &s))
		printf("%s: %s\n", p, strerrorname_np(errno));
	else if (S_ISDIR(s.st_mode))
		printf("%s: mode %o links %ld\n", p, s.st_mode, (long)s.st_nlink);
	else
		printf("%s: mode %o links %ld size %ld uid %d gid %d\n", p, s.st_mode, (long)s.st_nlink, (long)s.st_size,
		       s.st_uid, s.st_gid);
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void list(const char *p)
{
	char *names[100];
	int n = 0;
	DIR *d = opendir(p);
	struct dirent *e;
	if (!d) {
		printf("%s: %s\n", p, strerrorname_np(errno));
		return;
	}
	while ((e = readdir(d)) && n < 100)
		asprintf(&names[n++], "%s:%d", e->d_name, e->d_type);
	closedir(d);
	qsort(names, n, sizeof *names, compare);
	printf("%s:", p);
	for (int i = 0; i < n; i++)
		printf(" %s", names[i]);
	printf("\n");
}

static void opens(void)
{
	T(open("", O_RDONLY));
	T(open("none", O_RDONLY));
	T(open("none/x", O_CREAT | O_WRONLY, 0600));
	T(touch("f"));
	T(open("f/", O_RDONLY));
	T(open("f/x", O_RDONLY));
	T(open("f/.", O_RDONLY));
	T(open("f/..", O_RDONLY));
	T(open("new/", O_CREAT | O_WRONLY, 0600));
	T(open("f", O_CREAT | O_EXCL, 0600));
	T(open("f", O_DIRECTORY));
	T(mkdir("d", 0777));
	T(open("d", O_WRONLY));
	T(open("d", O_RDONLY | O_CREAT, 0600));
	T(open("d", O_RDWR));
	T(symlink("f", "l"));
	T(open("l", O_NOFOLLOW));
	T(open("l", O_CREAT | O_EXCL, 0600));
	T(symlink("none", "dangling"));
	T(open("dangling", O_RDONLY));
	T(open("dangling", O_CREAT | O_EXCL, 0600));
	T(close(open("dangling", O_CREAT | O_WRONLY, 0640)));
	show("none");
	T(symlink("loop", "loop"));
	T(open("loop", O_RDONLY));
	T(open("loop", O_CREAT | O_WRONLY, 0600));
	T(open("loop/x", O_RDONLY));
	char name[300], path[5000];
	memset(name, 'n', 299);
	name[256] = 0;
	T(open(name, O_RDONLY));
	name[255] = 0;
	T(touch(name));
	T(unlink(name));
	memset(path, '/', 4999);
	path[4998] = 'x';
	path[4999] = 0;
	T(open(path, O_RDONLY));
	path[4094] = 'f';
	path[4095] = 0;
	T(open(path, O_RDONLY));
	T(open("/proc/self/fd/999", O_RDONLY));
	T(close(open("f", O_RDWR | O_TRUNC)));
	T(open("f", O_PATH | O_CREAT | O_EXCL) >= 0);
	int p = open("f", O_PATH);
	char b[4];
	T(read(p, b, 1));
	T(write(p, b, 1));
	T(fchmod(p, 0600));
	T(ftruncate(p, 0));
	T(lseek(p, 0, SEEK_SET));
	T(fcntl(p, F_GETFL) == (O_PATH | 0));
	struct stat s;
	T(fstat(p, &s));
	T(close(p));
	T(close(-1));
	T(close(999));
	T(open("f", O_TMPFILE | O_RDWR, 0600));
	T(open(".", O_TMPFILE | O_RDONLY, 0600));
	T(openat(-5, "f", O_RDONLY));
	T(openat(AT_FDCWD, "f", O_RDONLY) >= 0);
	int d = open("d", O_RDONLY | O_DIRECTORY), f = open("f", O_RDONLY);
	T(openat(f, "x", O_RDONLY));
	T(close(openat(d, "in", O_CREAT | O_WRONLY, 0600)));
	T(access("d/in", F_OK));
	T(read(d, b, 1));
	T(write(d, b, 1));
	T(ftruncate(d, 0));
	T(close(d));
	T(close(f));
}

static void directories(void)
{
	T(mkdir("m", 0750));
	T(mkdir("m", 0700));
	T(mkdir("m/", 0700));
	T(mkdir("m/n/", 0700));
	T(mkdir("m/x/y", 0700));
	T(mkdir("f/x", 0700));
	T(mkdir("/", 0700));
	T(mkdir(".", 0700));
	T(mkdir("m/.", 0700));
	T(mkdir("m/..", 0700));
	T(mkdir("", 0700));
	T(mkdir("dangling2/.", 0700));
	show("m");
	T(rmdir("m"));
	T(rmdir("m/n/.."));
	T(rmdir("m/n/."));
	T(rmdir("."));
	T(rmdir("/"));
	T(rmdir("f"));
	T(rmdir("l"));
	T(rmdir("none2"));
	T(rmdir("m/n/"));
	T(rmdir("m"));
	T(unlink("d"));
	T(unlink("d/"));
	T(unlink("f/"));
	T(unlink("/"));
	T(unlink("."));
	T(unlink("none2"));
	T(unlink(""));
	T(unlink("l"));
	T(symlink("d", "ld"));
	T(unlink("ld/"));
	T(rmdir("ld/"));
	T(mkdir("gone", 0700));
	T(chdir("gone"));
	T(rmdir("../gone"));
	char b[100];
	T(getcwd(b, sizeof b) ? 0 : -1);
	T(touch("x"));
	T(mkdir("x", 0700));
	T(open(".", O_RDONLY) >= 0);
	T(open("..", O_RDONLY) >= 0);
	list(".");
	T(chdir(".."));
	T(access("gone", F_OK));
	list("d");
	for (int i = 0; i < 50; i++) {
		sprintf(b, "d/n%02d", i);
		touch(b);
	}
	// Names that go while the directory is read do not hide others.
	DIR *dir = opendir("d");
	struct dirent *e;
	int n = 0;
	while ((e = readdir(dir)))
		if (e->d_name[0] == 'n') {
			n++;
			unlinkat(dirfd(dir), e->d_name, 0);
		}
	closedir(dir);
	T(n);
	list("d");
	char small[20];
	int fd = open("d", O_RDONLY | O_DIRECTORY);
	T(syscall(SYS_getdents64, fd, small, 10));
	T(syscall(SYS_getdents64, 0, small, 10) < 0);
	T(close(fd));
}

static void links(void)
{
	T(touch("a"));
	T(link("a", "b"));
	show("a");
	T(link("a", "b"));
	T(link("none2", "c"));
	T(link("d", "c"));
	T(link("a", "c/"));
	T(link("a/", "c"));
	T(link("a", "none2/c"));
	T(link("a", "/proc/c") < 0);
	T(symlink("a", "s"));
	T(link("s", "hs"));
	show("hs");
	T(linkat(AT_FDCWD, "s", AT_FDCWD, "ha", AT_SYMLINK_FOLLOW));
	show("ha");
	T(unlink("a"));
	show("b");
	T(symlink("", "e"));
	T(symlink("x", ""));
	T(symlink("x", "b"));
	T(symlink("x", "y/"));
	char t[10];
	memset(t, '-', 10);
	T(readlink("s", t, 10));
	T(readlink("s", t, 0));
	T(readlink("b", t, 10));
	T(readlink("none2", t, 10));
	T(readlink("d/", t, 10));
	T(symlink("0123456789abcdef", "long"));
	T(readlink("long", t, 10));
	printf("%.10s\n", t);
	show("long");
	int fd = open(".", O_TMPFILE | O_RDWR, 0644);
	char p[64];
	sprintf(p, "/proc/self/fd/%d", fd);
	T(write(fd, "tmp", 3));
	T(linkat(AT_FDCWD, p, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
	show("named");
	T(close(fd));
	T(unlink("named"));
}

static void renames(void)
{
	T(touch("r1"));
	T(touch("r2"));
	T(rename("r1", "r2"));
	show("r1");
	T(rename("r1", "r2"));
	T(rename("r2", "r2"));
	T(link("r2", "r3"));
	T(rename("r2", "r3"));
	show("r2");
	show("r3");
	T(unlink("r3"));
	T(mkdir("d1", 0700));
	T(mkdir("d2", 0700));
	T(rename("d1", "d1/x"));
	T(rename("d1", "d1"));
	T(rename("d1", "r2"));
	T(rename("r2", "d1"));
	T(rename("r2", "d1/"));
	T(rename("r2/", "r9"));
	T(rename("r2", "r9/"));
	T(rename("d1/", "d3/"));
	show("d1");
	show("d3");
	T(touch("d2/x"));
	T(rename("d3", "d2"));
	T(rename("d2/x", "d3/y"));
	T(rename("d3", "d2"));
	show("d2/y");
	T(rename(".", "z"));
	T(rename("d2/..", "z"));
	T(rename("r2", "."));
	T(rename("r2", ".."));
	T(rename("d2/y", "d2"));
	T(rename("d2", "d2/y/z"));
	T(syscall(SYS_renameat2, AT_FDCWD, "r2", AT_FDCWD, "b", 1));
	T(syscall(SYS_renameat2, AT_FDCWD, "r2", AT_FDCWD, "new2", 1));
	T(syscall(SYS_renameat2, AT_FDCWD, "new2", AT_FDCWD, "d2", 2));
	show("new2");
	show("d2");
	show("new2/y");
	T(syscall(SYS_renameat2, AT_FDCWD, "new2", AT_FDCWD, "none2", 2));
	T(syscall(SYS_renameat2, AT_FDCWD, "new2", AT_FDCWD, "d2", 3));
	show(".");
}

static void modes(void)
{
	umask(027);
	T(close(open("u", O_CREAT | O_WRONLY, 0777)));
	T(mkdir("ud", 0777));
	show("u");
	show("ud");
	printf("%o\n", umask(022));
	T(chmod("u", 06755));
	show("u");
	T(chown("u", 5, 6));
	show("u");
	T(chown("u", -1, 7));
	T(lchown("s", 8, 9));
	show("s");
	show("u");
	T(access("u", X_OK));
	T(chmod("u", 0644));
	T(access("u", X_OK));
	T(access("u", R_OK | W_OK));
	T(access("u", 9));
	T(access("none2", F_OK));
	T(access("s", F_OK));
	T(faccessat(AT_FDCWD, "s", F_OK, AT_SYMLINK_NOFOLLOW));
	T(chmod("s", 0600));
	T(chmod("none2", 0600));
	T(mknod("fifo", S_IFIFO | 0600, 0));
	T(mknod("null", S_IFCHR | 0666, makedev(1, 3)));
	T(mknod("null", S_IFCHR | 0666, makedev(1, 3)));
	T(mknod("dir", S_IFDIR | 0666, 0));
	T(mknod("reg", S_IFREG | 0640, 0));
	T(mknod("slash/", S_IFREG | 0640, 0));
	show("fifo");
	show("reg");
	struct stat st;
	T(stat("null", &st));
	printf("%o %d %d\n", st.st_mode, major(st.st_rdev), minor(st.st_rdev));
	int fd = open("null", O_RDWR);
	char c;
	T(write(fd, "abc", 3));
	T(read(fd, &c, 1));
	T(close(fd));
	struct timespec ts[2] = { { 1000, 5 }, { 2000, 6 } };
	T(utimensat(AT_FDCWD, "u", ts, 0));
	T(stat("u", &st));
	printf("%ld.%ld %ld.%ld\n", st.st_atim.tv_sec, st.st_atim.tv_nsec, st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	ts[0].tv_nsec = UTIME_OMIT;
	ts[1] = (struct timespec){ 7, 8 };
	T(utimensat(AT_FDCWD, "u", ts, 0));
	T(stat("u", &st));
	printf("%ld.%ld %ld.%ld\n", st.st_atim.tv_sec, st.st_atim.tv_nsec, st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	ts[0].tv_nsec = 1000000000;
	T(utimensat(AT_FDCWD, "u", ts, 0));
	T(utimensat(AT_FDCWD, "s", NULL, AT_SYMLINK_NOFOLLOW));
	T(utimensat(AT_FDCWD, "none2", NULL, 0));
	struct statx x;
	T(statx(AT_FDCWD, "u", 0, STATX_BASIC_STATS, &x));
	printf("%o %u %u %llu %lld\n", x.stx_mode, x.stx_uid, x.stx_gid, x.stx_size, (long long)x.stx_mtime.tv_sec);
	T(statx(AT_FDCWD, "", 0, STATX_BASIC_STATS, &x));
	T(statx(0, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &x));
	T(statx(AT_FDCWD, "u", 0x8000, STATX_BASIC_STATS, &x));
	T(fstatat(AT_FDCWD, "", &st, AT_EMPTY_PATH));
	T(fstatat(AT_FDCWD, "", &st, 0));
	T(stat("u", (void *)8));
	T(stat((void *)8, &st));
}

static void mounts(void)
{
	T(mkdir("mnt", 0700));
	T(mount("tmpfs", "mnt", "tmpfs", 0, "mode=711"));
	show("mnt");
	T(touch("mnt/x"));
	T(rename("mnt/x", "x"));
	T(link("mnt/x", "x"));
	T(rmdir("mnt"));
	T(rename("mnt", "mnt2"));
	T(chdir("mnt"));
	T(umount("../mnt"));
	T(access("../f", F_OK));
	T(chdir(".."));
	int fd = open("mnt/x", O_RDONLY);
	T(umount("mnt"));
	T(close(fd));
	struct statfs s;
	T(statfs("mnt", &s));
	printf("%lx\n", (long)s.f_type);
	T(umount("mnt"));
	show("mnt");
	T(umount("mnt"));
	T(mount("x", "mnt", "nosuch", 0, 0));
	T(mount("x", "f", "tmpfs", 0, 0));
	T(mount("x", "none2", "tmpfs", 0, 0));
	T(statfs("/proc", &s));
	printf("%lx\n", (long)s.f_type);
}

int main(void)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	char base[] = "/tmp/filesXXXXXX";
	umask(022);
	T(mkdtemp(base) ? 0 : -1);
	T(chdir(base));
	opens();
	directories();
	links();
	renames();
	modes();
	mounts();
	return 0;
}
