/* vm_purgable_control, its twin, and mach_memory_entry_purgable_control: row U31, trap Z111. */
#include "check.h"

#include <sys/mman.h>

static mach_vm_address_t purgeable(mach_vm_size_t size) {
    mach_vm_address_t at = 0;
    OK(mach_vm_allocate(SELF, &at, size, VM_FLAGS_ANYWHERE | VM_FLAGS_PURGABLE));
    return at;
}

static int set(mach_vm_address_t at, int state) {
    OK(mach_vm_purgable_control(SELF, at, VM_PURGABLE_SET_STATE, &state));
    return state & VM_PURGABLE_STATE_MASK;
}

static void u31_the_old_state_is_returned(void) {
    mach_vm_address_t at = purgeable(4 * PAGE);
    int state = -1;
    OK(vm_purgable_control(SELF, at, VM_PURGABLE_GET_STATE, &state));
    EQUAL(state & VM_PURGABLE_STATE_MASK, VM_PURGABLE_NONVOLATILE);
    fill(at, 4 * PAGE, 1);
    EQUAL(set(at, VM_PURGABLE_VOLATILE), VM_PURGABLE_NONVOLATILE);
    EQUAL(set(at + 2 * PAGE, VM_PURGABLE_NONVOLATILE), VM_PURGABLE_VOLATILE); /* it is of the object */
    CHECK(holds(at, 4 * PAGE, 0, 1));
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

static void z111_empty_stays_empty(void) {
    mach_vm_address_t at = purgeable(4 * PAGE);
    fill(at, 4 * PAGE, 1);
    EQUAL(set(at, VM_PURGABLE_EMPTY), VM_PURGABLE_NONVOLATILE);
    EQUAL(set(at, VM_PURGABLE_VOLATILE), VM_PURGABLE_EMPTY);
    EQUAL(set(at, VM_PURGABLE_NONVOLATILE), VM_PURGABLE_EMPTY); /* so the program knows what it lost */
    CHECK(zero(at, 4 * PAGE));
    EQUAL(set(at, VM_PURGABLE_NONVOLATILE), VM_PURGABLE_NONVOLATILE);
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

/* Half of it is wired when it is to be forgotten. */
static void z111_wired_pages(void) {
    mach_vm_address_t at = purgeable(256 * PAGE);
    fill(at, 256 * PAGE, 1);
    EQUAL(mlock(AT(at), 128 * PAGE), 0);
    EQUAL(set(at, VM_PURGABLE_VOLATILE), VM_PURGABLE_NONVOLATILE);
    int old = set(at, VM_PURGABLE_EMPTY);
    CHECK(old == VM_PURGABLE_VOLATILE || old == VM_PURGABLE_EMPTY);
    EQUAL(munlock(AT(at), 128 * PAGE), 0);
    EQUAL(set(at, VM_PURGABLE_VOLATILE), VM_PURGABLE_EMPTY);
    EQUAL(set(at, VM_PURGABLE_NONVOLATILE), VM_PURGABLE_EMPTY);
    CHECK(zero(at + 128 * PAGE, 128 * PAGE));
    OK(mach_vm_deallocate(SELF, at, 256 * PAGE));
}

/* Copies, and copies of copies, are plain memory. */
static void u31_copies(void) {
    mach_vm_address_t at = purgeable(64 * PAGE), copy = 0, again = 0;
    vm_prot_t prot, max;
    fill(at, 64 * PAGE, 1);
    OK(mach_vm_remap(SELF, &copy, 64 * PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, TRUE, &prot, &max, VM_INHERIT_DEFAULT));
    OK(mach_vm_remap(SELF, &again, 64 * PAGE, 0, VM_FLAGS_ANYWHERE, SELF, copy, TRUE, &prot, &max,
                     VM_INHERIT_DEFAULT));
    EQUAL(set(at, VM_PURGABLE_EMPTY), VM_PURGABLE_NONVOLATILE);
    fill(copy, PAGE, 2);
    CHECK(holds(copy + PAGE, 63 * PAGE, PAGE, 1) && holds(again, 64 * PAGE, 0, 1));
    OK(mach_vm_deallocate(SELF, at, 64 * PAGE));
    OK(mach_vm_deallocate(SELF, copy, 64 * PAGE));
    OK(mach_vm_deallocate(SELF, again, 64 * PAGE));
}

static void u31_purge_all(void) {
    mach_vm_address_t at = purgeable(2 * PAGE), kept = purgeable(2 * PAGE);
    int state = 0;
    fill(at, 2 * PAGE, 1);
    fill(kept, 2 * PAGE, 2);
    EQUAL(set(at, VM_PURGABLE_VOLATILE), VM_PURGABLE_NONVOLATILE);
    OK(mach_vm_purgable_control(SELF, at, VM_PURGABLE_PURGE_ALL, &state));
    EQUAL(set(at, VM_PURGABLE_NONVOLATILE), VM_PURGABLE_EMPTY);
    CHECK(holds(kept, 2 * PAGE, 0, 2));
    OK(mach_vm_deallocate(SELF, at, 2 * PAGE));
    OK(mach_vm_deallocate(SELF, kept, 2 * PAGE));
}

static void u31_entries(void) {
    memory_object_size_t size = PAGE;
    mach_port_t entry;
    int state = VM_PURGABLE_VOLATILE;
    OK(mach_make_memory_entry_64(SELF, &size, 0, MAP_MEM_NAMED_CREATE | MAP_MEM_PURGABLE | VM_PROT_DEFAULT, &entry, 0));
    OK(mach_memory_entry_purgable_control(entry, VM_PURGABLE_SET_STATE, &state));
    EQUAL(state & VM_PURGABLE_STATE_MASK, VM_PURGABLE_NONVOLATILE);
    OK(mach_memory_entry_purgable_control(entry, VM_PURGABLE_GET_STATE, &state));
    EQUAL(state & VM_PURGABLE_STATE_MASK, VM_PURGABLE_VOLATILE);
    OK(mach_port_deallocate(SELF, entry));
    state = 0;
    CHECK(mach_memory_entry_purgable_control(mach_host_self(), VM_PURGABLE_GET_STATE, &state) != KERN_SUCCESS);
}

static void u31_codes(void) {
    mach_vm_address_t plain = new_memory(PAGE), at = purgeable(PAGE);
    int state = VM_PURGABLE_VOLATILE;
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_purgable_control(SELF, plain, VM_PURGABLE_SET_STATE, &state));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_purgable_control(SELF, at, 17, &state));
    state = VM_PURGABLE_DENY;
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_purgable_control(SELF, at, VM_PURGABLE_SET_STATE, &state));
    state = 0x100000;
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_purgable_control(SELF, at, VM_PURGABLE_SET_STATE, &state));
    state = VM_PURGABLE_VOLATILE;
    OK(mach_vm_protect(SELF, at, PAGE, FALSE, VM_PROT_READ));
    RETURNS(KERN_PROTECTION_FAILURE, mach_vm_purgable_control(SELF, at, VM_PURGABLE_SET_STATE, &state));
    OK(mach_vm_purgable_control(SELF, at, VM_PURGABLE_GET_STATE, &state));
    OK(mach_vm_deallocate(SELF, at, PAGE));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_purgable_control(SELF, at, VM_PURGABLE_GET_STATE, &state));
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_purgable_control(MACH_PORT_NULL, plain, VM_PURGABLE_GET_STATE, &state));
    OK(mach_vm_deallocate(SELF, plain, PAGE));
}

int main(void) {
    u31_the_old_state_is_returned();
    z111_empty_stays_empty();
    z111_wired_pages();
    u31_copies();
    u31_purge_all();
    u31_entries();
    u31_codes();
    return 0;
}
