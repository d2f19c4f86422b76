/* mach_vm_deallocate and vm_deallocate: row U04, traps Z05, Z07. */
#include "check.h"

static void u04_takes_whole_pages(void) {
    mach_vm_address_t at = new_memory(4 * PAGE);
    fill(at, 4 * PAGE, 1);
    OK(mach_vm_deallocate(SELF, at + PAGE + 100, 1)); /* the page around it */
    EQUAL(rights(SELF, at), VM_PROT_DEFAULT);
    EQUAL(rights(SELF, at + PAGE), -1);
    EQUAL(rights(SELF, at + 2 * PAGE), VM_PROT_DEFAULT);
    CHECK(holds(at, PAGE, 0, 1) && holds(at + 2 * PAGE, 2 * PAGE, 2 * PAGE, 1));
    FAULTS(SIGSEGV, READ_FAULT(at + PAGE), at + PAGE);
    FAULTS(SIGSEGV, WRITE_FAULT(at + PAGE + 4095), at + PAGE + 4095);
    OK(vm_deallocate(SELF, at, 4 * PAGE)); /* with the hole */
    EQUAL(rights(SELF, at), -1);
    EQUAL(rights(SELF, at + 3 * PAGE), -1);
}

static void u04_what_is_not_mapped_is_no_error(void) {
    mach_vm_address_t at = new_memory(PAGE);
    OK(mach_vm_deallocate(SELF, at, PAGE));
    OK(mach_vm_deallocate(SELF, at, PAGE));
    OK(mach_vm_deallocate(SELF, at, 0));
    OK(mach_vm_deallocate(SELF, 0, 0));
}

static void z05_overflow(void) {
    mach_vm_address_t at = new_memory(PAGE);
    AT(at)[5] = 5;
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_deallocate(SELF, at, ~(mach_vm_size_t) 0));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_deallocate(SELF, ~(mach_vm_address_t) 0, 2 * PAGE));
    EQUAL(AT(at)[5], 5);
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

static void u04_sharers_keep_theirs(void) {
    mach_vm_address_t at = new_memory(2 * PAGE), other = 0;
    vm_prot_t cur, max;
    fill(at, 2 * PAGE, 3);
    OK(mach_vm_remap(SELF, &other, 2 * PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, FALSE, &cur, &max, VM_INHERIT_COPY));
    OK(mach_vm_deallocate(SELF, at, 2 * PAGE));
    CHECK(holds(other, 2 * PAGE, 0, 3));
    OK(mach_vm_deallocate(SELF, other, 2 * PAGE));
}

static void u04_fresh_memory_is_zero(void) {
    for (int i = 0; i < 50; i++) {
        mach_vm_address_t at = new_memory(4 * PAGE);
        CHECK(zero(at, 4 * PAGE));
        memset(AT(at), 0xff, 4 * PAGE);
        OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
    }
}

static void u04_no_task(void) {
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_deallocate(MACH_PORT_NULL, PAGE, PAGE));
    RETURNS(MACH_SEND_INVALID_DEST, vm_deallocate(MACH_PORT_NULL, PAGE, PAGE));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_deallocate(mach_host_self(), PAGE, PAGE));
}

int main(void) {
    catch_faults();
    u04_takes_whole_pages();
    u04_what_is_not_mapped_is_no_error();
    z05_overflow();
    u04_sharers_keep_theirs();
    u04_fresh_memory_is_zero();
    u04_no_task();
    return 0;
}
