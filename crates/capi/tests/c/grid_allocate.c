// timeout: 120
/* Every way to allocate times sizes times ways to say where: rows U01, U02, U05, U06, traps Z01, Z03, Z13. */
#include "grid.h"

#define MASK_2M ((mach_vm_offset_t) 0x1fffff)

static kern_return_t map(vm_map_t task, mach_vm_address_t *at, mach_vm_size_t size, mach_vm_offset_t mask, int flags,
                         mem_entry_name_port_t entry) {
    return mach_vm_map(task, at, size, mask, flags, entry, 0, FALSE, VM_PROT_DEFAULT, VM_PROT_ALL, VM_INHERIT_DEFAULT);
}
static kern_return_t by_map(vm_map_t task, mach_vm_address_t *at, mach_vm_size_t size, int flags) {
    return map(task, at, size, 0, flags, MACH_PORT_NULL);
}
static kern_return_t by_map_4k(vm_map_t task, mach_vm_address_t *at, mach_vm_size_t size, int flags) {
    return map(task, at, size, 0xfff, flags, MACH_PORT_NULL);
}
static kern_return_t by_map_2m(vm_map_t task, mach_vm_address_t *at, mach_vm_size_t size, int flags) {
    return map(task, at, size, MASK_2M, flags, MACH_PORT_NULL);
}
static mem_entry_name_port_t new_entry(mach_vm_size_t size) {
    mem_entry_name_port_t entry = MACH_PORT_NULL;
    mach_vm_size_t made = size;
    OK(mach_make_memory_entry_64(SELF, &made, 0, MAP_MEM_NAMED_CREATE | VM_PROT_ALL, &entry, MACH_PORT_NULL));
    EQUAL(made, round_page(size));
    return entry;
}
static kern_return_t by_entry(vm_map_t task, mach_vm_address_t *at, mach_vm_size_t size, int flags) {
    mem_entry_name_port_t entry = new_entry(size);
    kern_return_t code = map(task, at, round_page(size), 0, flags, entry);
    OK(mach_port_deallocate(SELF, entry));
    return code;
}

typedef kern_return_t allocator(vm_map_t, mach_vm_address_t *, mach_vm_size_t, int);
static allocator *const ALLOCATORS[] = {mach_vm_allocate, by_map, by_map_4k, by_map_2m, by_entry};

/* Where it can go, by the allocator's own choice. */
static mach_vm_address_t where(allocator *allocate, mach_vm_size_t size, enum how how) {
    mach_vm_address_t at = 0;
    if (how == ANYWHERE) return 0;
    OK(allocate(SELF, &at, size + 4 * PAGE, VM_FLAGS_ANYWHERE));
    OK(mach_vm_deallocate(SELF, at, size + 4 * PAGE));
    return at + (how == UNALIGNED);
}

static void u01_memory_is_zero_aligned_and_taken(allocator *allocate, mach_vm_size_t size, enum how how) {
    int flags = how == ANYWHERE ? VM_FLAGS_ANYWHERE : VM_FLAGS_FIXED;
    mach_vm_address_t want = where(allocate, size, how);
    mach_vm_size_t all = round_page(size);
    for (size_t p = 0; p < COUNT_OF(PATTERNS); p++) {
        mach_vm_address_t at = want;
        OK(allocate(SELF, &at, size, flags));
        EQUAL(at != 0, size != 0);
        if (size == 0) return;
        EQUAL(at & (allocate == by_map_2m && how == ANYWHERE ? MASK_2M : PAGE - 1), 0);
        if (how != ANYWHERE) EQUAL(at, trunc_page(want));
        CHECK(zero(at, all));
        put_words(at, all, p, at);
        same_words(at, all, p, at);
        for (mach_vm_address_t i = at; i < at + all; i += PAGE) {
            mach_vm_address_t again = i;
            RETURNS(KERN_NO_SPACE, allocate(SELF, &again, PAGE, VM_FLAGS_FIXED));
            EQUAL(again, i);
        }
        OK(mach_vm_deallocate(SELF, at, all));
    }
}

static void u02_bad_arguments(allocator *allocate, mach_vm_size_t size, enum how how) {
    int flags = how == ANYWHERE ? VM_FLAGS_ANYWHERE : VM_FLAGS_FIXED;
    int known = VM_FLAGS_USER_ALLOCATE | VM_FLAGS_USER_MAP | VM_FLAGS_USER_REMAP | VM_FLAGS_ALIAS_MASK;
    mach_vm_address_t want = where(allocate, size, how), at = want;
    RETURNS(MACH_SEND_INVALID_DEST, allocate(VM_MAP_NULL, &at, size, flags));
    for (int bit = 0; bit < 32; bit++) {
        int flag = (int) (1u << bit);
        if (!(known & flag)) RETURNS(KERN_INVALID_ARGUMENT, allocate(SELF, &at, size, flags | flag));
    }
    EQUAL(at, want);
}

