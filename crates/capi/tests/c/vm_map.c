/* mach_vm_map, vm_map and vm_map_64: rows U05 and U06, traps Z11 to Z15. */
#include "check.h"

static kern_return_t map(mach_vm_address_t *at, mach_vm_size_t size, mach_vm_offset_t mask, int flags,
                         mach_port_t object, memory_object_offset_t offset, boolean_t copy) {
    return mach_vm_map(SELF, at, size, mask, flags, object, offset, copy, VM_PROT_DEFAULT, VM_PROT_DEFAULT,
                       VM_INHERIT_DEFAULT);
}

static void u05_zeroes(void) {
    mach_vm_address_t at = 0;
    vm_address_t narrow = 0;
    OK(map(&at, 3 * PAGE, 0, VM_FLAGS_ANYWHERE, MACH_PORT_NULL, 0, FALSE));
    CHECK(zero(at, 3 * PAGE));
    fill(at, 3 * PAGE, 1);
    OK(vm_map(SELF, &narrow, PAGE, 0, VM_FLAGS_ANYWHERE, MACH_PORT_NULL, 0, FALSE, VM_PROT_READ, VM_PROT_READ,
              VM_INHERIT_NONE));
    EQUAL(rights(SELF, narrow), VM_PROT_READ);
    RETURNS(KERN_PROTECTION_FAILURE, mach_vm_protect(SELF, narrow, PAGE, FALSE, VM_PROT_DEFAULT));
    OK(vm_deallocate(SELF, narrow, PAGE));
    OK(mach_vm_deallocate(SELF, at, 3 * PAGE));
}

/* A fixed place, and the search up from a hint. */
static void u05_places(void) {
    mach_vm_address_t at = new_memory(10 * PAGE), hint;
    OK(mach_vm_deallocate(SELF, at, 10 * PAGE));
    hint = at + 5 * PAGE;
    OK(map(&hint, PAGE, 0, VM_FLAGS_ANYWHERE, MACH_PORT_NULL, 0, FALSE));
    EQUAL(hint, at + 5 * PAGE);
    mach_vm_address_t fixed = at + 5 * PAGE;
    RETURNS(KERN_NO_SPACE, map(&fixed, PAGE, 0, VM_FLAGS_FIXED, MACH_PORT_NULL, 0, FALSE));
    AT(hint)[0] = 9;
    OK(map(&fixed, PAGE, 0, VM_FLAGS_FIXED | VM_FLAGS_OVERWRITE, MACH_PORT_NULL, 0, FALSE));
    EQUAL(AT(hint)[0], 0);
    OK(mach_vm_deallocate(SELF, fixed, PAGE));
    /* Where Linux has its memory, behind all that can be had here, is no place to begin. */
    hint = (mach_vm_address_t) (uintptr_t) &at;
    OK(map(&hint, PAGE, 0, VM_FLAGS_ANYWHERE, MACH_PORT_NULL, 0, FALSE));
    CHECK(zero(hint, PAGE));
    OK(mach_vm_deallocate(SELF, hint, PAGE));
    fixed = 0;
    RETURNS(KERN_INVALID_ADDRESS, map(&fixed, PAGE, 0, VM_FLAGS_FIXED, MACH_PORT_NULL, 0, FALSE));
}

static void z15_masks_align(void) {
    mach_vm_offset_t masks[] = {0xffff, 0x1fffff, 0xffffff};
    for (int i = 0; i < 3; i++) {
        mach_vm_address_t at = 0;
        OK(map(&at, PAGE, masks[i], VM_FLAGS_ANYWHERE, MACH_PORT_NULL, 0, FALSE));
        EQUAL(at & masks[i], 0);
        OK(mach_vm_deallocate(SELF, at, PAGE));
    }
}

