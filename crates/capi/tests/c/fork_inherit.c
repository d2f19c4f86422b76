// run: MACHVM_FAULTS=signal
// run: MACHVM_FAULTS=thread
/* The contract, "fork(2) of a process that uses the library gives the child a task of its own":
 * U04 vm_inherit, M61. */
#include "fork.h"

static void inheritance(void) {
    mach_vm_address_t a = new_memory(6 * PAGE);
    for (int i = 0; i < 6; i++) WORD(a + i * PAGE) = 100 + i;
    OK(mach_vm_inherit(SELF, a + PAGE, PAGE, VM_INHERIT_SHARE));
    OK(mach_vm_inherit(SELF, a + 3 * PAGE, PAGE, VM_INHERIT_NONE));
    OK(mach_vm_protect(SELF, a + 5 * PAGE, PAGE, FALSE, VM_PROT_READ));
    IN_CHILD({
        EQUAL(WORD(a), 100);
        EQUAL(WORD(a + PAGE), 101);
        EQUAL(WORD(a + 2 * PAGE), 102);
        FAULTS(SIGSEGV, READ_FAULT(a + 3 * PAGE + 5), a + 3 * PAGE + 5);
        EQUAL(rights(SELF, a + 3 * PAGE), -1);
        EQUAL(WORD(a + 4 * PAGE), 104);
        FAULTS(SIGBUS, WRITE_FAULT(a + 5 * PAGE + 7), a + 5 * PAGE + 7);
        EQUAL(WORD(a + 5 * PAGE), 105);
        for (int i = 0; i < 5; i++)
            if (i != 3) WORD(a + i * PAGE) = 200 + i;
    });
    EQUAL(WORD(a), 100);
    EQUAL(WORD(a + PAGE), 201);
    EQUAL(WORD(a + 2 * PAGE), 102);
    EQUAL(WORD(a + 3 * PAGE), 103);
    EQUAL(WORD(a + 4 * PAGE), 104);
    /* Inheritance itself is inherited. */
    IN_CHILD({
        mach_vm_address_t at = a + PAGE;
        mach_vm_size_t size;
        vm_region_basic_info_data_64_t info;
        OK(region(SELF, &at, &size, &info));
        EQUAL(at, a + PAGE);
        EQUAL(info.inheritance, VM_INHERIT_SHARE);
        IN_CHILD(WORD(a + PAGE) = 301);
        EQUAL(WORD(a + PAGE), 301);
    });
    EQUAL(WORD(a + PAGE), 301);
    OK(mach_vm_deallocate(SELF, a, 6 * PAGE));
}

static void goes_on(void) {
    mach_vm_address_t a = new_memory(8 * PAGE);
    fill(a, 8 * PAGE, 1);
    IN_CHILD({
        CHECK(holds(a, 8 * PAGE, 0, 1));
        mach_vm_address_t b = new_memory(16 * PAGE);
        CHECK(b != a && zero(b, 16 * PAGE));
        OK(mach_vm_copy(SELF, a, 8 * PAGE, b + 8 * PAGE));
        CHECK(holds(b + 8 * PAGE, 8 * PAGE, 0, 1));
        OK(mach_vm_copy(SELF, a + 100, 5000, b + 3));
        CHECK(holds(b + 3, 5000, 100, 1));
        vm_offset_t data;
        mach_msg_type_number_t size;
        OK(mach_vm_read(SELF, a, 8 * PAGE, &data, &size));
        fill(a, 8 * PAGE, 2);
        CHECK(holds(data, 8 * PAGE, 0, 1));
        OK(mach_vm_write(SELF, a, data, size));
        CHECK(holds(a, 8 * PAGE, 0, 1));
        OK(mach_vm_deallocate(SELF, b, 16 * PAGE));
        EQUAL(rights(SELF, b), -1);
        mach_vm_address_t fixed = b;
        OK(mach_vm_allocate(SELF, &fixed, PAGE, VM_FLAGS_FIXED));
        CHECK(zero(b, PAGE));
    });
    CHECK(holds(a, 8 * PAGE, 0, 1));
    OK(mach_vm_deallocate(SELF, a, 8 * PAGE));
}

/* Both ways, at many pages, the parent first. */
static void isolation(void) {
    enum { PAGES = 3000 };
    int to_child[2], to_parent[2];
    CHECK(pipe(to_child) == 0 && pipe(to_parent) == 0);
    mach_vm_address_t a = new_memory(PAGES * PAGE);
    for (int i = 0; i < PAGES; i += 2) WORD(a + i * PAGE) = i + 1;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        await_turn(to_child[0]);
        for (int i = 0; i < PAGES; i++) EQUAL(WORD(a + i * PAGE), i % 2 ? 0 : i + 1);
        for (int i = 0; i < PAGES; i++) WORD(a + i * PAGE) = 2000000 + i;
        give_turn(to_parent[1]);
        _exit(0);
    }
    for (int i = 0; i < PAGES; i++) WORD(a + i * PAGE) = 1000000 + i;
    give_turn(to_child[1]);
    await_turn(to_parent[0]);
    for (int i = 0; i < PAGES; i++) EQUAL(WORD(a + i * PAGE), 1000000 + i);
    await_child(pid);
    OK(mach_vm_deallocate(SELF, a, PAGES * PAGE));
}

/* Fresh memory reads as zero in parent and child, always. */
static void fresh(void) {
    for (int round = 0; round < 3; round++) {
        mach_vm_address_t a = new_memory(300 * PAGE);
        memset(AT(a), 0xff, 300 * PAGE);
        OK(mach_vm_deallocate(SELF, a, 150 * PAGE));
        IN_CHILD({
            mach_vm_address_t b = new_memory(500 * PAGE);
            CHECK(zero(b, 500 * PAGE));
        });
        mach_vm_address_t b = new_memory(500 * PAGE);
        CHECK(zero(b, 500 * PAGE));
        OK(mach_vm_deallocate(SELF, b, 500 * PAGE));
        OK(mach_vm_deallocate(SELF, a + 150 * PAGE, 150 * PAGE));
    }
}

int main(void) {
    catch_faults();
    inheritance();
    goes_on();
    isolation();
    fresh();
    return 0;
}
