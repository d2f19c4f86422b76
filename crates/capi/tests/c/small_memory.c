// run: MACHVM_MEMORY=8M MACHVM_FAULTS=auto
// run: MACHVM_MEMORY=8M MACHVM_FAULTS=signal
/* More memory than there is: contents come back, also through copies and other tasks. */
#include "check.h"

enum { PAGES = 6000 }; /* 24 MiB */

int main(void) {
    mach_vm_address_t at = new_memory(PAGES * PAGE), copy = new_memory(PAGES * PAGE);
    for (unsigned i = 0; i < PAGES; i++) *(uint64_t *) AT(at + i * PAGE + 8) = i * 7919ull;
    OK(mach_vm_copy(SELF, at, PAGES * PAGE, copy));
    for (unsigned i = 0; i < PAGES; i += 2) *(uint64_t *) AT(at + i * PAGE + 8) = 1;
    task_t child;
    OK(task_create(SELF, NULL, 0, TRUE, &child));
    for (unsigned i = 0; i < PAGES; i++) {
        EQUAL(*(uint64_t *) AT(copy + i * PAGE + 8), i * 7919ull);
        EQUAL(*(uint64_t *) AT(at + i * PAGE + 8), i % 2 ? i * 7919ull : 1);
    }
    for (unsigned i = 0; i < PAGES; i += 97) {
        uint64_t word;
        mach_vm_size_t got;
        OK(mach_vm_read_overwrite(child, copy + i * PAGE + 8, 8, (mach_vm_address_t) (uintptr_t) &word, &got));
        EQUAL(word, i * 7919ull);
    }
    OK(task_terminate(child));
    return 0;
}
