/* mach_vm_region_recurse, vm_region_recurse and _64: row U24. */
#include "check.h"

static void u24_versions(void) {
    mach_vm_address_t at = new_memory(4 * PAGE), found;
    mach_vm_size_t size;
    natural_t depth;
    mach_msg_type_number_t counts[] = {VM_REGION_SUBMAP_SHORT_INFO_COUNT_64, VM_REGION_SUBMAP_INFO_V0_COUNT_64,
                                       VM_REGION_SUBMAP_INFO_V1_COUNT_64, VM_REGION_SUBMAP_INFO_V2_COUNT_64};
    OK(mach_vm_inherit(SELF, at, 4 * PAGE, VM_INHERIT_NONE));
    fill(at, 2 * PAGE, 1);
    for (int i = 0; i < 4; i++) {
        union {
            struct vm_region_submap_short_info_64 brief;
            struct vm_region_submap_info_64 full;
            int words[100];
        } info;
        memset(&info, 0xee, sizeof info);
        mach_msg_type_number_t count = counts[i];
        found = at + PAGE;
        depth = 5;
        OK(mach_vm_region_recurse(SELF, &found, &size, &depth, info.words, &count));
        EQUAL(found, at);
        EQUAL(size, 4 * PAGE);
        EQUAL(depth, 0);
        EQUAL(count, counts[i]);
        EQUAL(info.words[counts[i]], (int) 0xeeeeeeee); /* nothing beyond */
        EQUAL(info.brief.protection, VM_PROT_DEFAULT);
        EQUAL(info.brief.inheritance, VM_INHERIT_NONE);
        if (i == 0) {
            EQUAL(info.brief.is_submap, FALSE);
            EQUAL(info.brief.share_mode, SM_PRIVATE);
        } else {
            EQUAL(info.full.is_submap, FALSE);
            CHECK(info.full.pages_resident + info.full.pages_swapped_out >= 2);
            EQUAL(info.full.share_mode, SM_PRIVATE);
        }
    }
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

/* The loop that every region walker has. */
static void u24_walk(void) {
    vm_address_t at = 0, mine = new_memory(PAGE);
    vm_size_t size;
    natural_t depth = 0;
    int found = 0;
    for (;;) {
        struct vm_region_submap_info_64 info;
        mach_msg_type_number_t count = VM_REGION_SUBMAP_INFO_COUNT_64;
        kern_return_t kr = vm_region_recurse_64(SELF, &at, &size, &depth, (vm_region_recurse_info_64_t) &info, &count);
        if (kr == KERN_INVALID_ADDRESS) break;
        OK(kr);
        if (info.is_submap) {
            depth++;
            continue;
        }
        found += mine >= at && mine < at + size;
        at += size;
    }
    EQUAL(found, 1);
    OK(vm_deallocate(SELF, mine, PAGE));
}

static void u24_codes(void) {
    mach_vm_address_t at = 0;
    mach_vm_size_t size;
    natural_t depth = 0;
    int info[100];
    mach_msg_type_number_t count = VM_REGION_SUBMAP_SHORT_INFO_COUNT_64 - 1;
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_region_recurse(SELF, &at, &size, &depth, info, &count));
    count = 100;
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_region_recurse(MACH_PORT_NULL, &at, &size, &depth, info, &count));
    at = ~(mach_vm_address_t) 0 - PAGE;
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_region_recurse(SELF, &at, &size, &depth, info, &count));
}

int main(void) {
    u24_versions();
    u24_walk();
    u24_codes();
    return 0;
}
