/* mach_make_memory_entry and _64 with their flags: row U09, traps Z108 to Z110. */
#include "check.h"

static mach_vm_address_t map(mach_port_t entry, mach_vm_size_t size, memory_object_offset_t offset, boolean_t copy) {
    mach_vm_address_t at = 0;
    OK(mach_vm_map(SELF, &at, size, 0, VM_FLAGS_ANYWHERE, entry, offset, copy, VM_PROT_DEFAULT, VM_PROT_DEFAULT,
                   VM_INHERIT_DEFAULT));
    return at;
}

static void u09_named_create(void) {
    memory_object_size_t size = 3 * PAGE + 1;
    mach_port_t entry = MACH_PORT_NULL;
    OK(mach_make_memory_entry_64(SELF, &size, 0, MAP_MEM_NAMED_CREATE | VM_PROT_DEFAULT, &entry, MACH_PORT_NULL));
    EQUAL(size, 4 * PAGE);
    mach_vm_address_t a = map(entry, 4 * PAGE, 0, FALSE), b = map(entry, 2 * PAGE, PAGE, FALSE);
    CHECK(zero(a, 4 * PAGE));
    fill(a, 4 * PAGE, 1);
    CHECK(holds(b, 2 * PAGE, PAGE, 1));
    OK(mach_vm_deallocate(SELF, a, 4 * PAGE));
    OK(mach_vm_deallocate(SELF, b, 2 * PAGE));
    a = map(entry, 4 * PAGE, 0, FALSE); /* the entry keeps the memory */
    CHECK(holds(a, 4 * PAGE, 0, 1));
    OK(mach_vm_deallocate(SELF, a, 4 * PAGE));
    OK(mach_port_deallocate(SELF, entry));
}

