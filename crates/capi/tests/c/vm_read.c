// run: MACHVM_FAULTS=auto
// run: MACHVM_FAULTS=signal
/* mach_vm_read and vm_read: row U14, traps Z03, Z106; copy-on-write isolation. */
#include "check.h"

/* What was read does not change, and changing it changes nothing. */
static void u14_isolation(mach_vm_size_t size, mach_vm_size_t offset) {
    mach_vm_address_t at = new_memory(size + offset);
    vm_offset_t data = 0;
    mach_msg_type_number_t count = 0;
    fill(at, size + offset, 1);
    OK(mach_vm_read(SELF, at + offset, size, &data, &count));
    EQUAL(count, size);
    CHECK(data != 0 && (data + size <= at || at + size + offset <= data));
    CHECK(holds(data, size, offset, 1));
    fill(at, size + offset, 2); /* the source writes */
    CHECK(holds(data, size, offset, 1));
    memset(AT(data), 0xee, size); /* the copy writes */
    CHECK(holds(at, size + offset, 0, 2));
    OK(mach_vm_deallocate(SELF, at, size + offset));
    for (mach_vm_size_t i = 0; i < size; i++) EQUAL(AT(data)[i], 0xee);
    OK(vm_deallocate(SELF, data, size));
}

static void u14_absent_memory_reads_as_zero(void) {
    mach_vm_address_t at = new_memory(64 * PAGE);
    vm_offset_t data;
    mach_msg_type_number_t count;
    OK(vm_read(SELF, at, 64 * PAGE, &data, &count));
    AT(at)[3] = 1;
    CHECK(zero(data, 64 * PAGE));
    OK(mach_vm_deallocate(SELF, at, 64 * PAGE));
    OK(mach_vm_deallocate(SELF, data, 64 * PAGE));
}

static void u14_another_task(void) {
    mach_vm_address_t at = new_memory(4 * PAGE);
    vm_offset_t data;
    mach_msg_type_number_t count;
    task_t child;
    fill(at, 4 * PAGE, 5);
    OK(task_create(SELF, NULL, 0, TRUE, &child));
    fill(at, 4 * PAGE, 6);
    OK(mach_vm_read(child, at, 4 * PAGE, &data, &count));
    CHECK(holds(data, 4 * PAGE, 0, 5));
    OK(mach_vm_deallocate(SELF, data, count));
    OK(task_terminate(child));
    OK(mach_port_deallocate(SELF, child));
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

static void u14_codes(void) {
    mach_vm_address_t at = new_memory(8 * PAGE);
    vm_offset_t data = 11;
    mach_msg_type_number_t count = 22;
    OK(mach_vm_deallocate(SELF, at + 3 * PAGE, PAGE));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_read(SELF, at, 8 * PAGE, &data, &count)); /* a hole */
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_read(SELF, at + 3 * PAGE, 1, &data, &count));
    OK(mach_vm_protect(SELF, at + 4 * PAGE, PAGE, FALSE, VM_PROT_NONE));
    RETURNS(KERN_PROTECTION_FAILURE, mach_vm_read(SELF, at + 4 * PAGE, 4 * PAGE, &data, &count));
    /* below two pages the kernel's buffer hides why */
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_read(SELF, at + 4 * PAGE, PAGE, &data, &count));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_read(SELF, ~(mach_vm_address_t) 0 - PAGE, 4 * PAGE, &data, &count));
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_read(MACH_PORT_NULL, at, PAGE, &data, &count));
    RETURNS(MACH_SEND_INVALID_DEST, vm_read(MACH_PORT_NULL, at, PAGE, &data, &count));
    EQUAL(data, 11);
    EQUAL(count, 22);
    /* Nothing is looked at for no bytes. */
    OK(mach_vm_read(SELF, 1, 0, &data, &count));
    EQUAL(count, 0);
    OK(mach_vm_deallocate(SELF, at, 8 * PAGE));
}

int main(void) {
    mach_vm_size_t sizes[] = {1, 100, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE + 17, 64 * PAGE};
    mach_vm_size_t offsets[] = {0, 1, 100, PAGE - 1};
    for (int s = 0; s < 8; s++)
        for (int o = 0; o < 4; o++) u14_isolation(sizes[s], offsets[o]);
    u14_absent_memory_reads_as_zero();
    u14_another_task();
    u14_codes();
    return 0;
}
