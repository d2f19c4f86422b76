// run: MACHVM_MEMORY=64M
/* vm_statistics, host_statistics, host_statistics64 and vm_cache_statistics: rows U26 and U27. */
#include "check.h"

static void u26_they_agree_and_grow(void) {
    vm_statistics_data_t before, now;
    struct vm_statistics64 wide;
    mach_msg_type_number_t count = HOST_VM_INFO_COUNT;
    OK(vm_statistics(SELF, &before));
    mach_vm_address_t at = new_memory(100 * PAGE);
    fill(at, 100 * PAGE, 1);
    OK(host_statistics(mach_host_self(), HOST_VM_INFO, (host_info_t) &now, &count));
    EQUAL(count, HOST_VM_INFO_COUNT);
    CHECK(now.faults >= before.faults + 1 && now.zero_fill_count >= before.zero_fill_count + 100);
    CHECK(now.free_count <= before.free_count);
    count = HOST_VM_INFO64_COUNT;
    OK(host_statistics64(mach_host_self(), HOST_VM_INFO64, (host_info64_t) &wide, &count));
    EQUAL(count, HOST_VM_INFO64_COUNT);
    CHECK(wide.zero_fill_count >= now.zero_fill_count && wide.faults >= now.faults);
    CHECK(wide.internal_page_count >= 100);
    CHECK((uint64_t) wide.free_count + wide.active_count + wide.inactive_count + wide.wire_count > 100);
    OK(mach_vm_deallocate(SELF, at, 100 * PAGE));
}

/* Programs built for an older revision pass a smaller count. */
static void u26_revisions(void) {
    int info[64];
    mach_msg_type_number_t narrow[] = {HOST_VM_INFO_REV0_COUNT, HOST_VM_INFO_REV1_COUNT, HOST_VM_INFO_REV2_COUNT};
    for (int i = 0; i < 3; i++) {
        mach_msg_type_number_t count = narrow[i];
        memset(info, 0xee, sizeof info);
        OK(host_statistics(mach_host_self(), HOST_VM_INFO, info, &count));
        EQUAL(count, narrow[i]);
        EQUAL(info[narrow[i]], (int) 0xeeeeeeee);
    }
    mach_msg_type_number_t count = HOST_VM_INFO64_REV0_COUNT;
    memset(info, 0xee, sizeof info);
    OK(host_statistics64(mach_host_self(), HOST_VM_INFO64, info, &count));
    EQUAL(count, HOST_VM_INFO64_REV0_COUNT);
    EQUAL(info[HOST_VM_INFO64_REV0_COUNT], (int) 0xeeeeeeee);
    count = HOST_VM_INFO_REV0_COUNT - 1;
    CHECK(host_statistics(mach_host_self(), HOST_VM_INFO, info, &count) != KERN_SUCCESS);
    count = 64;
    RETURNS(KERN_INVALID_ARGUMENT, host_statistics(mach_host_self(), 99, info, &count));
    RETURNS(KERN_INVALID_ARGUMENT, host_statistics64(mach_host_self(), 99, info, &count));
}

static void u27_cache(void) {
    struct vm_cache_statistics cache;
    OK(vm_cache_statistics(SELF, &cache));
    CHECK(cache.cache_object_count >= 0 && cache.laundry_count >= 0);
}

static void u26_codes(void) {
    vm_statistics_data_t narrow;
    struct vm_cache_statistics cache;
    CHECK(vm_statistics(MACH_PORT_NULL, &narrow) != KERN_SUCCESS);
    CHECK(vm_cache_statistics(MACH_PORT_NULL, &cache) != KERN_SUCCESS);
}

int main(void) {
    u26_they_agree_and_grow();
    u26_revisions();
    u27_cache();
    u26_codes();
    return 0;
}
