// run: MACHVM_FAULTS=signal MACHVM_MEMORY=4M
// run: MACHVM_FAULTS=thread MACHVM_MEMORY=4M
/* read, write, their kin and stdio on library memory: absent, paged out, denied. */
#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/uio.h>

#define MIB (1u << 20)

static int file(void) {
    int fd = memfd_create("test", 0);
    CHECK(fd >= 0);
    return fd;
}

#define EFAULTS(call) \
    do { \
        errno = 0; \
        EQUAL((long) (call), -1); \
        EQUAL(errno, EFAULT); \
    } while (0)

/* Twice the memory there is: through a file and back. */
static void large(void) {
    mach_vm_address_t a = new_memory(8 * MIB), b = new_memory(8 * MIB);
    int fd = file();
    fill(a, 8 * MIB, 1);
    EQUAL(write(fd, AT(a), 8 * MIB), 8 * MIB);
    EQUAL(pread(fd, AT(b), 8 * MIB, 0), 8 * MIB);
    CHECK(holds(b, 8 * MIB, 0, 1));
    OK(mach_vm_deallocate(SELF, b, 8 * MIB));
    b = new_memory(8 * MIB);
    CHECK(lseek(fd, 5, SEEK_SET) == 5);
    EQUAL(read(fd, AT(b + 3), 4 * MIB), 4 * MIB);
    EQUAL(read(fd, AT(b + 3 + 4 * MIB), 4 * MIB - 3), 4 * MIB - 5); /* the end of the file */
    CHECK(holds(b + 3, 8 * MIB - 5, 5, 1));
    EQUAL(pwrite(fd, AT(a), 3 * MIB, 100), 3 * MIB);
    EQUAL(pread(fd, AT(b), 3 * MIB, 100), 3 * MIB);
    CHECK(holds(b, 3 * MIB, 0, 1));
    close(fd);
    OK(mach_vm_deallocate(SELF, a, 8 * MIB));
    OK(mach_vm_deallocate(SELF, b, 8 * MIB));
}

static void denied(void) {
    mach_vm_address_t a = new_memory(4 * PAGE);
    int p[2];
    CHECK(pipe(p) == 0);
    fill(a, 4 * PAGE, 2);
    OK(mach_vm_protect(SELF, a + PAGE, PAGE, 0, VM_PROT_READ));
    OK(mach_vm_protect(SELF, a + 3 * PAGE, PAGE, 0, VM_PROT_NONE));
    CHECK(write(p[1], "0123456789", 10) == 10);
    /* Nothing is taken from the pipe, nothing of the memory changes. */
    EFAULTS(read(p[0], AT(a + PAGE), 10));
    EFAULTS(read(p[0], AT(a + 3 * PAGE), 10));
    EFAULTS(read(p[0], AT(a + 4 * PAGE), 10));
    CHECK(holds(a, 3 * PAGE, 0, 2));
    EQUAL(read(p[0], AT(a), 100), 10);
    CHECK(memcmp(AT(a), "0123456789", 10) == 0);
    EFAULTS(write(p[1], AT(a + 3 * PAGE), 10));
    EQUAL(write(p[1], AT(a + PAGE), 10), 10);
    EQUAL(read(p[0], AT(a), 100), 10);
    /* Files: as far as it may be written, and as far as it may be read. */
    int fd = file();
    CHECK(write(fd, "0123456789", 10) == 10);
    EQUAL(pread(fd, AT(a + PAGE - 4), 10, 0), 4);
    CHECK(memcmp(AT(a + PAGE - 4), "0123", 4) == 0);
    EQUAL(pwrite(fd, AT(a + 3 * PAGE - 4), 10, 0), 4);
    close(fd);
    /* Calls that are wrong for other reasons. */
    errno = 0;
    CHECK(read(-1, AT(a), 10) == -1 && errno == EBADF);
    CHECK(write(-1, AT(a), 10) == -1 && errno == EBADF);
    CHECK(fcntl(p[0], F_SETFL, O_NONBLOCK) == 0);
    CHECK(read(p[0], AT(a), 10) == -1 && errno == EAGAIN);
    EQUAL(read(p[0], AT(a), 0), 0);
    close(p[1]);
    EQUAL(read(p[0], AT(a), 10), 0);
    close(p[0]);
    OK(mach_vm_deallocate(SELF, a, 4 * PAGE));
}

