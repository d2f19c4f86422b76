// mount(2) of a tmpfs with size= (tmpfs(5)): what is in its files, and no more; room comes back. Not for Linux, where not
// everybody may mount.
// kernel-test quota:
//> mounted: ok, blocks 16 free 16
//> written: 65536, then ENOSPC, free 0
//> over itself: 4096
//> another: ENOSPC
//> cut: free 12, another: 4096
//> a hole is nothing: ok, free 11
//> fallocate: ENOSPC, a little: ok
//> mapped: ok
//> unlinked: free 16
//> open, unlinked: free 15, closed: free 16
//> odd size: EINVAL
//> without limit: ok, more: ok
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

static char block[4096];

static const char *name(long r) { return r < 0 ? strerrorname_np(errno) : "ok"; }
static long room(void) {
  struct statfs s;
  return statfs("/tmp/small", &s) ? -1 : (long)s.f_bfree;
}
static long blocks(void) {
  struct statfs s;
  return statfs("/tmp/small", &s) ? -1 : (long)s.f_blocks;
}

int main(void) {
  memset(block, 7, sizeof block);
  mkdir("/tmp/small", 0755);
  const char *how = name(mount("none", "/tmp/small", "tmpfs", 0, "mode=755,size=64k"));
  printf("mounted: %s, blocks %ld free %ld\n", how, blocks(), room());
  int a = open("/tmp/small/a", O_RDWR | O_CREAT, 0600), b = open("/tmp/small/b", O_RDWR | O_CREAT, 0600);
  long sum = 0, n;
  while ((n = write(a, block, 1000)) > 0) sum += n;
  how = name(n);
  printf("written: %ld, then %s, free %ld\n", sum, how, room());
  printf("over itself: %zd\n", pwrite(a, block, 4096, 8192));
  printf("another: %s\n", name(write(b, block, 1)));
  ftruncate(a, 16384);
  long left = room();
  printf("cut: free %ld, another: %zd\n", left, write(b, block, 4096));
  how = name(ftruncate(b, 1 << 20));
  printf("a hole is nothing: %s, free %ld\n", how, room());
  how = name(fallocate(b, 0, 0, 1 << 20));
  ftruncate(b, 4096);
  printf("fallocate: %s, a little: %s\n", how, name(fallocate(b, 0, 4096, 8192)));
  char *p = mmap(0, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
  memset(p, 1, 16384);
  printf("mapped: %s\n", p[16383] == 1 ? "ok" : "no");
  munmap(p, 16384);
  close(a), close(b);
  unlink("/tmp/small/a"), unlink("/tmp/small/b");
  printf("unlinked: free %ld\n", room());
  a = open("/tmp/small/c", O_RDWR | O_CREAT, 0600);
  write(a, block, 10);
  unlink("/tmp/small/c");
  left = room();
  close(a);
  printf("open, unlinked: free %ld, closed: free %ld\n", left, room());
  umount("/tmp/small");
  printf("odd size: %s\n", name(mount("none", "/tmp/small", "tmpfs", 0, "size=many")));
  how = name(mount("none", "/tmp/small", "tmpfs", 0, ""));
  a = open("/tmp/small/a", O_RDWR | O_CREAT, 0600);
  for (int i = 0; i < 100; i++) n = write(a, block, 4096);
  printf("without limit: %s, more: %s\n", how, name(n));
  close(a);
  umount("/tmp/small");
  rmdir("/tmp/small");
  return 0;
}
