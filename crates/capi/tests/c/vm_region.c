/* mach_vm_region, vm_region and vm_region_64: rows U22 and U23, trap Z06. */
#include "check.h"

static void u23_basic(void) {
    mach_vm_address_t at = new_memory(4 * PAGE), found = at + 2 * PAGE + 5;
    mach_vm_size_t size = 0;
    vm_region_basic_info_data_64_t info;
    OK(mach_vm_protect(SELF, at, PAGE, FALSE, VM_PROT_READ));
    OK(region(SELF, &found, &size, &info)); /* an address inside */
    EQUAL(found, at + PAGE);
    EQUAL(info.protection, VM_PROT_DEFAULT);
    EQUAL(info.max_protection, VM_PROT_ALL);
    EQUAL(info.inheritance, VM_INHERIT_COPY);
    EQUAL(info.behavior, VM_BEHAVIOR_DEFAULT);
    EQUAL(info.user_wired_count, 0);
    EQUAL(info.shared, FALSE);
    CHECK(found + size >= at + 4 * PAGE);
    found = at;
    OK(region(SELF, &found, &size, &info));
    EQUAL(found, at);
    EQUAL(size, PAGE);
    EQUAL(info.protection, VM_PROT_READ);
    OK(mach_vm_deallocate(SELF, at, PAGE));
    found = at;
    OK(region(SELF, &found, &size, &info)); /* the next one */
    EQUAL(found, at + PAGE);
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

static void u22_narrow(void) {
    vm_address_t at = 0, found;
    vm_size_t size;
    mach_port_t name = 5;
    OK(vm_allocate(SELF, &at, PAGE, VM_FLAGS_ANYWHERE));
    OK(vm_inherit(SELF, at, PAGE, VM_INHERIT_NONE));
    vm_region_basic_info_data_64_t wide;
    mach_msg_type_number_t count = VM_REGION_BASIC_INFO_COUNT_64;
    found = at;
    OK(vm_region_64(SELF, &found, &size, VM_REGION_BASIC_INFO_64, (vm_region_info_t) &wide, &count, &name));
    EQUAL(found, at);
    EQUAL(count, VM_REGION_BASIC_INFO_COUNT_64);
    EQUAL(wide.inheritance, VM_INHERIT_NONE);
    EQUAL(name, MACH_PORT_NULL);
    /* vm_region_64 gives the wide structure under either name */
    count = VM_REGION_BASIC_INFO_COUNT_64;
    OK(vm_region_64(SELF, &found, &size, VM_REGION_BASIC_INFO, (vm_region_info_t) &wide, &count, &name));
    EQUAL(wide.inheritance, VM_INHERIT_NONE);
    OK(vm_deallocate(SELF, at, PAGE));
}

static void u23_extended_and_top(void) {
    mach_vm_address_t at = new_memory(8 * PAGE), found = at, other = 0;
    mach_vm_size_t size;
    struct vm_region_extended_info extended;
    struct vm_region_top_info top;
    mach_msg_type_number_t count = VM_REGION_EXTENDED_INFO_COUNT;
    mach_port_t name;
    vm_prot_t cur, max;
    OK(mach_vm_inherit(SELF, at, 8 * PAGE, VM_INHERIT_NONE)); /* a region of its own */
    fill(at, 3 * PAGE, 1);
    OK(mach_vm_region(SELF, &found, &size, VM_REGION_EXTENDED_INFO, (vm_region_info_t) &extended, &count, &name));
    EQUAL(found, at);
    EQUAL(size, 8 * PAGE);
    EQUAL(extended.protection, VM_PROT_DEFAULT);
    /* writes in a row are met with pages ahead of them */
    CHECK(extended.pages_resident + extended.pages_swapped_out >= 3 && extended.pages_resident <= 8);
    EQUAL(extended.share_mode, SM_PRIVATE);
    EQUAL(extended.external_pager, 0);
    OK(mach_vm_remap(SELF, &other, 8 * PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, FALSE, &cur, &max, VM_INHERIT_SHARE));
    count = VM_REGION_TOP_INFO_COUNT;
    OK(mach_vm_region(SELF, &found, &size, VM_REGION_TOP_INFO, (vm_region_info_t) &top, &count, &name));
    EQUAL(found, at);
    EQUAL(top.ref_count, 2);
    CHECK(top.share_mode == SM_SHARED || top.share_mode == SM_SHARED_ALIASED || top.share_mode == SM_PRIVATE_ALIASED);
    OK(mach_vm_deallocate(SELF, at, 8 * PAGE));
    OK(mach_vm_deallocate(SELF, other, 8 * PAGE));
}

/* A walk of everything: in order, without overlaps, ending with KERN_INVALID_ADDRESS. */
static void u22_walk(void) {
    mach_vm_address_t mine[40], at = 0, end = 0;
    int seen = 0, on_stack = 0, text = 0, heap = 0, regions = 0;
    char local = 0, *block = malloc(100);
    for (int i = 0; i < 40; i++) {
        mine[i] = new_memory(PAGE);
        if (i % 2) OK(mach_vm_protect(SELF, mine[i], PAGE, FALSE, VM_PROT_READ));
    }
    for (;;) {
        mach_vm_size_t size = 0;
        vm_region_basic_info_data_64_t info;
        kern_return_t kr = region(SELF, &at, &size, &info);
        if (kr != KERN_SUCCESS) {
            EQUAL(kr, KERN_INVALID_ADDRESS);
            break;
        }
        CHECK(at >= end && size > 0 && at % PAGE == 0 && size % PAGE == 0);
        end = at + size;
#define INSIDE(p) ((uintptr_t) (p) >= at && (uintptr_t) (p) < end)
        for (int i = 0; i < 40; i++)
            if (INSIDE(mine[i])) {
                seen++;
                EQUAL(info.protection, i % 2 ? VM_PROT_READ : VM_PROT_DEFAULT);
            }
        if (INSIDE(&local)) on_stack += info.protection == VM_PROT_DEFAULT;
        if (INSIDE(block)) heap += info.protection == VM_PROT_DEFAULT;
        if (INSIDE(u22_narrow)) text += info.protection == (VM_PROT_READ | VM_PROT_EXECUTE);
        at = end;
        regions++;
    }
    EQUAL(seen, 40);
    EQUAL(on_stack, 1);
    EQUAL(heap, 1);
    EQUAL(text, 1);
    CHECK(regions > 10);
    for (int i = 0; i < 40; i++) OK(mach_vm_deallocate(SELF, mine[i], PAGE));
    free(block);
}

static void z06_codes(void) {
    mach_vm_address_t at = ~(mach_vm_address_t) 0 - PAGE, here = new_memory(PAGE), found = here;
    mach_vm_size_t size = 5;
    vm_region_basic_info_data_64_t info;
    mach_msg_type_number_t count = VM_REGION_BASIC_INFO_COUNT_64 - 1;
    mach_port_t name;
    RETURNS(KERN_INVALID_ADDRESS, region(SELF, &at, &size, &info));
    EQUAL(size, 5);
    RETURNS(KERN_INVALID_ARGUMENT,
            mach_vm_region(SELF, &found, &size, VM_REGION_BASIC_INFO_64, (vm_region_info_t) &info, &count, &name));
    count = 1000; /* more than there is: as much as there is */
    int large[1000];
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_region(SELF, &found, &size, 99, large, &count, &name));
    OK(mach_vm_region(SELF, &found, &size, VM_REGION_BASIC_INFO_64, large, &count, &name));
    EQUAL(count, VM_REGION_BASIC_INFO_COUNT_64);
    RETURNS(MACH_SEND_INVALID_DEST, region(MACH_PORT_NULL, &found, &size, &info));
    OK(mach_vm_deallocate(SELF, here, PAGE));
}

/* A new task has nothing. */
static void u22_of_an_empty_task(void) {
    task_t task;
    mach_vm_address_t at = 0;
    mach_vm_size_t size;
    vm_region_basic_info_data_64_t info;
    OK(task_create(SELF, NULL, 0, FALSE, &task));
    RETURNS(KERN_INVALID_ADDRESS, region(task, &at, &size, &info));
    OK(mach_vm_allocate(task, &at, 3 * PAGE, VM_FLAGS_ANYWHERE));
    mach_vm_address_t found = 0;
    OK(region(task, &found, &size, &info));
    EQUAL(found, at);
    EQUAL(size, 3 * PAGE);
    OK(task_terminate(task));
    OK(mach_port_deallocate(SELF, task));
}

int main(void) {
    u23_basic();
    u22_narrow();
    u23_extended_and_top();
    u22_walk();
    z06_codes();
    u22_of_an_empty_task();
    return 0;
}
