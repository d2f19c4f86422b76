/* mach_vm_machine_attribute and vm_machine_attribute: row U28. */
#include "check.h"

static void u28_flushes(void) {
    mach_vm_address_t at = new_memory(2 * PAGE);
    vm_machine_attribute_val_t value;
    int flushes[] = {MATTR_VAL_CACHE_FLUSH, MATTR_VAL_DCACHE_FLUSH, MATTR_VAL_ICACHE_FLUSH, MATTR_VAL_CACHE_SYNC};
    fill(at, 2 * PAGE, 1);
    for (int i = 0; i < 4; i++) {
        value = flushes[i];
        OK(mach_vm_machine_attribute(SELF, at, 2 * PAGE, MATTR_CACHE, &value));
        value = flushes[i];
        OK(vm_machine_attribute(SELF, at + 5, 1, MATTR_CACHE, &value));
    }
    CHECK(holds(at, 2 * PAGE, 0, 1));
    value = MATTR_VAL_CACHE_FLUSH;
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_machine_attribute(MACH_PORT_NULL, at, PAGE, MATTR_CACHE, &value));
    CHECK(mach_vm_machine_attribute(SELF, at, PAGE, 99, &value) != KERN_SUCCESS);
    value = 99;
    CHECK(mach_vm_machine_attribute(SELF, at, PAGE, MATTR_CACHE, &value) != KERN_SUCCESS);
    OK(mach_vm_deallocate(SELF, at, 2 * PAGE));
}

int main(void) {
    u28_flushes();
    return 0;
}