static void vectors(void) {
    mach_vm_address_t a = new_memory(16 * PAGE), v = new_memory(PAGE);
    char local[100];
    int fd = file();
    struct iovec *parts = (struct iovec *) AT(v); /* the vector itself is library memory */
    fill(a, 16 * PAGE, 3);
    parts[0] = (struct iovec){AT(a + 7), 2 * PAGE};
    parts[1] = (struct iovec){local, sizeof local};
    parts[2] = (struct iovec){AT(a + 5 * PAGE), 3 * PAGE + 1};
    memset(local, 'x', sizeof local);
    EQUAL(writev(fd, parts, 3), 5 * PAGE + 101);
    memset(local, 0, sizeof local);
    mach_vm_address_t b = new_memory(16 * PAGE);
    parts[0].iov_base = AT(b + 7);
    parts[2].iov_base = AT(b + 5 * PAGE);
    EQUAL(preadv(fd, parts, 3, 0), 5 * PAGE + 101);
    CHECK(holds(b + 7, 2 * PAGE, 7, 3) && holds(b + 5 * PAGE, 3 * PAGE + 1, 5 * PAGE, 3));
    CHECK(local[0] == 'x' && local[99] == 'x');
    /* A part that is denied ends it. */
    OK(mach_vm_protect(SELF, b + 5 * PAGE, PAGE, 0, VM_PROT_READ));
    EQUAL(preadv(fd, parts, 3, 0), 2 * PAGE + 100);
    parts[0].iov_base = AT(b + 5 * PAGE);
    EFAULTS(preadv(fd, parts, 3, 0));
    CHECK(holds(b + 5 * PAGE, PAGE, 5 * PAGE, 3));
    volatile int minus = -1;
    CHECK(readv(fd, parts, minus) == -1 && errno == EINVAL);
    CHECK(readv(fd, parts, 1025) == -1 && errno == EINVAL);
    OK(mach_vm_deallocate(SELF, a, 16 * PAGE));
    OK(mach_vm_deallocate(SELF, b, 16 * PAGE));
    EFAULTS(readv(fd, (struct iovec *) AT(b), 1));
    close(fd);
    OK(mach_vm_deallocate(SELF, v, PAGE));
}

static void stdio(void) {
    mach_vm_address_t a = new_memory(MIB), b = new_memory(MIB);
    FILE *f = fdopen(file(), "w+");
    CHECK(f != NULL);
    fill(a, MIB, 4);
    EQUAL(fwrite(AT(a), 1000, 1048, f), 1048);
    rewind(f);
    EQUAL(fread(AT(b), 1000, 1048, f), 1048);
    CHECK(holds(b, 1048000, 0, 4));
    EQUAL(fread(AT(b), 1, 10, f), 0);
    CHECK(feof(f));
    rewind(f);
    EQUAL(fread(AT(b + 5), 1, 100, f), 100);
    EQUAL(fread(AT(b + 105), 1, MIB - 105, f), 1048000 - 100);
    CHECK(holds(b + 5, 1048000, 0, 4));
    /* Strings longer than a stream's buffer. */
    memset(AT(a), 'y', 300000);
    AT(a)[300000] = 0;
    rewind(f);
    CHECK(fputs((char *) AT(a), f) >= 0);
    rewind(f);
    CHECK(fgets((char *) AT(b), 300001, f) == (char *) AT(b));
    CHECK(strcmp((char *) AT(a), (char *) AT(b)) == 0);
    CHECK(freopen("/dev/null", "w", stdout) != NULL);
    CHECK(puts((char *) AT(a)) >= 0 && fflush(stdout) == 0);
    /* A buffer of library memory. */
    CHECK(setvbuf(f, (char *) AT(b), _IOFBF, 8192) == 0);
    rewind(f);
    CHECK(fputs("buffered", f) >= 0 && fflush(f) == 0);
    rewind(f);
    CHECK(fgetc(f) == 'b');
    fclose(f);
    OK(mach_vm_deallocate(SELF, a, MIB));
    OK(mach_vm_deallocate(SELF, b, MIB));
}

/* A thread that waits in a read can be cancelled. */
static int ends[2];
static volatile int cleaned;

static void clean(void *unused) {
    (void) unused;
    cleaned = 1;
}

static void *waits(void *at) {
    pthread_cleanup_push(clean, NULL);
    EQUAL(read(ends[0], at, 10), 10);
    pthread_cleanup_pop(0);
    return NULL;
}

static void cancelled(void) {
    mach_vm_address_t a = new_memory(PAGE);
    pthread_t thread;
    void *result;
    CHECK(pipe(ends) == 0);
    CHECK(pthread_create(&thread, NULL, waits, AT(a)) == 0);
    usleep(20000);
    CHECK(pthread_cancel(thread) == 0);
    CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED && cleaned);
    OK(mach_vm_deallocate(SELF, a, PAGE));
}

int main(void) {
    large();
    denied();
    vectors();
    stdio();
    cancelled();
    return 0;
}
