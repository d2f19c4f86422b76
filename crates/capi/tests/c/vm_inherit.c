// run: MACHVM_FAULTS=auto
// run: MACHVM_FAULTS=signal
/* mach_vm_inherit and vm_inherit, and what a child made by task_create gets: rows U21, U35. */
#include "check.h"

static vm_inherit_t inheritance(mach_vm_address_t at) {
    mach_vm_size_t size;
    vm_region_basic_info_data_64_t info;
    mach_vm_address_t found = at;
    OK(region(SELF, &found, &size, &info));
    CHECK(found <= at);
    return info.inheritance;
}

static unsigned char byte_of(task_t task, mach_vm_address_t at) {
    unsigned char byte = 0;
    mach_vm_size_t got = 0;
    OK(mach_vm_read_overwrite(task, at, 1, (mach_vm_address_t) (uintptr_t) &byte, &got));
    EQUAL(got, 1);
    return byte;
}

static void u21_copy_share_none(void) {
    mach_vm_address_t at = new_memory(3 * PAGE);
    task_t child;
    mach_vm_size_t got;
    unsigned char byte = 0;
    for (int i = 0; i < 3; i++) AT(at)[i * PAGE] = (unsigned char) (10 + i);
    EQUAL(inheritance(at), VM_INHERIT_COPY);
    OK(mach_vm_inherit(SELF, at + PAGE, PAGE, VM_INHERIT_SHARE));
    OK(vm_inherit(SELF, at + 2 * PAGE, PAGE, VM_INHERIT_NONE));
    EQUAL(inheritance(at + PAGE), VM_INHERIT_SHARE);
    EQUAL(inheritance(at + 2 * PAGE), VM_INHERIT_NONE);

    OK(task_create(SELF, NULL, 0, TRUE, &child));
    EQUAL(byte_of(child, at), 10); /* the child has its parent's addresses */
    EQUAL(byte_of(child, at + PAGE), 11);
    RETURNS(KERN_INVALID_ADDRESS,
            mach_vm_read_overwrite(child, at + 2 * PAGE, 1, (mach_vm_address_t) (uintptr_t) &byte, &got));

    AT(at)[0] = 20; /* the parent writes */
    AT(at)[PAGE] = 21;
    EQUAL(byte_of(child, at), 10);
    EQUAL(byte_of(child, at + PAGE), 21);
    byte = 30; /* the child writes */
    OK(mach_vm_write(child, at, (vm_offset_t) &byte, 1));
    OK(mach_vm_write(child, at + PAGE, (vm_offset_t) &byte, 1));
    EQUAL(AT(at)[0], 20);
    EQUAL(AT(at)[PAGE], 30);
    EQUAL(byte_of(child, at), 30);

    OK(task_terminate(child));
    OK(mach_port_deallocate(SELF, child));
    EQUAL(AT(at)[PAGE], 30);
    OK(mach_vm_deallocate(SELF, at, 3 * PAGE));
}

static void u21_rights_are_inherited(void) {
    mach_vm_address_t at = new_memory(2 * PAGE);
    task_t child, grandchild;
    OK(mach_vm_protect(SELF, at, PAGE, FALSE, VM_PROT_READ));
    OK(mach_vm_inherit(SELF, at + PAGE, PAGE, VM_INHERIT_SHARE));
    OK(task_create(SELF, NULL, 0, TRUE, &child));
    EQUAL(rights(child, at), VM_PROT_READ);
    OK(mach_vm_protect(child, at, PAGE, FALSE, VM_PROT_DEFAULT)); /* its own attribute */
    EQUAL(rights(SELF, at), VM_PROT_READ);
    OK(task_create(child, NULL, 0, TRUE, &grandchild));
    EQUAL(rights(grandchild, at), VM_PROT_DEFAULT);
    AT(at)[PAGE] = 99; /* shared through the generations */
    EQUAL(byte_of(grandchild, at + PAGE), 99);
    OK(task_terminate(child));
    EQUAL(byte_of(grandchild, at + PAGE), 99);
    OK(task_terminate(grandchild));
    OK(mach_port_deallocate(SELF, child));
    OK(mach_port_deallocate(SELF, grandchild));
    OK(mach_vm_deallocate(SELF, at, 2 * PAGE));
}

static void u21_codes(void) {
    mach_vm_address_t at = new_memory(3 * PAGE);
    OK(mach_vm_deallocate(SELF, at + PAGE, PAGE));
    OK(mach_vm_inherit(SELF, at, 3 * PAGE, VM_INHERIT_NONE)); /* holes are passed over */
    EQUAL(inheritance(at + 2 * PAGE), VM_INHERIT_NONE);
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_inherit(SELF, at, PAGE, VM_INHERIT_DONATE_COPY));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_inherit(SELF, at, PAGE, 17));
    EQUAL(inheritance(at), VM_INHERIT_NONE);
    OK(mach_vm_inherit(SELF, at, 0, VM_INHERIT_COPY));
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_inherit(MACH_PORT_NULL, at, PAGE, VM_INHERIT_COPY));
    RETURNS(MACH_SEND_INVALID_DEST, vm_inherit(MACH_PORT_NULL, at, PAGE, VM_INHERIT_COPY));
    OK(mach_vm_deallocate(SELF, at, 3 * PAGE));
}

int main(void) {
    u21_copy_share_none();
    u21_rights_are_inherited();
    u21_codes();
    return 0;
}
