// run: MACHVM_PERSONALITY=mach3
/* vm_copy as the manual page of Mach 3 has it: pages only (U16). */
#include "check.h"

static void u16_pages_only(void) {
    vm_address_t from = 0, to = 0;
    OK(vm_allocate(SELF, &from, 4 * PAGE, TRUE));
    OK(vm_allocate(SELF, &to, 4 * PAGE, TRUE));
    fill(from, 4 * PAGE, 1);
    OK(vm_copy(SELF, from, 4 * PAGE, to));
    CHECK(holds(to, 4 * PAGE, 0, 1));
    RETURNS(KERN_INVALID_ARGUMENT, vm_copy(SELF, from + 1, PAGE, to));
    RETURNS(KERN_INVALID_ARGUMENT, vm_copy(SELF, from, PAGE + 1, to));
    RETURNS(KERN_INVALID_ARGUMENT, vm_copy(SELF, from, PAGE, to + 1));
    OK(vm_copy(SELF, from, PAGE, from + PAGE));
    CHECK(holds(from + PAGE, PAGE, 0, 1));
    OK(vm_deallocate(SELF, from, 4 * PAGE));
    OK(vm_deallocate(SELF, to, 4 * PAGE));
}

int main(void) {
    u16_pages_only();
    return 0;
}
