// run: MACHVM_FAULTS=auto
// run: MACHVM_FAULTS=signal
// cc: -pthread
/* The contract on faults: which signal, at which address, whenever the handler was installed. */
#define _GNU_SOURCE
#include "check.h"
#include <pthread.h>

static void everywhere(const char *when) {
    mach_vm_address_t at = new_memory(16 * PAGE);
    (void) when;
    fill(at, 16 * PAGE, 1);
    OK(mach_vm_protect(SELF, at + 4 * PAGE, PAGE, FALSE, VM_PROT_READ));
    OK(mach_vm_protect(SELF, at + 6 * PAGE, PAGE, FALSE, VM_PROT_NONE));
    OK(mach_vm_deallocate(SELF, at + 8 * PAGE, PAGE));
    mach_vm_size_t offsets[] = {0, 1, 8, 2048, 4088, 4095};
    for (int i = 0; i < 6; i++) {
        mach_vm_size_t o = offsets[i];
        EQUAL(READ_FAULT(at + 4 * PAGE + o), 0);
        FAULTS(SIGBUS, WRITE_FAULT(at + 4 * PAGE + o), at + 4 * PAGE + o);
        FAULTS(SIGBUS, READ_FAULT(at + 6 * PAGE + o), at + 6 * PAGE + o);
        FAULTS(SIGBUS, WRITE_FAULT(at + 6 * PAGE + o), at + 6 * PAGE + o);
        FAULTS(SIGSEGV, READ_FAULT(at + 8 * PAGE + o), at + 8 * PAGE + o);
        FAULTS(SIGSEGV, WRITE_FAULT(at + 8 * PAGE + o), at + 8 * PAGE + o);
        EQUAL(READ_FAULT(at + 9 * PAGE + o), 0);
        EQUAL(WRITE_FAULT(at + 7 * PAGE + o), 0);
    }
    OK(mach_vm_deallocate(SELF, at, 16 * PAGE));
    /* outside the library's memory everything is as it was */
    FAULTS(SIGSEGV, READ_FAULT(16), 16);
    FAULTS(SIGSEGV, WRITE_FAULT(24), 24);
}

static void *in_a_thread(void *what) {
    everywhere(what);
    return NULL;
}

/* A program that does not handle them ends of them. */
static int end_of(void (*what)(void)) {
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        what();
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void quiet(void) {
    signal(SIGSEGV, SIG_DFL);
    signal(SIGBUS, SIG_DFL);
}

static void touch_unmapped(void) {
    quiet();
    mach_vm_address_t at = new_memory(PAGE);
    OK(mach_vm_deallocate(SELF, at, PAGE));
    *(volatile char *) AT(at) = 1;
}

static void touch_protected(void) {
    quiet();
    mach_vm_address_t at = new_memory(PAGE);
    OK(mach_vm_protect(SELF, at, PAGE, FALSE, VM_PROT_READ));
    *(volatile char *) AT(at) = 1;
}

static void touch_fresh(void) {
    quiet();
    mach_vm_address_t at = new_memory(PAGE);
    *(volatile char *) AT(at) = 1;
    CHECK(AT(at)[0] == 1);
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

int main(void) {
    pthread_t thread;
    /* Each in a process of its own, which has not used the library before. */
    EQUAL(end_of(touch_unmapped), SIGSEGV);
    EQUAL(end_of(touch_protected), SIGBUS);
    EQUAL(end_of(touch_fresh), 0);

    catch_faults(); /* before the first call */
    everywhere("handler first");
    catch_faults(); /* and after it */
    everywhere("library first");
    CHECK(pthread_create(&thread, NULL, in_a_thread, "a thread") == 0);
    CHECK(pthread_join(thread, NULL) == 0);

    /* sigaction tells of the program's handler, not of anybody else's */
    struct sigaction now;
    CHECK(sigaction(SIGBUS, NULL, &now) == 0);
    CHECK(now.sa_sigaction == on_fault_ && (now.sa_flags & SA_SIGINFO));
    CHECK(signal(SIGSEGV, SIG_DFL) == (sighandler_t) (void *) on_fault_);
    mach_vm_address_t at = new_memory(4 * PAGE); /* faults are still served */
    fill(at, 4 * PAGE, 1);
    CHECK(holds(at, 4 * PAGE, 0, 1));
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
    return 0;
}
