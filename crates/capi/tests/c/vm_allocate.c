/* mach_vm_allocate and vm_allocate: rows U01 and U02, traps Z01, Z03, Z11, Z13. */
#include "check.h"

static void u01_zeroes_that_can_be_written(void) {
    vm_address_t at = 0;
    OK(vm_allocate(SELF, &at, 3 * PAGE, VM_FLAGS_ANYWHERE));
    CHECK(at != 0 && at % PAGE == 0);
    CHECK(zero(at, 3 * PAGE));
    fill(at, 3 * PAGE, 1);
    CHECK(holds(at, 3 * PAGE, 0, 1));
    OK(vm_deallocate(SELF, at, 3 * PAGE));
}

static void u01_sizes_are_rounded_up(void) {
    mach_vm_address_t a = new_memory(1), b = new_memory(PAGE + 1), c = new_memory(1);
    AT(a)[PAGE - 1] = 1;
    AT(b)[2 * PAGE - 1] = 1;
    CHECK(b >= a + PAGE && c >= b + 2 * PAGE);
    OK(mach_vm_deallocate(SELF, a, PAGE));
    OK(mach_vm_deallocate(SELF, b, 2 * PAGE));
    OK(mach_vm_deallocate(SELF, c, PAGE));
}

static void u01_size_0_is_address_0(void) {
    mach_vm_address_t at = 12345;
    OK(mach_vm_allocate(SELF, &at, 0, VM_FLAGS_ANYWHERE));
    EQUAL(at, 0);
    at = 12345;
    OK(mach_vm_allocate(SELF, &at, 0, VM_FLAGS_FIXED));
    EQUAL(at, 0);
}

static void u02_flags_come_before_size_0(void) {
    mach_vm_address_t at = 12345;
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_allocate(SELF, &at, 0, 0x2000));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_allocate(SELF, &at, PAGE, 0x2000 | VM_FLAGS_ANYWHERE));
    EQUAL(at, 12345);
}

static void u01_first_fit_ignores_the_hint(void) {
    mach_vm_address_t a = new_memory(PAGE), b = new_memory(PAGE), c = new_memory(PAGE);
    CHECK(a < b && b < c);
    OK(mach_vm_deallocate(SELF, a, PAGE));
    mach_vm_address_t again = c + 100 * PAGE;
    OK(mach_vm_allocate(SELF, &again, PAGE, VM_FLAGS_ANYWHERE));
    EQUAL(again, a);
    OK(mach_vm_deallocate(SELF, again, PAGE));
    OK(mach_vm_deallocate(SELF, b, PAGE));
    OK(mach_vm_deallocate(SELF, c, PAGE));
}

static void u01_fixed(void) {
    mach_vm_address_t at = new_memory(4 * PAGE), in = at + PAGE, low = at + PAGE + 17, zero_address = 0;
    RETURNS(KERN_NO_SPACE, mach_vm_allocate(SELF, &in, PAGE, VM_FLAGS_FIXED));
    EQUAL(in, at + PAGE);
    OK(mach_vm_deallocate(SELF, at + PAGE, PAGE));
    OK(mach_vm_allocate(SELF, &low, 1, VM_FLAGS_FIXED)); /* an address inside the page */
    EQUAL(low, at + PAGE);
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_allocate(SELF, &zero_address, PAGE, VM_FLAGS_FIXED));
    EQUAL(zero_address, 0);
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

static void u02_overwrite(void) {
    mach_vm_address_t at = new_memory(3 * PAGE), mid = at + PAGE;
    fill(at, 3 * PAGE, 2);
    OK(mach_vm_allocate(SELF, &mid, PAGE, VM_FLAGS_FIXED | VM_FLAGS_OVERWRITE));
    EQUAL(mid, at + PAGE);
    CHECK(holds(at, PAGE, 0, 2) && zero(mid, PAGE) && holds(mid + PAGE, PAGE, 2 * PAGE, 2));
    OK(mach_vm_deallocate(SELF, at, 3 * PAGE));
}

