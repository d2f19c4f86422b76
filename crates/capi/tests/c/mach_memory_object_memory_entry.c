/* mach_memory_object_memory_entry and _64: row U10. */
#include "check.h"

static void u10_internal(void) {
    mach_port_t entry = MACH_PORT_NULL;
    mach_vm_address_t a = 0, b = 0;
    OK(mach_memory_object_memory_entry_64(mach_host_self(), TRUE, 2 * PAGE, VM_PROT_DEFAULT, MEMORY_OBJECT_NULL,
                                          &entry));
    for (mach_vm_address_t *at = &a; at; at = at == &a ? &b : NULL)
        OK(mach_vm_map(SELF, at, 2 * PAGE, 0, VM_FLAGS_ANYWHERE, entry, 0, FALSE, VM_PROT_DEFAULT, VM_PROT_DEFAULT,
                       VM_INHERIT_DEFAULT));
    CHECK(zero(a, 2 * PAGE));
    fill(a, 2 * PAGE, 1);
    CHECK(holds(b, 2 * PAGE, 0, 1));
    OK(mach_port_deallocate(SELF, entry));
    OK(mach_vm_deallocate(SELF, a, 2 * PAGE));
    OK(mach_vm_deallocate(SELF, b, 2 * PAGE));
}

static void u10_codes(void) {
    mach_port_t entry = 5;
    RETURNS(KERN_INVALID_ARGUMENT, mach_memory_object_memory_entry_64(mach_host_self(), FALSE, PAGE, VM_PROT_DEFAULT,
                                                                      MEMORY_OBJECT_NULL, &entry));
    RETURNS(KERN_INVALID_ARGUMENT, mach_memory_object_memory_entry(mach_host_self(), TRUE, 0, VM_PROT_DEFAULT,
                                                                   MEMORY_OBJECT_NULL, &entry));
    RETURNS(KERN_INVALID_HOST,
            mach_memory_object_memory_entry(SELF, TRUE, PAGE, VM_PROT_DEFAULT, MEMORY_OBJECT_NULL, &entry));
    RETURNS(MACH_SEND_INVALID_DEST, mach_memory_object_memory_entry(MACH_PORT_NULL, TRUE, PAGE, VM_PROT_DEFAULT,
                                                                    MEMORY_OBJECT_NULL, &entry));
    EQUAL(entry, 5);
}

int main(void) {
    u10_internal();
    u10_codes();
    return 0;
}
