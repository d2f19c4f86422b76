/* mach_vm_read_list and vm_read_list: row U18. */
#include "check.h"

static void u18_many(void) {
    mach_vm_address_t at = new_memory(2 * VM_MAP_ENTRY_MAX * PAGE);
    static mach_vm_read_entry_t list;
    fill(at, 2 * VM_MAP_ENTRY_MAX * PAGE, 1);
    for (int i = 0; i < VM_MAP_ENTRY_MAX; i++) {
        list[i].address = at + 2 * i * PAGE + i;
        list[i].size = PAGE;
    }
    OK(mach_vm_read_list(SELF, list, VM_MAP_ENTRY_MAX));
    for (int i = 0; i < VM_MAP_ENTRY_MAX; i++) {
        EQUAL(list[i].size, PAGE);
        CHECK(holds(list[i].address, PAGE, 2 * i * PAGE + i, 1));
        OK(mach_vm_deallocate(SELF, list[i].address, PAGE));
    }
    OK(mach_vm_deallocate(SELF, at, 2 * VM_MAP_ENTRY_MAX * PAGE));
}

/* The entries before the first that fails are read; the others are 0. */
static void u18_first_failure(void) {
    mach_vm_address_t at = new_memory(PAGE);
    static vm_read_entry_t list;
    fill(at, PAGE, 2);
    list[0].address = at;
    list[0].size = PAGE;
    list[1].address = at + PAGE * 1000000;
    list[1].size = PAGE;
    list[2].address = at;
    list[2].size = PAGE;
    RETURNS(KERN_INVALID_ADDRESS, vm_read_list(SELF, list, 3));
    CHECK(holds(list[0].address, PAGE, 0, 2) && list[0].address != at);
    EQUAL(list[1].address, 0);
    EQUAL(list[1].size, 0);
    EQUAL(list[2].address, 0);
    EQUAL(list[2].size, 0);
    OK(mach_vm_deallocate(SELF, list[0].address, PAGE));
    RETURNS(KERN_INVALID_ARGUMENT, vm_read_list(SELF, list, VM_MAP_ENTRY_MAX + 1));
    RETURNS(MACH_SEND_INVALID_DEST, vm_read_list(MACH_PORT_NULL, list, 1));
    OK(vm_read_list(SELF, list, 0));
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

int main(void) {
    u18_many();
    u18_first_failure();
    return 0;
}
