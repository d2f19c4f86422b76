// run: MACHVM_FAULTS=signal
// run: MACHVM_FAULTS=thread
/* Names of the parent in the child of fork(2): its own task and the host stay, other tasks and
 * memory entries are not inherited. */
#include "fork.h"

int main(void) {
    mach_vm_address_t a = new_memory(4 * PAGE);
    fill(a, 4 * PAGE, 3);
    mach_port_t other = MACH_PORT_NULL, entry = MACH_PORT_NULL;
    OK(task_create(SELF, NULL, 0, TRUE, &other));
    mach_vm_size_t size = 4 * PAGE;
    OK(mach_make_memory_entry_64(SELF, &size, a, VM_PROT_READ | VM_PROT_WRITE | MAP_MEM_VM_SHARE, &entry,
                                 MACH_PORT_NULL));
    mach_port_t self = mach_task_self();
    IN_CHILD({
        EQUAL(mach_task_self(), self);
        mach_vm_address_t at = 0;
        RETURNS(MACH_SEND_INVALID_DEST, mach_vm_allocate(other, &at, PAGE, VM_FLAGS_ANYWHERE));
        mach_port_type_t type;
        RETURNS(KERN_INVALID_NAME, mach_port_type(SELF, other, &type));
        RETURNS(KERN_INVALID_NAME, mach_port_type(SELF, entry, &type));
        OK(mach_port_type(SELF, self, &type));
        CHECK(mach_vm_map(SELF, &at, size, 0, VM_FLAGS_ANYWHERE, entry, 0, FALSE, VM_PROT_READ, VM_PROT_READ,
                          VM_INHERIT_COPY) != KERN_SUCCESS);
        vm_size_t page = 0;
        OK(host_page_size(mach_host_self(), &page));
        EQUAL(page, PAGE);
        /* It makes tasks and entries of its own. */
        mach_port_t mine = MACH_PORT_NULL;
        OK(task_create(SELF, NULL, 0, TRUE, &mine));
        mach_vm_size_t got = 0;
        char bytes[64];
        OK(mach_vm_read_overwrite(mine, a, sizeof bytes, (mach_vm_address_t) (uintptr_t) bytes, &got));
        EQUAL(got, sizeof bytes);
        for (unsigned i = 0; i < sizeof bytes; i++) EQUAL((unsigned char) bytes[i], pattern(i, 3));
        OK(mach_port_deallocate(SELF, mine));
        mach_port_t own_entry = MACH_PORT_NULL;
        OK(mach_make_memory_entry_64(SELF, &size, a, VM_PROT_READ, &own_entry, MACH_PORT_NULL));
        at = 0;
        OK(mach_vm_map(SELF, &at, size, 0, VM_FLAGS_ANYWHERE, own_entry, 0, FALSE, VM_PROT_READ, VM_PROT_READ,
                       VM_INHERIT_COPY));
        CHECK(holds(at, size, 0, 3));
    });
    /* The parent has what it had. */
    char byte = 0;
    mach_vm_size_t got = 0;
    OK(mach_vm_read_overwrite(other, a, 1, (mach_vm_address_t) (uintptr_t) &byte, &got));
    EQUAL((unsigned char) byte, pattern(0, 3));
    mach_vm_address_t at = 0;
    OK(mach_vm_map(SELF, &at, size, 0, VM_FLAGS_ANYWHERE, entry, 0, FALSE, VM_PROT_READ, VM_PROT_READ,
                   VM_INHERIT_COPY));
    CHECK(holds(at, size, 0, 3));
    return 0;
}
