/* mach_vm_msync and vm_msync: row U29, traps Z85, Z86. */
#include "check.h"

static void u29_keeps_anonymous_contents(void) {
    mach_vm_address_t at = new_memory(4 * PAGE);
    fill(at, 4 * PAGE, 1);
    OK(mach_vm_msync(SELF, at, 4 * PAGE, VM_SYNC_SYNCHRONOUS));
    OK(mach_vm_msync(SELF, at, 4 * PAGE, VM_SYNC_ASYNCHRONOUS));
    OK(vm_msync(SELF, at, 4 * PAGE, VM_SYNC_SYNCHRONOUS | VM_SYNC_INVALIDATE));
    OK(vm_msync(SELF, at, 4 * PAGE, VM_SYNC_DEACTIVATE));
    CHECK(holds(at, 4 * PAGE, 0, 1));
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

static void u29_killpages_forgets(void) {
    mach_vm_address_t at = new_memory(4 * PAGE);
    fill(at, 4 * PAGE, 1);
    OK(mach_vm_msync(SELF, at + PAGE, 2 * PAGE, VM_SYNC_KILLPAGES));
    CHECK(holds(at, PAGE, 0, 1) && zero(at + PAGE, 2 * PAGE) && holds(at + 3 * PAGE, PAGE, 3 * PAGE, 1));
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

static void u29_codes(void) {
    mach_vm_address_t at = new_memory(3 * PAGE);
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_msync(SELF, at, PAGE, VM_SYNC_SYNCHRONOUS | VM_SYNC_ASYNCHRONOUS));
    OK(mach_vm_msync(SELF, at, 0, VM_SYNC_SYNCHRONOUS));
    OK(mach_vm_deallocate(SELF, at + PAGE, PAGE));
    OK(mach_vm_msync(SELF, at, 3 * PAGE, VM_SYNC_SYNCHRONOUS));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_msync(SELF, at, 3 * PAGE, VM_SYNC_SYNCHRONOUS | VM_SYNC_CONTIGUOUS));
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_msync(MACH_PORT_NULL, at, PAGE, VM_SYNC_SYNCHRONOUS));
    RETURNS(MACH_SEND_INVALID_DEST, vm_msync(MACH_PORT_NULL, at, PAGE, VM_SYNC_SYNCHRONOUS));
    OK(mach_vm_deallocate(SELF, at, 3 * PAGE));
}

int main(void) {
    u29_keeps_anonymous_contents();
    u29_killpages_forgets();
    u29_codes();
    return 0;
}