static void z01_overflow(void) {
    mach_vm_address_t at = 12345;
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_allocate(SELF, &at, ~(mach_vm_size_t) 0, VM_FLAGS_ANYWHERE));
    at = ~(mach_vm_address_t) 0 - PAGE;
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_allocate(SELF, &at, 4 * PAGE, VM_FLAGS_FIXED));
    EQUAL(at, ~(mach_vm_address_t) 0 - PAGE);
    at = 0;
    RETURNS(KERN_NO_SPACE, mach_vm_allocate(SELF, &at, (mach_vm_size_t) 1 << 46, VM_FLAGS_ANYWHERE));
}

static void u02_tags_are_remembered(void) {
    mach_vm_address_t at = 0, found;
    mach_vm_size_t size;
    OK(mach_vm_allocate(SELF, &at, PAGE, VM_FLAGS_ANYWHERE | VM_MAKE_TAG(VM_MEMORY_APPLICATION_SPECIFIC_1)));
    struct vm_region_extended_info info;
    mach_msg_type_number_t count = VM_REGION_EXTENDED_INFO_COUNT;
    mach_port_t name;
    found = at;
    OK(mach_vm_region(SELF, &found, &size, VM_REGION_EXTENDED_INFO, (vm_region_info_t) &info, &count, &name));
    EQUAL(found, at);
    EQUAL(info.user_tag, VM_MEMORY_APPLICATION_SPECIFIC_1);
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

/* The addresses of permanent memory are not given out again; the contents go. */
static void u02_permanent(void) {
    mach_vm_address_t at = 0, again;
    OK(mach_vm_allocate(SELF, &at, 2 * PAGE, VM_FLAGS_ANYWHERE | VM_FLAGS_PERMANENT));
    fill(at, 2 * PAGE, 1);
    OK(mach_vm_deallocate(SELF, at, 2 * PAGE));
    EQUAL(rights(SELF, at), VM_PROT_NONE);
    again = at;
    RETURNS(KERN_NO_SPACE, mach_vm_allocate(SELF, &again, PAGE, VM_FLAGS_FIXED));
    again = new_memory(PAGE);
    CHECK(again < at || again >= at + 2 * PAGE);
    OK(mach_vm_deallocate(SELF, again, PAGE));
}

static void u02_superpages(void) {
    mach_vm_address_t at = 0;
    mach_vm_size_t large = 2 << 20;
    OK(mach_vm_allocate(SELF, &at, 2 * large, VM_FLAGS_ANYWHERE | VM_FLAGS_SUPERPAGE_SIZE_2MB));
    EQUAL(at % large, 0);
    AT(at)[large] = 1;
    CHECK(zero(at, large));
    OK(mach_vm_deallocate(SELF, at, 2 * large));
    RETURNS(KERN_INVALID_ARGUMENT,
            mach_vm_allocate(SELF, &at, PAGE, VM_FLAGS_ANYWHERE | VM_FLAGS_SUPERPAGE_SIZE_2MB));
}

static void u01_no_task(void) {
    mach_vm_address_t at = 12345;
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_allocate(MACH_PORT_NULL, &at, PAGE, VM_FLAGS_ANYWHERE));
    RETURNS(MACH_SEND_INVALID_DEST, vm_allocate(MACH_PORT_NULL, (vm_address_t *) &at, PAGE, VM_FLAGS_ANYWHERE));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_allocate(mach_host_self(), &at, PAGE, VM_FLAGS_ANYWHERE));
    EQUAL(at, 12345);
}

int main(void) {
    u01_zeroes_that_can_be_written();
    u01_sizes_are_rounded_up();
    u01_size_0_is_address_0();
    u02_flags_come_before_size_0();
    u01_first_fit_ignores_the_hint();
    u01_fixed();
    u02_overwrite();
    z01_overflow();
    u02_tags_are_remembered();
    u02_permanent();
    u02_superpages();
    u01_no_task();
    return 0;
}
