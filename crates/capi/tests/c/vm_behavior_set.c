/* mach_vm_behavior_set and vm_behavior_set: row U30. */
#include "check.h"

static void u30_remembered(void) {
    mach_vm_address_t at = new_memory(PAGE), found = at;
    mach_vm_size_t size;
    vm_region_basic_info_data_64_t info;
    vm_behavior_t all[] = {VM_BEHAVIOR_RANDOM, VM_BEHAVIOR_SEQUENTIAL, VM_BEHAVIOR_RSEQNTL, VM_BEHAVIOR_DEFAULT};
    for (int i = 0; i < 4; i++) {
        OK(mach_vm_behavior_set(SELF, at, PAGE, all[i]));
        OK(region(SELF, &found, &size, &info));
        EQUAL(found, at);
        EQUAL(info.behavior, all[i]);
    }
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

static void u30_at_once(void) {
    mach_vm_address_t at = new_memory(4 * PAGE);
    fill(at, 4 * PAGE, 1);
    OK(vm_behavior_set(SELF, at, 4 * PAGE, VM_BEHAVIOR_WILLNEED));
    OK(vm_behavior_set(SELF, at, 4 * PAGE, VM_BEHAVIOR_DONTNEED));
    CHECK(holds(at, 4 * PAGE, 0, 1)); /* needed less, not forgotten */
    OK(vm_behavior_set(SELF, at + PAGE, PAGE, VM_BEHAVIOR_FREE));
    CHECK(holds(at, PAGE, 0, 1) && zero(at + PAGE, PAGE) && holds(at + 2 * PAGE, 2 * PAGE, 2 * PAGE, 1));
    OK(vm_behavior_set(SELF, at + 2 * PAGE, PAGE, VM_BEHAVIOR_ZERO));
    CHECK(zero(at + 2 * PAGE, PAGE) && holds(at + 3 * PAGE, PAGE, 3 * PAGE, 1));
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

/* What others see, and what the system may forget by itself, cannot be reused in place. */
static void u30_can_reuse(void) {
    mach_vm_address_t at = 0, plain = new_memory(2 * PAGE), other = 0;
    vm_prot_t cur, max;
    OK(mach_vm_allocate(SELF, &at, 2 * PAGE,
                        VM_FLAGS_ANYWHERE | VM_FLAGS_PURGABLE | VM_MAKE_TAG(VM_MEMORY_MALLOC)));
    fill(at, 2 * PAGE, 1);
    RETURNS(KERN_FAILURE, mach_vm_behavior_set(SELF, at, 2 * PAGE, VM_BEHAVIOR_CAN_REUSE));
    CHECK(holds(at, 2 * PAGE, 0, 1));
    fill(plain, 2 * PAGE, 2);
    OK(mach_vm_behavior_set(SELF, plain, 2 * PAGE, VM_BEHAVIOR_CAN_REUSE));
    OK(mach_vm_remap(SELF, &other, 2 * PAGE, 0, VM_FLAGS_ANYWHERE, SELF, plain, FALSE, &cur, &max, VM_INHERIT_COPY));
    RETURNS(KERN_FAILURE, mach_vm_behavior_set(SELF, plain, 2 * PAGE, VM_BEHAVIOR_CAN_REUSE));
    CHECK(holds(plain, 2 * PAGE, 0, 2) && holds(other, 2 * PAGE, 0, 2));
    OK(mach_vm_deallocate(SELF, at, 2 * PAGE));
    OK(mach_vm_deallocate(SELF, plain, 2 * PAGE));
    OK(mach_vm_deallocate(SELF, other, 2 * PAGE));
}

static void u30_codes(void) {
    mach_vm_address_t at = new_memory(3 * PAGE);
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_behavior_set(SELF, at, PAGE, 99));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_behavior_set(SELF, at, PAGE, -1));
    OK(mach_vm_behavior_set(SELF, at, 0, VM_BEHAVIOR_RANDOM));
    OK(mach_vm_deallocate(SELF, at + PAGE, PAGE));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_behavior_set(SELF, at, 3 * PAGE, VM_BEHAVIOR_RANDOM));
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_behavior_set(MACH_PORT_NULL, at, PAGE, VM_BEHAVIOR_RANDOM));
    RETURNS(MACH_SEND_INVALID_DEST, vm_behavior_set(MACH_PORT_NULL, at, PAGE, VM_BEHAVIOR_RANDOM));
    OK(mach_vm_deallocate(SELF, at, 3 * PAGE));
}

int main(void) {
    u30_remembered();
    u30_at_once();
    u30_can_reuse();
    u30_codes();
    return 0;
}
