// run: MACHVM_FAULTS=signal MACHVM_MEMORY=1M
// run: MACHVM_FAULTS=thread MACHVM_MEMORY=1M
/* Actions for SIGSEGV and SIGBUS that are set after the first call, and blocked signals. */
#define _GNU_SOURCE
#include "check.h"

#include <pthread.h>

static volatile sig_atomic_t plain;

static void on_signal(int signal) {
    plain = signal;
    siglongjmp(fault_.back, 1);
}

static void *with_all_blocked(void *at) {
    sigset_t all;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_BLOCK, &all, NULL) == 0);
    fill((mach_vm_address_t) (uintptr_t) at, 4 << 20, 9);
    CHECK(holds((mach_vm_address_t) (uintptr_t) at, 4 << 20, 0, 9));
    return NULL;
}

int main(void) {
    mach_vm_address_t a = new_memory(4 << 20);
    struct sigaction was;
    fill(a, 4 << 20, 1); /* the library's handlers are there, and work */
    CHECK(sigaction(SIGBUS, NULL, &was) == 0 && was.sa_handler == SIG_DFL);
    catch_faults();
    CHECK(sigaction(SIGBUS, NULL, &was) == 0 && was.sa_sigaction == on_fault_ && was.sa_flags & SA_SIGINFO);
    CHECK(holds(a, 4 << 20, 0, 1)); /* and still do */
    OK(mach_vm_protect(SELF, a + PAGE, PAGE, 0, VM_PROT_READ));
    EQUAL(WRITE_FAULT(a + PAGE + 5), SIGBUS);
    EQUAL((uintptr_t) fault_.address, a + PAGE + 5);
    OK(mach_vm_deallocate(SELF, a + 2 * PAGE, PAGE));
    EQUAL(READ_FAULT(a + 2 * PAGE), SIGSEGV);
    EQUAL((uintptr_t) fault_.address, a + 2 * PAGE);
    EQUAL(READ_FAULT(8), SIGSEGV); /* not the library's at all */
    EQUAL((uintptr_t) fault_.address, 8);

    CHECK(signal(SIGBUS, on_signal) == (void (*)(int))(void *) on_fault_);
    EQUAL(WRITE_FAULT(a + PAGE), 0);
    EQUAL(plain, SIGBUS);
    CHECK(signal(SIGBUS, SIG_DFL) == on_signal);
    CHECK(holds(a + 3 * PAGE, (4 << 20) - 3 * PAGE, 3 * PAGE, 1));

    pthread_t thread;
    mach_vm_address_t b = new_memory(4 << 20);
    CHECK(pthread_create(&thread, NULL, with_all_blocked, AT(b)) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    return 0;
}
