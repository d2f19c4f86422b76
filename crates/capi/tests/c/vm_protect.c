// run: MACHVM_FAULTS=auto
// run: MACHVM_FAULTS=signal
/* mach_vm_protect and vm_protect: row U20, traps Z07, Z14, Z95; the contract on faults. */
#include "check.h"

static void u20_protected_memory_raises_sigbus(void) {
    mach_vm_address_t at = new_memory(3 * PAGE);
    fill(at, 3 * PAGE, 1);
    OK(mach_vm_protect(SELF, at + PAGE, PAGE, FALSE, VM_PROT_READ));
    CHECK(holds(at, 3 * PAGE, 0, 1));
    FAULTS(SIGBUS, WRITE_FAULT(at + PAGE), at + PAGE);
    FAULTS(SIGBUS, WRITE_FAULT(at + 2 * PAGE - 1), at + 2 * PAGE - 1);
    EQUAL(WRITE_FAULT(at + PAGE - 1), 0);
    EQUAL(WRITE_FAULT(at + 2 * PAGE), 0);
    OK(vm_protect(SELF, at + PAGE, PAGE, FALSE, VM_PROT_NONE));
    FAULTS(SIGBUS, READ_FAULT(at + PAGE + 123), at + PAGE + 123);
    FAULTS(SIGBUS, WRITE_FAULT(at + PAGE + 124), at + PAGE + 124);
    OK(mach_vm_protect(SELF, at + PAGE, PAGE, FALSE, VM_PROT_DEFAULT));
    CHECK(holds(at + PAGE, PAGE, PAGE, 1));
    EQUAL(WRITE_FAULT(at + PAGE), 0);
    OK(mach_vm_deallocate(SELF, at, 3 * PAGE));
}

static void u20_untouched_memory_too(void) {
    mach_vm_address_t at = new_memory(PAGE);
    OK(mach_vm_protect(SELF, at, PAGE, FALSE, VM_PROT_READ));
    FAULTS(SIGBUS, WRITE_FAULT(at + 7), at + 7);
    EQUAL(READ_FAULT(at + 7), 0);
    EQUAL(AT(at)[7], 0);
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

/* The first touch decides, as far as the MMU can tell. */
static void u20_write_without_read(void) {
    mach_vm_address_t at = new_memory(PAGE);
    OK(mach_vm_protect(SELF, at, PAGE, FALSE, VM_PROT_WRITE));
    FAULTS(SIGBUS, READ_FAULT(at + 9), at + 9);
    EQUAL(WRITE_FAULT(at + 9), 0);
    OK(mach_vm_protect(SELF, at, PAGE, FALSE, VM_PROT_READ));
    EQUAL(AT(at)[9], 0x5a);
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

/* READ without EXECUTE is not executable. */
static void u20_execute(void) {
    mach_vm_address_t at = new_memory(PAGE);
    OK(mach_vm_write(SELF, at, (vm_offset_t) "\xc3", 1)); /* ret */
    void (*code)(void);
    memcpy(&code, &at, sizeof code);
    FAULTS(SIGBUS, FAULT_OF(code()), at);
    OK(mach_vm_protect(SELF, at, PAGE, FALSE, VM_PROT_READ | VM_PROT_EXECUTE));
    EQUAL(FAULT_OF(code()), 0);
    OK(mach_vm_protect(SELF, at, PAGE, FALSE, VM_PROT_READ));
    FAULTS(SIGBUS, FAULT_OF(code()), at);
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

static void z07_holes_are_refused_and_nothing_changes(void) {
    mach_vm_address_t at = new_memory(3 * PAGE);
    OK(mach_vm_deallocate(SELF, at + PAGE, PAGE));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_protect(SELF, at, 3 * PAGE, FALSE, VM_PROT_READ));
    EQUAL(rights(SELF, at), VM_PROT_DEFAULT);
    EQUAL(rights(SELF, at + 2 * PAGE), VM_PROT_DEFAULT);
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_protect(SELF, at + PAGE, 1, FALSE, VM_PROT_READ));
    OK(mach_vm_deallocate(SELF, at, 3 * PAGE));
}

static void z14_maximum(void) {
    mach_vm_address_t at = new_memory(2 * PAGE), found = at;
    mach_vm_size_t size;
    vm_region_basic_info_data_64_t info;
    OK(mach_vm_protect(SELF, at, PAGE, TRUE, VM_PROT_READ)); /* the current rights follow */
    EQUAL(rights(SELF, at), VM_PROT_READ);
    OK(region(SELF, &found, &size, &info));
    EQUAL(info.max_protection, VM_PROT_READ);
    RETURNS(KERN_PROTECTION_FAILURE, mach_vm_protect(SELF, at, PAGE, FALSE, VM_PROT_DEFAULT));
    RETURNS(KERN_PROTECTION_FAILURE, mach_vm_protect(SELF, at, PAGE, TRUE, VM_PROT_ALL));
    /* one page that may and one that may not: neither */
    RETURNS(KERN_PROTECTION_FAILURE, mach_vm_protect(SELF, at, 2 * PAGE, FALSE, VM_PROT_WRITE));
    EQUAL(rights(SELF, at + PAGE), VM_PROT_DEFAULT);
    OK(mach_vm_deallocate(SELF, at, 2 * PAGE));
}

/* VM_PROT_COPY gives a private page that may be written. */
static void z95_copy(void) {
    mach_vm_address_t at = new_memory(PAGE), other = 0;
    vm_prot_t cur, max;
    fill(at, PAGE, 4);
    OK(mach_vm_remap(SELF, &other, PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, FALSE, &cur, &max, VM_INHERIT_COPY));
    OK(mach_vm_protect(SELF, other, PAGE, TRUE, VM_PROT_READ));
    OK(mach_vm_protect(SELF, other, PAGE, FALSE, VM_PROT_DEFAULT | VM_PROT_COPY));
    AT(other)[0] = 0x77;
    CHECK(holds(at, PAGE, 0, 4));
    OK(mach_vm_deallocate(SELF, at, PAGE));
    OK(mach_vm_deallocate(SELF, other, PAGE));
}

static void u20_bad_arguments(void) {
    mach_vm_address_t at = new_memory(PAGE);
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_protect(SELF, at, PAGE, FALSE, 0x1000));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_protect(SELF, at, ~(mach_vm_size_t) 0, FALSE, VM_PROT_READ));
    OK(mach_vm_protect(SELF, at, 0, FALSE, VM_PROT_NONE));
    EQUAL(rights(SELF, at), VM_PROT_DEFAULT);
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_protect(MACH_PORT_NULL, at, PAGE, FALSE, VM_PROT_READ));
    RETURNS(MACH_SEND_INVALID_DEST, vm_protect(MACH_PORT_NULL, at, PAGE, FALSE, VM_PROT_READ));
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

int main(void) {
    catch_faults();
    u20_protected_memory_raises_sigbus();
    u20_untouched_memory_too();
    u20_write_without_read();
    u20_execute();
    z07_holes_are_refused_and_nothing_changes();
    z14_maximum();
    z95_copy();
    u20_bad_arguments();
    return 0;
}