static void u06_entries(void) {
    mach_vm_address_t at = new_memory(4 * PAGE), a = 0, b = 0, c = 0;
    memory_object_size_t size = 4 * PAGE;
    mach_port_t entry = MACH_PORT_NULL;
    fill(at, 4 * PAGE, 1);
    OK(mach_make_memory_entry_64(SELF, &size, at, VM_PROT_DEFAULT, &entry, MACH_PORT_NULL));
    EQUAL(size, 4 * PAGE);
    OK(map(&a, 4 * PAGE, 0, VM_FLAGS_ANYWHERE, entry, 0, FALSE));       /* shared */
    OK(map(&b, 2 * PAGE, 0, VM_FLAGS_ANYWHERE, entry, 2 * PAGE, FALSE)); /* a part of it */
    OK(map(&c, 4 * PAGE, 0, VM_FLAGS_ANYWHERE, entry, 0, TRUE));        /* a copy */
    CHECK(holds(a, 4 * PAGE, 0, 1) && holds(b, 2 * PAGE, 2 * PAGE, 1) && holds(c, 4 * PAGE, 0, 1));
    fill(at, 4 * PAGE, 2);
    CHECK(holds(a, 4 * PAGE, 0, 2) && holds(b, 2 * PAGE, 2 * PAGE, 2) && holds(c, 4 * PAGE, 0, 1));
    memset(AT(c), 0, 4 * PAGE);
    CHECK(holds(a, 4 * PAGE, 0, 2));
    OK(mach_port_deallocate(SELF, entry)); /* the mappings stay */
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
    CHECK(holds(a, 4 * PAGE, 0, 2));
    OK(mach_vm_deallocate(SELF, a, 4 * PAGE));
    OK(mach_vm_deallocate(SELF, b, 2 * PAGE));
    OK(mach_vm_deallocate(SELF, c, 4 * PAGE));
}

static void u06_entries_with_fewer_rights(void) {
    mach_vm_address_t at = new_memory(PAGE), a = 0;
    memory_object_size_t size = PAGE;
    mach_port_t entry;
    OK(mach_make_memory_entry_64(SELF, &size, at, VM_PROT_READ, &entry, MACH_PORT_NULL));
    RETURNS(KERN_INVALID_RIGHT, map(&a, PAGE, 0, VM_FLAGS_ANYWHERE, entry, 0, FALSE));
    RETURNS(KERN_INVALID_ARGUMENT, map(&a, 0, 0, VM_FLAGS_ANYWHERE, entry, 0, FALSE));
    OK(vm_map_64(SELF, (vm_address_t *) &a, PAGE, 0, VM_FLAGS_ANYWHERE, entry, 0, FALSE, VM_PROT_READ, VM_PROT_READ,
                 VM_INHERIT_DEFAULT));
    EQUAL(rights(SELF, a), VM_PROT_READ);
    OK(mach_vm_deallocate(SELF, a, PAGE));
    OK(mach_port_deallocate(SELF, entry));
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

static void u05_codes(void) {
    mach_vm_address_t at = 77;
    RETURNS(KERN_INVALID_ARGUMENT, map(&at, 0, 0, VM_FLAGS_ANYWHERE, MACH_PORT_NULL, 0, FALSE));
    RETURNS(KERN_INVALID_ARGUMENT, map(&at, PAGE, 0, VM_FLAGS_ANYWHERE | 0x2000, MACH_PORT_NULL, 0, FALSE));
    RETURNS(KERN_INVALID_ARGUMENT, map(&at, 0, 0, 0x2000, MACH_PORT_NULL, 0, FALSE));
    RETURNS(KERN_INVALID_ARGUMENT, map(&at, ~(mach_vm_size_t) 0, 0, VM_FLAGS_ANYWHERE, MACH_PORT_NULL, 0, FALSE));
    RETURNS(KERN_NO_SPACE, map(&at, (mach_vm_size_t) 1 << 46, 0, VM_FLAGS_ANYWHERE, MACH_PORT_NULL, 0, FALSE));
    RETURNS(KERN_INVALID_OBJECT, map(&at, PAGE, 0, VM_FLAGS_ANYWHERE, mach_host_self(), 0, FALSE));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_map(SELF, &at, PAGE, 0, VM_FLAGS_ANYWHERE, 0, 0, FALSE, 0x1000,
                                               VM_PROT_ALL, VM_INHERIT_DEFAULT));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_map(SELF, &at, PAGE, 0, VM_FLAGS_ANYWHERE, 0, 0, FALSE, VM_PROT_DEFAULT,
                                               VM_PROT_ALL, 99));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_map(SELF, &at, PAGE, 0, VM_FLAGS_ANYWHERE, 0, 0, FALSE, VM_PROT_DEFAULT,
                                               VM_PROT_READ, VM_INHERIT_DEFAULT));
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_map(MACH_PORT_NULL, &at, PAGE, 0, VM_FLAGS_ANYWHERE, 0, 0, FALSE,
                                                VM_PROT_DEFAULT, VM_PROT_ALL, VM_INHERIT_DEFAULT));
    EQUAL(at, 77);
}

int main(void) {
    u05_zeroes();
    u05_places();
    z15_masks_align();
    u06_entries();
    u06_entries_with_fewer_rights();
    u05_codes();
    return 0;
}
