// A deep tree that goes at once, many files, names that race, files that are gone but open. The same on Linux as in
// our kernel.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
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

// The lines of a file with this in them.
static int lines(const char *file, const char *with)
{
	char line[4096];
	int n = 0;
	FILE *f = fopen(file, "r");
	while (f && fgets(line, sizeof line, f))
		n += strstr(line, with) != NULL;
	if (f)
		fclose(f);
	return n;
}

int main(void)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	char base[] = "/tmp/treeXXXXXX", name[64];
	T(mkdtemp(base) ? 0 : -1);
	T(chdir(base));
	T(mkdir("m", 0700));
	T(mount("none", "m", "tmpfs", 0, 0));
	T(chdir("m"));
	int deep = 0;
	for (int i = 0; i < 1500; i++)
		deep += mkdir("d", 0700) == 0 && chdir("d") == 0;
	T(deep);
	char *cwd = getcwd(NULL, 0);
	T(cwd && strlen(cwd) > 3000 ? 0 : -1);
	T(chdir(base));
	T(umount("m"));
	T(rmdir("m"));

	T(mkdir("many", 0700));
	T(chdir("many"));
	int made = 0;
	for (int i = 0; i < 3000; i++) {
		sprintf(name, "f%d", i);
		int fd = open(name, O_CREAT | O_WRONLY, 0600);
		made += fd >= 0 && write(fd, name, strlen(name)) > 0;
		close(fd);
	}
	T(made);
	int seen = 0, right = 0;
	DIR *d = opendir(".");
	struct dirent *e;
	while ((e = readdir(d)))
		if (e->d_name[0] == 'f') {
			char b[64] = "";
			int fd = openat(dirfd(d), e->d_name, O_RDONLY);
			seen++;
			right += read(fd, b, 63) > 0 && !strcmp(b, e->d_name);
			close(fd);
		}
	closedir(d);
	T(seen);
	T(right);
	for (int i = 0; i < 3000; i++) {
		sprintf(name, "f%d", i);
		unlink(name);
	}
	T(chdir(".."));
	T(rmdir("many"));

	// Of eight that make one name, one does.
	int won = 0, st;
	for (int i = 0; i < 8; i++)
		if (!fork())
			_exit(open("only", O_CREAT | O_EXCL, 0600) >= 0);
	while (wait(&st) > 0)
		won += WEXITSTATUS(st);
	T(won);
	// Appends of several do not overwrite each other.
	for (int i = 0; i < 4; i++)
		if (!fork()) {
			int fd = open("log", O_CREAT | O_WRONLY | O_APPEND, 0600);
			for (int k = 0; k < 200; k++)
				write(fd, "0123456789abcde\n", 16);
			_exit(0);
		}
	while (wait(&st) > 0)
		;
	T(lines("log", "0123456789abcde"));
	// Gone, but open.
	int fd = open("log", O_RDWR);
	T(unlink("log"));
	struct stat s;
	T(fstat(fd, &s));
	printf("%ld %ld\n", (long)s.st_nlink, (long)s.st_size);
	sprintf(name, "/proc/self/fd/%d", fd);
	char to[200] = "";
	T(readlink(name, to, 199) > 0);
	T(strstr(to, "/log (deleted)") ? 1 : 0);
	int again = open(name, O_RDWR | O_TRUNC);
	T(again >= 0);
	T(fstat(fd, &s));
	printf("%ld %ld\n", (long)s.st_nlink, (long)s.st_size);
	// What /proc says of this process.
	T(lines("/proc/self/status", "Threads:\t1"));
	T(lines("/proc/self/maps", "[stack]"));
	T(lines("/proc/self/comm", "tree"));
	T(lines("/proc/mounts", "proc /proc proc") > 0);
	T(lines("/proc/meminfo", "MemFree:"));
	T(lines("/proc/self/nothing", ""));
	T(open("/proc/99999999", O_RDONLY));
	T(open("/proc/nothing", O_CREAT | O_WRONLY, 0600));
	T(mkdir("/proc/x", 0700));
	T(unlink("/proc/meminfo"));
	T(readlink("/proc/self", to, 1) == 1);
	T(chdir("/proc/self/cwd"));
	T(access("only", F_OK));
	T(unlink("only"));
	T(rmdir(base));
	return 0;
}
