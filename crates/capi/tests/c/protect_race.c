// run: MACHVM_FAULTS=auto
// run: MACHVM_FAULTS=signal
// timeout: 120
/* Copies against changes of protection: nothing is written where the right is gone (Z103). */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>

static mach_vm_address_t from, to;
static atomic_int stop;

static void *copier(void *arg) {
    (void) arg;
    while (!stop) {
        kern_return_t kr = mach_vm_copy(SELF, from + 1, 3 * PAGE, to + 1);
        CHECK(kr == KERN_SUCCESS || kr == KERN_PROTECTION_FAILURE || kr == KERN_INVALID_ADDRESS);
    }
    return NULL;
}

int main(void) {
    pthread_t thread;
    from = new_memory(4 * PAGE);
    to = new_memory(4 * PAGE);
    fill(from, 4 * PAGE, 1);
    CHECK(pthread_create(&thread, NULL, copier, NULL) == 0);
    for (int i = 0; i < 400; i++) {
        OK(mach_vm_protect(SELF, to + PAGE, PAGE, FALSE, VM_PROT_READ));
        unsigned char before[64], after[64];
        memcpy(before, AT(to + PAGE + 1000), 64);
        /* while it is read-only, only the other thread could write it */
        for (volatile int spin = 0; spin < 2000; spin++) {}
        memcpy(after, AT(to + PAGE + 1000), 64);
        CHECK(memcmp(before, after, 64) == 0);
        OK(mach_vm_protect(SELF, to + PAGE, PAGE, FALSE, VM_PROT_DEFAULT));
        memset(AT(to + PAGE + 1000), i, 64);
    }
    stop = 1;
    CHECK(pthread_join(thread, NULL) == 0);
    return 0;
}
