// run: MACHVM_FAULTS=auto
// run: MACHVM_FAULTS=signal
/* mach_vm_write and vm_write: row U15, traps Z102, Z104. */
#include "check.h"

static void u15_every_alignment(void) {
    mach_vm_address_t from = new_memory(6 * PAGE), to = new_memory(6 * PAGE);
    mach_vm_size_t places[] = {0, 1, 2047, PAGE - 1, PAGE};
    mach_msg_type_number_t sizes[] = {1, 63, 4096, 8192, 3 * 4096 + 5};
    fill(from, 6 * PAGE, 1);
    for (int s = 0; s < 5; s++)
        for (int a = 0; a < 5; a++)
            for (int b = 0; b < 5; b++) {
                memset(AT(to), 0xaa, 6 * PAGE);
                OK(mach_vm_write(SELF, to + places[b], from + places[a], sizes[s]));
                CHECK(holds(to + places[b], sizes[s], places[a], 1));
                if (places[b]) EQUAL(AT(to)[places[b] - 1], 0xaa);
                EQUAL(AT(to)[places[b] + sizes[s]], 0xaa);
            }
    OK(mach_vm_deallocate(SELF, from, 6 * PAGE));
    OK(mach_vm_deallocate(SELF, to, 6 * PAGE));
}

static void u15_from_the_stack_and_the_text(void) {
    mach_vm_address_t at = new_memory(2 * PAGE);
    char word[] = "written from the stack";
    static const char text[] = "and from a constant";
    OK(vm_write(SELF, at + 5, (vm_offset_t) word, sizeof word));
    OK(vm_write(SELF, at + PAGE - 3, (vm_offset_t) text, sizeof text));
    CHECK(strcmp((char *) AT(at + 5), word) == 0 && strcmp((char *) AT(at + PAGE - 3), text) == 0);
    OK(mach_vm_deallocate(SELF, at, 2 * PAGE));
}

static void u15_another_task(void) {
    mach_vm_address_t at = new_memory(4 * PAGE), there = 0;
    unsigned char back[64];
    mach_vm_size_t got;
    task_t other;
    fill(at, 4 * PAGE, 3);
    OK(task_create(SELF, NULL, 0, FALSE, &other));
    OK(mach_vm_allocate(other, &there, 4 * PAGE, VM_FLAGS_ANYWHERE));
    OK(mach_vm_write(other, there, at, 4 * PAGE));
    fill(at, 4 * PAGE, 4); /* what was written was a copy */
    OK(mach_vm_read_overwrite(other, there + 2 * PAGE, sizeof back, (mach_vm_address_t) (uintptr_t) back, &got));
    for (unsigned i = 0; i < sizeof back; i++) EQUAL(back[i], pattern(2 * PAGE + i, 3));
    OK(task_terminate(other));
    OK(mach_port_deallocate(SELF, other));
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

/* The destination keeps its rights, inheritance and those it shares with. */
static void z104_destination_keeps_its_attributes(void) {
    mach_vm_address_t from = new_memory(4 * PAGE), to = new_memory(4 * PAGE), shared = 0, found;
    mach_vm_size_t size;
    vm_region_basic_info_data_64_t info;
    vm_prot_t cur, max;
    fill(from, 4 * PAGE, 5);
    OK(mach_vm_inherit(SELF, to, 4 * PAGE, VM_INHERIT_NONE));
    OK(mach_vm_remap(SELF, &shared, 4 * PAGE, 0, VM_FLAGS_ANYWHERE, SELF, to, FALSE, &cur, &max, VM_INHERIT_COPY));
    OK(mach_vm_write(SELF, to, from, 4 * PAGE));
    CHECK(holds(shared, 4 * PAGE, 0, 5));
    found = to;
    OK(region(SELF, &found, &size, &info));
    EQUAL(info.inheritance, VM_INHERIT_NONE);
    EQUAL(info.protection, VM_PROT_DEFAULT);
    OK(mach_vm_deallocate(SELF, from, 4 * PAGE));
    OK(mach_vm_deallocate(SELF, to, 4 * PAGE));
    OK(mach_vm_deallocate(SELF, shared, 4 * PAGE));
}

/* A range that cannot be written as a whole is not written at all. */
static void z102_codes(void) {
    mach_vm_address_t from = new_memory(8 * PAGE), to = new_memory(8 * PAGE);
    fill(from, 8 * PAGE, 1);
    fill(to, 8 * PAGE, 2);
    OK(mach_vm_protect(SELF, to + 5 * PAGE, PAGE, FALSE, VM_PROT_READ));
    RETURNS(KERN_PROTECTION_FAILURE, mach_vm_write(SELF, to, from, 8 * PAGE));
    CHECK(holds(to, 8 * PAGE, 0, 2));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_write(SELF, to + 5 * PAGE, from, 100)); /* small: hidden */
    OK(mach_vm_deallocate(SELF, to + 5 * PAGE, PAGE));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_write(SELF, to, from, 8 * PAGE));
    CHECK(holds(to, 5 * PAGE, 0, 2));
    /* the data itself */
    OK(mach_vm_deallocate(SELF, from + PAGE, PAGE));
    RETURNS(MACH_SEND_INVALID_MEMORY, mach_vm_write(SELF, to, from, 4 * PAGE));
    RETURNS(MACH_SEND_INVALID_MEMORY, mach_vm_write(SELF, to, 0, 1));
    RETURNS(MACH_SEND_INVALID_MEMORY, vm_write(SELF, to, ~(vm_offset_t) 0 - 10, 100));
    CHECK(holds(to, 5 * PAGE, 0, 2));
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_write(MACH_PORT_NULL, to, from, 1));
    RETURNS(MACH_SEND_INVALID_DEST, vm_write(MACH_PORT_NULL, to, from, 1));
    OK(mach_vm_write(SELF, to, from, 0));
    OK(mach_vm_deallocate(SELF, from, 8 * PAGE));
    OK(mach_vm_deallocate(SELF, to, 8 * PAGE));
}

int main(void) {
    u15_every_alignment();
    u15_from_the_stack_and_the_text();
    u15_another_task();
    z104_destination_keeps_its_attributes();
    z102_codes();
    return 0;
}
