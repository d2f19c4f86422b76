/* A copy stays what it was, whatever its source was shared with: row U16, with U06, U07, U21 and fork(2). Each
   program is a child, and one of them has a child of its own. */
#include "grid.h"

enum then { WRITE_SOURCE, WRITE_COPY, WRITE_OTHER, THENS };

static void put(mach_vm_address_t at, uint64_t word) {
    for (mach_vm_size_t i = 0; i < PAGE; i += 8) WORD(at + i) = word + i;
}
static void is(mach_vm_address_t at, uint64_t word) {
    for (mach_vm_size_t i = 0; i < PAGE; i += 8) EQUAL(WORD(at + i), word + i);
}

/* `other` is 0, or is the source's memory too (`shared`), or a copy. */
static void copy_and_write(mach_vm_address_t source, mach_vm_address_t other, int shared, enum then then) {
    mach_vm_address_t copy = new_memory(PAGE);
    OK(mach_vm_copy(SELF, source, PAGE, copy));
    put(then == WRITE_SOURCE ? source : then == WRITE_COPY ? copy : other, 1);
    is(source, then == WRITE_SOURCE || (shared && then == WRITE_OTHER));
    is(copy, then == WRITE_COPY);
    if (other) is(other, then == WRITE_OTHER || (shared && then == WRITE_SOURCE));
    OK(mach_vm_deallocate(SELF, copy, PAGE));
}

static mach_vm_address_t fresh(void) {
    mach_vm_address_t at = new_memory(PAGE);
    put(at, 0);
    return at;
}

static void u16_fresh(enum then then) {
    if (then != WRITE_OTHER) copy_and_write(fresh(), 0, 0, then);
}

static void u16_shared_with_a_parent(enum then then) {
    mach_vm_address_t at = fresh();
    OK(mach_vm_inherit(SELF, at, PAGE, VM_INHERIT_SHARE));
    IN_CHILD({
        if (then == WRITE_OTHER) { /* the parent's is this one */
            mach_vm_address_t copy = new_memory(PAGE);
            OK(mach_vm_copy(SELF, at, PAGE, copy));
            put(at, 1);
            is(copy, 0);
        } else {
            copy_and_write(at, 0, 1, then);
        }
    });
    is(at, then != WRITE_COPY);
}

static void u16_itself_a_copy(enum then then) {
    mach_vm_address_t original = fresh(), source = new_memory(PAGE);
    OK(mach_vm_copy(SELF, original, PAGE, source));
    copy_and_write(source, original, 0, then);
}

static void u16_copied_before(enum then then) {
    mach_vm_address_t source = fresh(), earlier = new_memory(PAGE);
    OK(mach_vm_copy(SELF, source, PAGE, earlier));
    copy_and_write(source, earlier, 0, then);
}

static void u16_shared_by_an_entry(enum then then) {
    mach_vm_address_t memory = fresh(), source = 0;
    mach_vm_size_t size = PAGE;
    mem_entry_name_port_t entry;
    vm_prot_t both = VM_PROT_READ | VM_PROT_WRITE;
    OK(mach_make_memory_entry_64(SELF, &size, memory, both, &entry, MACH_PORT_NULL));
    OK(mach_vm_map(SELF, &source, size, 0, VM_FLAGS_ANYWHERE, entry, 0, FALSE, both, both, VM_INHERIT_NONE));
    copy_and_write(source, memory, 1, then);
}

static void u16_shared_by_remap(enum then then) {
    mach_vm_address_t memory = fresh(), source = 0;
    vm_prot_t prot = 0, max = 0;
    OK(mach_vm_remap(SELF, &source, PAGE, 0, VM_FLAGS_ANYWHERE, SELF, memory, FALSE, &prot, &max, VM_INHERIT_NONE));
    copy_and_write(source, memory, 1, then);
}

int main(void) {
    static void (*const programs[])(enum then) = {u16_fresh,         u16_shared_with_a_parent, u16_itself_a_copy,
                                                  u16_copied_before, u16_shared_by_an_entry,   u16_shared_by_remap};
    /* Once before this process has a VM, and once as its heirs. */
    for (int heirs = 0; heirs < 2; heirs++) {
        if (heirs) new_memory(PAGE);
        for (enum then then = WRITE_SOURCE; then < THENS; then++)
            for (size_t i = 0; i < COUNT_OF(programs); i++) IN_CHILD(programs[i](then));
    }
    return 0;
}
