// run: MACHVM_FAULTS=auto
// run: MACHVM_FAULTS=signal
/* mach_vm_remap, vm_remap and the two remap_new: rows U07 and U08, traps Z54, Z57. */
#include "check.h"

static void u07_shared(void) {
    mach_vm_address_t at = new_memory(4 * PAGE), other = 0;
    vm_prot_t cur = 0, max = 0;
    fill(at, 2 * PAGE, 1); /* half of it is there */
    OK(mach_vm_remap(SELF, &other, 4 * PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, FALSE, &cur, &max, VM_INHERIT_SHARE));
    EQUAL(cur, VM_PROT_DEFAULT);
    EQUAL(max, VM_PROT_ALL);
    CHECK(other != at && holds(other, 2 * PAGE, 0, 1) && zero(other + 2 * PAGE, 2 * PAGE));
    fill(other, 4 * PAGE, 2);
    CHECK(holds(at, 4 * PAGE, 0, 2));
    fill(at, 4 * PAGE, 3);
    CHECK(holds(other, 4 * PAGE, 0, 3));
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
    CHECK(holds(other, 4 * PAGE, 0, 3));
    OK(mach_vm_deallocate(SELF, other, 4 * PAGE));
}

static void u07_copied(void) {
    mach_vm_address_t at = new_memory(4 * PAGE);
    vm_address_t other = 0;
    vm_prot_t cur, max;
    fill(at, 4 * PAGE, 1);
    OK(vm_remap(SELF, &other, 4 * PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, TRUE, &cur, &max, VM_INHERIT_COPY));
    fill(at, 4 * PAGE, 2);
    CHECK(holds(other, 4 * PAGE, 0, 1));
    fill(other, 4 * PAGE, 3);
    CHECK(holds(at, 4 * PAGE, 0, 2));
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
    OK(vm_deallocate(SELF, other, 4 * PAGE));
}

/* Memory that is copy-on-write already is shared with what will be written to it. */
static void z54_copied_and_then_shared(void) {
    mach_vm_address_t at = new_memory(2 * PAGE), copy = 0, shared = 0;
    vm_prot_t cur, max;
    fill(at, 2 * PAGE, 1);
    OK(mach_vm_remap(SELF, &copy, 2 * PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, TRUE, &cur, &max, VM_INHERIT_COPY));
    OK(mach_vm_remap(SELF, &shared, 2 * PAGE, 0, VM_FLAGS_ANYWHERE, SELF, copy, FALSE, &cur, &max, VM_INHERIT_COPY));
    fill(copy, 2 * PAGE, 2);
    CHECK(holds(shared, 2 * PAGE, 0, 2) && holds(at, 2 * PAGE, 0, 1));
    OK(mach_vm_deallocate(SELF, at, 2 * PAGE));
    OK(mach_vm_deallocate(SELF, copy, 2 * PAGE));
    OK(mach_vm_deallocate(SELF, shared, 2 * PAGE));
}

/* From one task into another. */
static void u07_between_tasks(void) {
    mach_vm_address_t at = new_memory(3 * PAGE), there = 0;
    unsigned char word[16], back[16];
    mach_vm_size_t got;
    vm_prot_t cur, max;
    task_t other;
    OK(task_create(SELF, NULL, 0, FALSE, &other));
    fill(at, 3 * PAGE, 1);
    OK(mach_vm_remap(other, &there, 3 * PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, FALSE, &cur, &max, VM_INHERIT_SHARE));
    memset(word, 0x42, sizeof word);
    OK(mach_vm_write(other, there + PAGE, (vm_offset_t) word, sizeof word));
    CHECK(memcmp(AT(at + PAGE), word, sizeof word) == 0);
    memset(AT(at + 2 * PAGE), 0x43, sizeof back);
    OK(mach_vm_read_overwrite(other, there + 2 * PAGE, sizeof back, (mach_vm_address_t) (uintptr_t) back, &got));
    for (unsigned i = 0; i < sizeof back; i++) EQUAL(back[i], 0x43);
    OK(mach_vm_protect(other, there, PAGE, FALSE, VM_PROT_READ)); /* its right, not ours */
    AT(at)[0] = 1;
    OK(task_terminate(other));
    OK(mach_port_deallocate(SELF, other));
    OK(mach_vm_deallocate(SELF, at, 3 * PAGE));
}

