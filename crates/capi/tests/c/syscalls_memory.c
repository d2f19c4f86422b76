// run: MACHVM_FAULTS=signal
// run: MACHVM_FAULTS=thread
/* mlock, madvise, mincore, msync, mprotect and munmap on library memory. */
#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <sys/mman.h>

#define FAILS(error, call) \
    do { \
        errno = 0; \
        EQUAL((long) (call), -1); \
        EQUAL(errno, error); \
    } while (0)

static unsigned resident(mach_vm_address_t a, unsigned pages) {
    unsigned char vec[4096];
    unsigned sum = 0;
    memset(vec, 0xee, sizeof vec);
    EQUAL(mincore(AT(a), pages * PAGE, vec), 0);
    for (unsigned i = 0; i < pages; i++) sum += vec[i] & 1;
    EQUAL(vec[pages], 0xee);
    return sum;
}

int main(void) {
    mach_vm_address_t a = new_memory(64 * PAGE);
    catch_faults();
    EQUAL(resident(a, 64), 0);
    AT(a)[0] = 1;
    CHECK(resident(a, 64) >= 1);
    EQUAL(mlock(AT(a + 100), 20 * PAGE), 0); /* 21 pages */
    CHECK(resident(a, 21) == 21);
    vm_region_basic_info_data_64_t info;
    mach_vm_address_t at = a;
    mach_vm_size_t size;
    OK(region(SELF, &at, &size, &info));
    CHECK(info.user_wired_count == 1);
    EQUAL(mlock(AT(a), PAGE), 0);
    EQUAL(munlock(AT(a), 21 * PAGE), 0); /* as often as it was locked */
    at = a;
    OK(region(SELF, &at, &size, &info));
    EQUAL(info.user_wired_count, 0);
    FAILS(ENOMEM, mlock(AT(a), 65 * PAGE));
    FAILS(ENOMEM, munlock(AT(a), 65 * PAGE));

    EQUAL(madvise(AT(a), 64 * PAGE, MADV_WILLNEED), 0);
    EQUAL(resident(a, 64), 64);
    fill(a, 64 * PAGE, 1);
    EQUAL(madvise(AT(a + PAGE), 2 * PAGE, MADV_DONTNEED), 0);
    CHECK(zero(a + PAGE, 2 * PAGE));
    CHECK(holds(a + 3 * PAGE, 61 * PAGE, 3 * PAGE, 1) && holds(a, PAGE, 0, 1));
    for (int advice = 0; advice < 4; advice++) EQUAL(madvise(AT(a), 64 * PAGE, advice), 0);
    EQUAL(mlock(AT(a), PAGE), 0);
    FAILS(EINVAL, madvise(AT(a), PAGE, MADV_DONTNEED));
    EQUAL(munlock(AT(a), PAGE), 0);
    FAILS(EINVAL, madvise(AT(a + 1), PAGE, MADV_NORMAL));
    FAILS(EINVAL, madvise(AT(a), PAGE, 12345));
    FAILS(ENOMEM, madvise(AT(a), 65 * PAGE, MADV_NORMAL));
    EQUAL(posix_madvise(AT(a), 64 * PAGE, POSIX_MADV_DONTNEED), 0);
    CHECK(holds(a + 3 * PAGE, 61 * PAGE, 3 * PAGE, 1)); /* loses nothing */
    EQUAL(posix_madvise(AT(a), 65 * PAGE, POSIX_MADV_NORMAL), ENOMEM);

    unsigned char vec[100];
    FAILS(EINVAL, mincore(AT(a + 1), PAGE, vec));
    FAILS(ENOMEM, mincore(AT(a), 65 * PAGE, vec));
    FAILS(EFAULT, mincore(AT(a), PAGE, (unsigned char *) 8));
    EQUAL(mincore(AT(a), 64 * PAGE, AT(a)), 0); /* into itself */
    EQUAL(AT(a)[63], 1);

    EQUAL(msync(AT(a), 64 * PAGE, MS_SYNC), 0);
    FAILS(EINVAL, msync(AT(a), PAGE, MS_SYNC | MS_ASYNC));
    FAILS(ENOMEM, msync(AT(a), 65 * PAGE, MS_ASYNC));

    EQUAL(mprotect(AT(a + 8 * PAGE), PAGE, PROT_READ), 0);
    EQUAL(rights(SELF, a + 8 * PAGE), VM_PROT_READ);
    EQUAL(WRITE_FAULT(a + 8 * PAGE), SIGBUS);
    EQUAL(mprotect(AT(a + 8 * PAGE), PAGE, PROT_READ | PROT_WRITE), 0);
    EQUAL(WRITE_FAULT(a + 8 * PAGE), 0);
    FAILS(ENOMEM, mprotect(AT(a), 65 * PAGE, PROT_READ));
    EQUAL(WRITE_FAULT(a), 0);
    OK(mach_vm_protect(SELF, a + 9 * PAGE, PAGE, 1, VM_PROT_READ));
    FAILS(EACCES, mprotect(AT(a + 9 * PAGE), PAGE, PROT_READ | PROT_WRITE));

    /* Nothing may take the place of what is the VM's. */
    FAILS(EINVAL, mmap(AT(a), PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    FAILS(EINVAL, mremap(AT(a), PAGE, 2 * PAGE, MREMAP_MAYMOVE));
    CHECK(holds(a + 10 * PAGE, 54 * PAGE, 10 * PAGE, 1));

    EQUAL(munmap(AT(a + 32 * PAGE), 32 * PAGE), 0);
    EQUAL(READ_FAULT(a + 32 * PAGE), SIGSEGV);
    EQUAL(rights(SELF, a + 32 * PAGE), -1);
    FAILS(EINVAL, munmap(AT(a + 1), PAGE));
    EQUAL(munmap(AT(a), 32 * PAGE), 0);
    EQUAL(new_memory(PAGE), a);

    /* The program's own memory is Linux's, as ever. */
    unsigned char *own = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(own != MAP_FAILED);
    own[0] = 1;
    EQUAL(mlock(own, PAGE), 0);
    EQUAL(munlock(own, PAGE), 0);
    EQUAL(mincore(own, PAGE, vec), 0);
    EQUAL(madvise(own, PAGE, MADV_DONTNEED), 0);
    EQUAL(own[0], 0);
    EQUAL(mprotect(own, PAGE, PROT_NONE), 0);
    EQUAL(munmap(own, 4 * PAGE), 0);
    return 0;
}