static void u09_vm_copy(void) {
    mach_vm_address_t at = new_memory(4 * PAGE);
    memory_object_size_t size = 4 * PAGE;
    mach_port_t entry;
    fill(at, 4 * PAGE, 1);
    OK(mach_make_memory_entry_64(SELF, &size, at, MAP_MEM_VM_COPY | VM_PROT_DEFAULT, &entry, MACH_PORT_NULL));
    fill(at, 4 * PAGE, 2);
    mach_vm_address_t a = map(entry, 4 * PAGE, 0, TRUE);
    CHECK(holds(a, 4 * PAGE, 0, 1));
    fill(a, 4 * PAGE, 3);
    CHECK(holds(at, 4 * PAGE, 0, 2));
    OK(mach_vm_deallocate(SELF, a, 4 * PAGE));
    a = map(entry, 4 * PAGE, 0, TRUE); /* again, as it was */
    CHECK(holds(a, 4 * PAGE, 0, 1));
    OK(mach_vm_deallocate(SELF, a, 4 * PAGE));
    OK(mach_port_deallocate(SELF, entry));
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

/* Over regions with objects of their own. */
static void u09_vm_share(void) {
    mach_vm_address_t at = new_memory(2 * PAGE), next = at + 2 * PAGE;
    memory_object_size_t size = 4 * PAGE;
    mach_port_t entry;
    OK(mach_vm_map(SELF, &next, 2 * PAGE, 0, VM_FLAGS_FIXED | VM_FLAGS_PURGABLE, MACH_PORT_NULL, 0, FALSE,
                   VM_PROT_DEFAULT, VM_PROT_ALL, VM_INHERIT_DEFAULT));
    fill(at, 4 * PAGE, 1);
    OK(mach_make_memory_entry_64(SELF, &size, at, MAP_MEM_VM_SHARE | VM_PROT_DEFAULT, &entry, MACH_PORT_NULL));
    EQUAL(size, 4 * PAGE);
    mach_vm_address_t a = map(entry, 4 * PAGE, 0, FALSE);
    CHECK(holds(a, 4 * PAGE, 0, 1));
    fill(a, 4 * PAGE, 2);
    CHECK(holds(at, 4 * PAGE, 0, 2));
    OK(mach_vm_deallocate(SELF, a, 4 * PAGE));
    OK(mach_port_deallocate(SELF, entry));
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

/* A plain entry ends with the object it begins in. */
static void z108_shorter_than_asked(void) {
    mach_vm_address_t at = new_memory(2 * PAGE), next = at + 2 * PAGE;
    vm_size_t size = 4 * PAGE;
    mach_port_t entry;
    OK(mach_vm_map(SELF, &next, 2 * PAGE, 0, VM_FLAGS_FIXED | VM_FLAGS_PURGABLE, MACH_PORT_NULL, 0, FALSE,
                   VM_PROT_DEFAULT, VM_PROT_ALL, VM_INHERIT_DEFAULT));
    OK(mach_make_memory_entry(SELF, &size, at, VM_PROT_DEFAULT, &entry, MACH_PORT_NULL));
    EQUAL(size, 2 * PAGE);
    OK(mach_port_deallocate(SELF, entry));
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

static void z109_children(void) {
    mach_vm_address_t at = new_memory(4 * PAGE), a;
    memory_object_size_t size = 4 * PAGE;
    mach_port_t parent, child = MACH_PORT_NULL;
    fill(at, 4 * PAGE, 1);
    OK(mach_make_memory_entry_64(SELF, &size, at, VM_PROT_DEFAULT, &parent, MACH_PORT_NULL));
    size = PAGE;
    OK(mach_make_memory_entry_64(SELF, &size, PAGE, VM_PROT_READ, &child, parent));
    EQUAL(size, PAGE);
    a = 0;
    RETURNS(KERN_INVALID_RIGHT, mach_vm_map(SELF, &a, PAGE, 0, VM_FLAGS_ANYWHERE, child, 0, FALSE, VM_PROT_DEFAULT,
                                            VM_PROT_DEFAULT, VM_INHERIT_DEFAULT));
    OK(mach_vm_map(SELF, &a, PAGE, 0, VM_FLAGS_ANYWHERE, child, 0, FALSE, VM_PROT_READ, VM_PROT_READ,
                   VM_INHERIT_DEFAULT));
    CHECK(holds(a, PAGE, PAGE, 1));
    OK(mach_vm_deallocate(SELF, a, PAGE));
    size = PAGE; /* beyond the parent */
    mach_port_t none = 5;
    RETURNS(KERN_INVALID_ARGUMENT, mach_make_memory_entry_64(SELF, &size, 4 * PAGE, VM_PROT_READ, &none, parent));
    EQUAL(none, 5);
    OK(mach_port_deallocate(SELF, parent));
    OK(mach_port_deallocate(SELF, child));
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

/* Of an entry that begins within its memory and ends with it; nothing says where the mapping goes. */
static void z109_a_part_of_a_part(void) {
    mach_vm_address_t at = new_memory(8 * PAGE), a = (mach_vm_address_t) (uintptr_t) &at;
    memory_object_size_t size = 8 * PAGE;
    mach_port_t parent, child;
    fill(at, 8 * PAGE, 1);
    OK(mach_make_memory_entry_64(SELF, &size, at + 2 * PAGE, VM_PROT_DEFAULT, &parent, MACH_PORT_NULL));
    EQUAL(size, 6 * PAGE);
    size = PAGE;
    OK(mach_make_memory_entry_64(SELF, &size, 3 * PAGE, VM_PROT_DEFAULT | MAP_MEM_USE_DATA_ADDR, &child, parent));
    EQUAL(size, PAGE);
    OK(mach_vm_map(SELF, &a, size, 0, VM_FLAGS_ANYWHERE, child, 0, FALSE, VM_PROT_DEFAULT, VM_PROT_DEFAULT,
                   VM_INHERIT_NONE));
    CHECK(holds(a, PAGE, 5 * PAGE, 1));
    OK(mach_vm_deallocate(SELF, a, PAGE));
    OK(mach_port_deallocate(SELF, parent));
    OK(mach_port_deallocate(SELF, child));
    OK(mach_vm_deallocate(SELF, at, 8 * PAGE));
}

/* New memory, and what is made of another entry, is no task's: there any port is good. */
static void u09_no_task(void) {
    mach_port_t object, entry = 5;
    memory_object_size_t size = PAGE;
    mach_port_t host = mach_host_self();
    OK(mach_make_memory_entry_64(host, &size, 0, MAP_MEM_NAMED_CREATE | MAP_MEM_LEDGER_TAGGED | VM_PROT_DEFAULT,
                                 &object, MACH_PORT_NULL));
    RETURNS(KERN_INVALID_TASK, mach_make_memory_entry_64(host, &size, 0, VM_PROT_READ, &entry, MACH_PORT_NULL));
    RETURNS(KERN_INVALID_TASK,
            mach_make_memory_entry_64(host, &size, 0, MAP_MEM_VM_COPY | VM_PROT_READ, &entry, object));
    EQUAL(entry, 5);
    OK(mach_make_memory_entry_64(host, &size, 0, VM_PROT_READ, &entry, object));
    OK(mach_port_deallocate(SELF, entry));
    OK(mach_make_memory_entry_64(host, &size, 0, MAP_MEM_ONLY | VM_PROT_READ, &entry, object));
    EQUAL(entry, MACH_PORT_NULL);
    OK(mach_port_deallocate(SELF, object));
}

static void u09_codes(void) {
    mach_vm_address_t at = new_memory(2 * PAGE);
    memory_object_size_t size = PAGE;
    mach_port_t entry = 5;
    OK(mach_vm_protect(SELF, at, PAGE, TRUE, VM_PROT_READ));
    RETURNS(KERN_PROTECTION_FAILURE,
            mach_make_memory_entry_64(SELF, &size, at, VM_PROT_DEFAULT, &entry, MACH_PORT_NULL));
    RETURNS(KERN_INVALID_ARGUMENT, mach_make_memory_entry_64(SELF, &size, at, 0x100 | VM_PROT_READ, &entry, 0));
    OK(mach_vm_deallocate(SELF, at, 2 * PAGE));
    RETURNS(KERN_INVALID_ADDRESS, mach_make_memory_entry_64(SELF, &size, at, VM_PROT_READ, &entry, MACH_PORT_NULL));
    RETURNS(MACH_SEND_INVALID_DEST,
            mach_make_memory_entry_64(MACH_PORT_NULL, &size, at, VM_PROT_READ, &entry, MACH_PORT_NULL));
    EQUAL(size, PAGE);
    EQUAL(entry, 5);
    size = 0; /* nothing wanted is no memory, and no error */
    OK(mach_make_memory_entry_64(SELF, &size, 0, MAP_MEM_NAMED_CREATE | VM_PROT_DEFAULT, &entry, MACH_PORT_NULL));
    EQUAL(entry, MACH_PORT_NULL);
}

int main(void) {
    u09_named_create();
    u09_vm_copy();
    u09_vm_share();
    z108_shorter_than_asked();
    z109_children();
    z109_a_part_of_a_part();
    u09_no_task();
    u09_codes();
    return 0;
}