static void u07_places_and_masks(void) {
    mach_vm_address_t at = new_memory(PAGE), to = 0;
    vm_prot_t cur, max;
    OK(mach_vm_remap(SELF, &to, PAGE, 0xffff, VM_FLAGS_ANYWHERE, SELF, at, FALSE, &cur, &max, VM_INHERIT_COPY));
    EQUAL(to & 0xffff, 0);
    RETURNS(KERN_NO_SPACE,
            mach_vm_remap(SELF, &to, PAGE, 0, VM_FLAGS_FIXED, SELF, at, FALSE, &cur, &max, VM_INHERIT_COPY));
    AT(at)[3] = 3;
    OK(mach_vm_remap(SELF, &to, PAGE, 0, VM_FLAGS_FIXED | VM_FLAGS_OVERWRITE, SELF, at, TRUE, &cur, &max,
                     VM_INHERIT_COPY));
    EQUAL(AT(to)[3], 3);
    mach_vm_address_t data = 0;
    OK(mach_vm_remap(SELF, &data, 8, 0, VM_FLAGS_ANYWHERE | VM_FLAGS_RETURN_DATA_ADDR, SELF, at + 3, FALSE, &cur,
                     &max, VM_INHERIT_COPY));
    EQUAL(data % PAGE, 3);
    EQUAL(AT(data)[0], 3);
    OK(mach_vm_deallocate(SELF, data - 3, PAGE));
    OK(mach_vm_deallocate(SELF, to, PAGE));
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

static void u08_remap_new(void) {
    mach_vm_address_t at = new_memory(PAGE), a = 0;
    vm_address_t b = 0;
    vm_prot_t cur = VM_PROT_READ, max = VM_PROT_READ;
    AT(at)[1] = 7;
    OK(mach_vm_remap_new(SELF, &a, PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, FALSE, &cur, &max, VM_INHERIT_NONE));
    EQUAL(cur, VM_PROT_READ);
    EQUAL(max, VM_PROT_READ);
    EQUAL(rights(SELF, a), VM_PROT_READ);
    EQUAL(AT(a)[1], 7);
    RETURNS(KERN_PROTECTION_FAILURE, mach_vm_protect(SELF, a, PAGE, FALSE, VM_PROT_DEFAULT));
    cur = VM_PROT_DEFAULT;
    max = VM_PROT_READ;
    RETURNS(KERN_INVALID_ARGUMENT,
            vm_remap_new(SELF, &b, PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, FALSE, &cur, &max, VM_INHERIT_NONE));
    max = VM_PROT_DEFAULT; /* more than the source has now */
    RETURNS(KERN_PROTECTION_FAILURE,
            vm_remap_new(SELF, &b, PAGE, 0, VM_FLAGS_ANYWHERE, SELF, a, FALSE, &cur, &max, VM_INHERIT_NONE));
    EQUAL(b, 0);
    OK(mach_vm_deallocate(SELF, a, PAGE));
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

static void u07_codes(void) {
    mach_vm_address_t at = new_memory(3 * PAGE), to = 0;
    vm_prot_t cur = 55, max = 66;
    RETURNS(KERN_INVALID_ARGUMENT,
            mach_vm_remap(SELF, &to, 0, 0, VM_FLAGS_ANYWHERE, SELF, at, FALSE, &cur, &max, VM_INHERIT_COPY));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_remap(SELF, &to, (mach_vm_size_t) -2, 0, VM_FLAGS_ANYWHERE, SELF, at,
                                                 FALSE, &cur, &max, VM_INHERIT_COPY));
    RETURNS(KERN_INVALID_ARGUMENT,
            mach_vm_remap(SELF, &to, PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, FALSE, &cur, &max, 99));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_remap(SELF, &to, PAGE, 0, VM_FLAGS_ANYWHERE | VM_FLAGS_PURGABLE, SELF, at,
                                                 FALSE, &cur, &max, VM_INHERIT_COPY));
    OK(mach_vm_deallocate(SELF, at + PAGE, PAGE));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_remap(SELF, &to, 3 * PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, FALSE, &cur,
                                                &max, VM_INHERIT_COPY));
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_remap(MACH_PORT_NULL, &to, PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, FALSE,
                                                  &cur, &max, VM_INHERIT_COPY));
    EQUAL(to, 0);
    EQUAL(cur, 55);
    EQUAL(max, 66);
    OK(mach_vm_deallocate(SELF, at, 3 * PAGE));
}

int main(void) {
    u07_shared();
    u07_copied();
    z54_copied_and_then_shared();
    u07_between_tasks();
    u07_places_and_masks();
    u08_remap_new();
    u07_codes();
    return 0;
}