static void u05_bad_rights_and_inheritance(mach_vm_offset_t mask, int of_entry, mach_vm_size_t size, enum how how) {
    static const vm_prot_t prots[] = {VM_PROT_ALL + 1, ~VM_PROT_IS_MASK, INT32_MAX};
    static const vm_inherit_t inherits[] = {VM_INHERIT_LAST_VALID + 1, UINT32_MAX};
    int flags = how == ANYWHERE ? VM_FLAGS_ANYWHERE : VM_FLAGS_FIXED;
    mem_entry_name_port_t entry = of_entry ? new_entry(size) : MACH_PORT_NULL;
    mach_vm_address_t want = where(by_map, size, how), at = want;
    for (size_t i = 0; i < COUNT_OF(prots); i++) {
        RETURNS(KERN_INVALID_ARGUMENT, mach_vm_map(SELF, &at, size, mask, flags, entry, 0, FALSE, prots[i],
                                                   VM_PROT_ALL, VM_INHERIT_DEFAULT));
        RETURNS(KERN_INVALID_ARGUMENT, mach_vm_map(SELF, &at, size, mask, flags, entry, 0, FALSE, VM_PROT_DEFAULT,
                                                   prots[i], VM_INHERIT_DEFAULT));
    }
    for (size_t i = 0; i < COUNT_OF(inherits); i++)
        RETURNS(KERN_INVALID_ARGUMENT, mach_vm_map(SELF, &at, size, mask, flags, entry, 0, FALSE, VM_PROT_DEFAULT,
                                                   VM_PROT_ALL, inherits[i]));
    EQUAL(at, want);
    if (of_entry) OK(mach_port_deallocate(SELF, entry));
}

/* Address 0 is nobody's; a fixed address must fit the mask. Only vm_allocate has memory of no size. */
static void u01_addresses(allocator *allocate, mach_vm_size_t size) {
    kern_return_t nothing = allocate == mach_vm_allocate ? KERN_SUCCESS : KERN_INVALID_ARGUMENT;
    mach_vm_address_t at = 0;
    RETURNS(size ? KERN_INVALID_ADDRESS : nothing, allocate(SELF, &at, size, VM_FLAGS_FIXED));
    EQUAL(at, 0);
    OK(by_map_2m(SELF, &at, size + 4 * PAGE, VM_FLAGS_ANYWHERE));
    OK(mach_vm_deallocate(SELF, at, size + 4 * PAGE));
    at += PAGE;
    kern_return_t fits = allocate == by_map_2m ? KERN_NO_SPACE : KERN_SUCCESS;
    RETURNS(size ? fits : nothing, allocate(SELF, &at, size, VM_FLAGS_FIXED));
    if (size && fits == KERN_SUCCESS) OK(mach_vm_deallocate(SELF, at, size));
}

static void z01_sizes(allocator *allocate) {
    mach_vm_address_t at = 0;
    RETURNS(allocate == mach_vm_allocate ? KERN_SUCCESS : KERN_INVALID_ARGUMENT,
            allocate(SELF, &at, 0, VM_FLAGS_ANYWHERE));
    EQUAL(at, 0);
    if (allocate == by_entry) return; /* there is no such entry: see mach_make_memory_entry.c */
    RETURNS(KERN_INVALID_ARGUMENT, allocate(SELF, &at, UINT64_MAX, VM_FLAGS_ANYWHERE));
    RETURNS(KERN_NO_SPACE, allocate(SELF, &at, UINT64_MAX - PAGE + 1, VM_FLAGS_ANYWHERE));
    EQUAL(at, 0);
}

/* vm_allocate does not look at a hint; vm_map searches from it up and not again from below. */
static void u02_the_highest_hint(allocator *allocate) {
    mach_vm_address_t hint = UINT64_MAX - PAGE + 1, at = hint;
    if (allocate == mach_vm_allocate) {
        OK(allocate(SELF, &at, PAGE, VM_FLAGS_ANYWHERE));
        CHECK(at != hint && at % PAGE == 0);
        OK(mach_vm_deallocate(SELF, at, PAGE));
    } else {
        RETURNS(KERN_NO_SPACE, allocate(SELF, &at, PAGE, VM_FLAGS_ANYWHERE));
        EQUAL(at, hint);
    }
}

static void u01_first_fit(allocator *allocate) {
    mach_vm_address_t first = 0, second;
    OK(allocate(SELF, &first, PAGE, VM_FLAGS_ANYWHERE));
    second = first;
    OK(allocate(SELF, &second, PAGE, VM_FLAGS_ANYWHERE));
    CHECK(second > first);
    for (mach_vm_address_t i = first; i <= second; i += PAGE) {
        mach_vm_address_t at = i;
        RETURNS(KERN_NO_SPACE, allocate(SELF, &at, PAGE, VM_FLAGS_FIXED));
    }
    OK(mach_vm_deallocate(SELF, first, PAGE));
    OK(mach_vm_deallocate(SELF, second, PAGE));
}

static void u05_no_address_fits_a_mask_of_ones(mach_vm_size_t size) {
    mach_vm_address_t at = 1;
    RETURNS(size ? KERN_NO_SPACE : KERN_INVALID_ARGUMENT,
            map(SELF, &at, size, UINT64_MAX, VM_FLAGS_ANYWHERE, MACH_PORT_NULL));
    EQUAL(at, 1);
}

int main(void) {
    for (size_t a = 0; a < COUNT_OF(ALLOCATORS); a++) {
        allocator *allocate = ALLOCATORS[a];
        for (size_t s = 0; s < COUNT_OF(SIZES); s++) {
            mach_vm_size_t size = SIZES[s];
            for (enum how how = ANYWHERE; how < HOWS; how++) {
                u02_bad_arguments(allocate, size, how);
                if (allocate != mach_vm_allocate)
                    u05_bad_rights_and_inheritance(allocate == by_map_2m ? MASK_2M : 0, allocate == by_entry, size,
                                                   how);
                if (size || allocate == mach_vm_allocate) u01_memory_is_zero_aligned_and_taken(allocate, size, how);
            }
            u01_addresses(allocate, size);
        }
        z01_sizes(allocate);
        u02_the_highest_hint(allocate);
        u01_first_fit(allocate);
    }
    for (size_t s = 0; s < COUNT_OF(SIZES); s++) u05_no_address_fits_a_mask_of_ones(SIZES[s]);
    return 0;
}
