// run: MACHVM_FAULTS=auto
// run: MACHVM_FAULTS=signal
/* Deallocating everything kills the task. */
#include "check.h"

int main(void) {
    int status = 0;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        mach_vm_address_t at = new_memory(PAGE);
        AT(at)[0] = 1;
        /* from the first page to the last: the stack, the text and all */
        mach_vm_deallocate(SELF, MACH_VM_MIN_ADDRESS, MACH_VM_MAX_ADDRESS - MACH_VM_MIN_ADDRESS);
        _exit(0); /* not reached */
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status));

    /* Another task has nothing left, and lives. */
    task_t task;
    mach_vm_address_t at = 0, found = 0;
    mach_vm_size_t size;
    vm_region_basic_info_data_64_t info;
    OK(task_create(SELF, NULL, 0, FALSE, &task));
    OK(mach_vm_allocate(task, &at, 10 * PAGE, VM_FLAGS_ANYWHERE));
    OK(mach_vm_deallocate(task, 0, MACH_VM_MAX_ADDRESS));
    RETURNS(KERN_INVALID_ADDRESS, region(task, &found, &size, &info));
    OK(mach_vm_allocate(task, &at, PAGE, VM_FLAGS_ANYWHERE));
    OK(task_terminate(task));
    return 0;
}
