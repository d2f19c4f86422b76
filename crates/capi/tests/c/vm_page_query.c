/* mach_vm_page_query, vm_map_page_query, mach_vm_page_info and mach_vm_page_range_query: row U25. */
#include "check.h"

static void u25_one_page(void) {
    mach_vm_address_t at = new_memory(2 * PAGE);
    integer_t what = -1, refs = -1;
    OK(mach_vm_page_query(SELF, at, &what, &refs));
    EQUAL(what & VM_PAGE_QUERY_PAGE_PRESENT, 0);
    AT(at)[5] = 1;
    OK(mach_vm_page_query(SELF, at + 100, &what, &refs));
    CHECK(what & VM_PAGE_QUERY_PAGE_PRESENT);
    CHECK(what & VM_PAGE_QUERY_PAGE_DIRTY);
    OK(vm_map_page_query(SELF, at + PAGE, &what, &refs));
    EQUAL(what & VM_PAGE_QUERY_PAGE_PRESENT, 0);
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_page_query(MACH_PORT_NULL, at, &what, &refs));
    RETURNS(MACH_SEND_INVALID_DEST, vm_map_page_query(MACH_PORT_NULL, at, &what, &refs));
    OK(mach_vm_deallocate(SELF, at, 2 * PAGE));
}

static void u25_info(void) {
    mach_vm_address_t at = new_memory(PAGE);
    struct vm_page_info_basic info;
    mach_msg_type_number_t count = VM_PAGE_INFO_BASIC_COUNT;
    AT(at)[5] = 1;
    OK(mach_vm_page_info(SELF, at, VM_PAGE_INFO_BASIC, (vm_page_info_t) &info, &count));
    EQUAL(count, VM_PAGE_INFO_BASIC_COUNT);
    CHECK(info.disposition & VM_PAGE_QUERY_PAGE_PRESENT);
    EQUAL(info.depth, 0);
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_page_info(SELF, at, 99, (vm_page_info_t) &info, &count));
    count = VM_PAGE_INFO_BASIC_COUNT - 1;
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_page_info(SELF, at, VM_PAGE_INFO_BASIC, (vm_page_info_t) &info, &count));
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

static void u25_range(void) {
    mach_vm_address_t at = new_memory(16 * PAGE);
    int what[16];
    mach_vm_size_t count = 16;
    for (int i = 0; i < 16; i += 3) AT(at)[i * PAGE] = 1;
    memset(what, 0xff, sizeof what);
    OK(mach_vm_page_range_query(SELF, at, 16 * PAGE, (mach_vm_address_t) (uintptr_t) what, &count));
    EQUAL(count, 16);
    for (int i = 0; i < 16; i++) EQUAL(!!(what[i] & VM_PAGE_QUERY_PAGE_PRESENT), i % 3 == 0);
    RETURNS(MACH_SEND_INVALID_DEST,
            mach_vm_page_range_query(MACH_PORT_NULL, at, PAGE, (mach_vm_address_t) (uintptr_t) what, &count));
    OK(mach_vm_deallocate(SELF, at, 16 * PAGE));
}

int main(void) {
    u25_one_page();
    u25_info();
    u25_range();
    return 0;
}
