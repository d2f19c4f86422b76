/* Copies that memory entries, wiring and first faults could get wrong: rows U07, U09 to U11, U14, U16, trap Z110. */
#include "grid.h"

#include <sys/mman.h>

#define SIZE (256 * PAGE)
#define NUMBER(at) (*(volatile int *) AT(at))

static mach_vm_address_t map(mem_entry_name_port_t entry, boolean_t copy) {
    mach_vm_address_t at = 0;
    OK(mach_vm_map(SELF, &at, SIZE, 0, VM_FLAGS_ANYWHERE, entry, 0, copy, VM_PROT_DEFAULT, VM_PROT_DEFAULT,
                   VM_INHERIT_DEFAULT));
    return at;
}

/* Each mapping of an entry that was made as a copy is one, whatever the call says of copying. */
static void z110_an_entry_that_is_a_copy(void) {
    mem_entry_name_port_t object, entry;
    mach_vm_size_t size = SIZE;
    kern_return_t code = mach_memory_object_memory_entry(mach_host_self(), TRUE, SIZE, VM_PROT_DEFAULT,
                                                         MEMORY_OBJECT_NULL, &object);
    CHECK(code != MIG_BAD_ID);
    OK(code);
    mach_vm_address_t first = map(object, FALSE);
    NUMBER(first) = 1;
    OK(mach_make_memory_entry_64(SELF, &size, first, VM_PROT_DEFAULT | MAP_MEM_VM_COPY, &entry, MACH_PORT_NULL));
    EQUAL(size, SIZE);
    mach_vm_address_t plain = map(entry, FALSE), again = map(entry, FALSE), copy = map(entry, TRUE);
    NUMBER(plain) = 2;
    EQUAL(NUMBER(first), 1);
    EQUAL(NUMBER(plain), 2);
    EQUAL(NUMBER(again), 1);
    EQUAL(NUMBER(copy), 1);
    NUMBER(first) = 3;
    NUMBER(copy) = 4;
    EQUAL(NUMBER(plain), 2);
    mach_vm_address_t all[] = {first, plain, again, copy};
    for (size_t i = 0; i < COUNT_OF(all); i++) OK(mach_vm_deallocate(SELF, all[i], SIZE));
    OK(mach_port_deallocate(SELF, entry));
    OK(mach_port_deallocate(SELF, object));
}

/* An entry whose size is no multiple of a page has whole pages, and no more. */
static void u10_pages_of_an_odd_size(void) {
    mem_entry_name_port_t entry = MACH_PORT_NULL;
    mach_vm_address_t at = 0;
    OK(mach_memory_object_memory_entry(mach_host_self(), TRUE, 2 * PAGE + 1, VM_PROT_DEFAULT, MEMORY_OBJECT_NULL,
                                       &entry));
    CHECK(entry != MACH_PORT_NULL);
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_map(SELF, &at, UINT64_MAX, 0, VM_FLAGS_ANYWHERE, entry, PAGE, FALSE,
                                               VM_PROT_DEFAULT, VM_PROT_DEFAULT, VM_INHERIT_DEFAULT));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_map(SELF, &at, 3 * PAGE, 0, VM_FLAGS_ANYWHERE, entry, PAGE, FALSE,
                                               VM_PROT_DEFAULT, VM_PROT_DEFAULT, VM_INHERIT_DEFAULT));
    OK(mach_vm_map(SELF, &at, 2 * PAGE, 0, VM_FLAGS_ANYWHERE, entry, PAGE, FALSE, VM_PROT_DEFAULT, VM_PROT_DEFAULT,
                   VM_INHERIT_DEFAULT));
    memset(AT(at), 'x', 2 * PAGE);
    OK(mach_vm_deallocate(SELF, at, 2 * PAGE));
    OK(mach_port_deallocate(SELF, entry));
}

/* Wired in part, copied in part, then shared as a whole. */
static void u11_wired_copied_and_shared(int by_mlock) {
    mach_vm_address_t memory = new_memory(SIZE), copy = new_memory(SIZE - PAGE), shared = 0;
    vm_prot_t prot, max;
    for (mach_vm_size_t i = 0; i < SIZE; i += PAGE) NUMBER(memory + i) = (int) i + 1;
    if (by_mlock)
        EQUAL(mlock(AT(memory), PAGE), 0);
    else
        OK(mach_vm_wire(mach_host_self(), SELF, memory, PAGE, VM_PROT_READ));
    OK(mach_vm_copy(SELF, memory + PAGE, SIZE - PAGE, copy));
    OK(mach_vm_remap(SELF, &shared, SIZE, 0, VM_FLAGS_ANYWHERE, SELF, memory, FALSE, &prot, &max, VM_INHERIT_DEFAULT));
    for (mach_vm_size_t i = 0; i < SIZE; i += PAGE) {
        EQUAL(NUMBER(shared + i), i + 1);
        NUMBER(memory + i) = -1;
        EQUAL(NUMBER(shared + i), -1);
        if (i) EQUAL(NUMBER(copy + i - PAGE), i + 1);
        NUMBER(shared + i) = -2;
        EQUAL(NUMBER(memory + i), -2);
        if (i) EQUAL(NUMBER(copy + i - PAGE), i + 1);
    }
    if (by_mlock)
        EQUAL(munlock(AT(memory), PAGE), 0);
    else
        OK(mach_vm_wire(mach_host_self(), SELF, memory, PAGE, VM_PROT_NONE));
    OK(mach_vm_deallocate(SELF, memory, SIZE));
    OK(mach_vm_deallocate(SELF, copy, SIZE - PAGE));
    OK(mach_vm_deallocate(SELF, shared, SIZE));
}

/* A page that nobody touched is read first and written then: the copy keeps the zeroes. */
static void u14_a_copy_of_what_was_never_touched(int write_first, int share) {
    mach_vm_address_t memory = new_memory(SIZE), copy = 0;
    mem_entry_name_port_t entry = MACH_PORT_NULL;
    if (share) {
        mach_vm_size_t size = SIZE;
        vm_prot_t prot, max;
        OK(mach_make_memory_entry_64(SELF, &size, memory, MAP_MEM_VM_SHARE | VM_PROT_DEFAULT, &entry, MACH_PORT_NULL));
        OK(mach_vm_remap(SELF, &copy, SIZE, 0, VM_FLAGS_ANYWHERE, SELF, memory, TRUE, &prot, &max, VM_INHERIT_DEFAULT));
    } else {
        vm_offset_t data;
        mach_msg_type_number_t count;
        NUMBER(memory + 4 * PAGE) = 0xabcd;
        OK(mach_vm_read(SELF, memory, SIZE, &data, &count));
        copy = data;
    }
    if (write_first) NUMBER(memory) = 0;
    EQUAL(NUMBER(memory), 0);
    NUMBER(memory) = 0xbaad;
    EQUAL(NUMBER(copy), 0);
    EQUAL(NUMBER(memory), 0xbaad);
    if (entry != MACH_PORT_NULL) OK(mach_port_deallocate(SELF, entry));
    OK(mach_vm_deallocate(SELF, memory, SIZE));
    OK(mach_vm_deallocate(SELF, copy, SIZE));
}

int main(void) {
    z110_an_entry_that_is_a_copy();
    u10_pages_of_an_odd_size();
    u11_wired_copied_and_shared(0);
    u11_wired_copied_and_shared(1);
    for (int i = 0; i < 4; i++) u14_a_copy_of_what_was_never_touched(i & 1, i & 2);
    return 0;
}
