// run: MACHVM_FAULTS=signal
// run: MACHVM_MEMORY=1M
/* VM_INHERIT_SHARE over fork(2): both ways, over generations, with remaps and memory entries. */
#include "fork.h"

enum { PAGES = 600 };

static void both_ways(void) {
    int to_child[2], to_parent[2];
    CHECK(pipe(to_child) == 0 && pipe(to_parent) == 0);
    mach_vm_address_t a = new_memory(PAGES * PAGE);
    OK(mach_vm_inherit(SELF, a, PAGES * PAGE, VM_INHERIT_SHARE));
    for (int i = 0; i < PAGES; i += 2) WORD(a + i * PAGE) = i + 1;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        for (int i = 0; i < PAGES; i++) EQUAL(WORD(a + i * PAGE), i % 2 ? 0 : i + 1);
        for (int i = 0; i < PAGES; i++) WORD(a + i * PAGE) = 1000 + i;
        give_turn(to_parent[1]);
        await_turn(to_child[0]);
        for (int i = 0; i < PAGES; i++) EQUAL(WORD(a + i * PAGE), 5000 + i);
        _exit(0);
    }
    await_turn(to_parent[0]);
    for (int i = 0; i < PAGES; i++) EQUAL(WORD(a + i * PAGE), 1000 + i);
    for (int i = 0; i < PAGES; i++) WORD(a + i * PAGE) = 5000 + i;
    give_turn(to_child[1]);
    await_child(pid);

    /* The calls work on it as on any memory, and reach the other process. */
    mach_vm_address_t b = new_memory(8 * PAGE);
    fill(b, 8 * PAGE, 9);
    IN_CHILD({
        OK(mach_vm_copy(SELF, b, 8 * PAGE, a));
        OK(mach_vm_write(SELF, a + 8 * PAGE + 10, b + 10, 5000));
        OK(mach_vm_protect(SELF, a, PAGE, FALSE, VM_PROT_READ));
        host_priv_t host = MACH_PORT_NULL;
        OK(host_get_host_priv_port(mach_host_self(), &host));
        OK(mach_vm_wire(host, SELF, a, 2 * PAGE, VM_PROT_READ));
    });
    CHECK(holds(a, 8 * PAGE, 0, 9));
    CHECK(holds(a + 8 * PAGE + 10, 5000, 10, 9));
    /* A snapshot of it is one. */
    vm_offset_t data;
    mach_msg_type_number_t size;
    OK(mach_vm_read(SELF, a, 8 * PAGE, &data, &size));
    mach_vm_address_t copy = 0;
    vm_prot_t cur, max;
    OK(mach_vm_remap(SELF, &copy, 8 * PAGE, 0, VM_FLAGS_ANYWHERE, SELF, a, TRUE, &cur, &max, VM_INHERIT_COPY));
    IN_CHILD(fill(a, 8 * PAGE, 7));
    CHECK(holds(a, 8 * PAGE, 0, 7));
    CHECK(holds(data, 8 * PAGE, 0, 9));
    CHECK(holds(copy, 8 * PAGE, 0, 9));
    OK(mach_vm_deallocate(SELF, a, PAGES * PAGE));
}

static void generations(void) {
    mach_vm_address_t a = new_memory(4 * PAGE);
    OK(mach_vm_inherit(SELF, a, 4 * PAGE, VM_INHERIT_SHARE));
    IN_CHILD({
        WORD(a) = 1;
        mach_vm_address_t b = new_memory(PAGE);
        OK(mach_vm_inherit(SELF, b, PAGE, VM_INHERIT_SHARE));
        IN_CHILD({
            WORD(a + PAGE) = 2;
            WORD(b) = 5;
            IN_CHILD({
                EQUAL(WORD(a), 1);
                EQUAL(WORD(a + PAGE), 2);
                EQUAL(WORD(b), 5);
                WORD(a + 2 * PAGE) = 3;
                WORD(b) = 6;
            });
        });
        EQUAL(WORD(b), 6);
        OK(mach_vm_deallocate(SELF, a, 4 * PAGE));
    });
    EQUAL(WORD(a), 1);
    EQUAL(WORD(a + PAGE), 2);
    EQUAL(WORD(a + 2 * PAGE), 3);
    EQUAL(WORD(a + 3 * PAGE), 0);
}

/* One memory mapped twice: shared, both mappings are the parent's memory; copied, each is a
 * copy of its own. */
static void aliases(void) {
    mach_vm_size_t size = 2 * PAGE;
    mach_port_t entry = MACH_PORT_NULL;
    OK(mach_make_memory_entry_64(SELF, &size, 0, VM_PROT_READ | VM_PROT_WRITE | MAP_MEM_NAMED_CREATE, &entry,
                                 MACH_PORT_NULL));
    mach_vm_address_t at[4] = {0};
    for (int i = 0; i < 4; i++)
        OK(mach_vm_map(SELF, &at[i], size, 0, VM_FLAGS_ANYWHERE, entry, 0, FALSE, VM_PROT_READ | VM_PROT_WRITE,
                       VM_PROT_READ | VM_PROT_WRITE, i < 2 ? VM_INHERIT_SHARE : VM_INHERIT_COPY));
    WORD(at[0]) = 1;
    for (int i = 0; i < 4; i++) EQUAL(WORD(at[i]), 1);
    IN_CHILD({
        for (int i = 0; i < 4; i++) EQUAL(WORD(at[i]), 1);
        WORD(at[0]) = 2;
        EQUAL(WORD(at[1]), 2);
        EQUAL(WORD(at[2]), 1);
        WORD(at[2]) = 3;
        EQUAL(WORD(at[3]), 1);
        EQUAL(WORD(at[0]), 2);
        WORD(at[0] + PAGE) = 8;
    });
    for (int i = 0; i < 4; i++) EQUAL(WORD(at[i]), 2);
    for (int i = 0; i < 4; i++) EQUAL(WORD(at[i] + PAGE), 8);
    /* Only copied ones. */
    mach_vm_address_t a = new_memory(PAGE), b = 0;
    vm_prot_t cur, max;
    WORD(a) = 1;
    OK(mach_vm_remap(SELF, &b, PAGE, 0, VM_FLAGS_ANYWHERE, SELF, a, FALSE, &cur, &max, VM_INHERIT_COPY));
    IN_CHILD({
        WORD(a) = 2;
        EQUAL(WORD(b), 1);
    });
    WORD(b) = 4;
    EQUAL(WORD(a), 4);
}

/* Shared first, then inherited as a copy: as it is at the fork. */
static void copied_later(void) {
    mach_vm_address_t a = new_memory(32 * PAGE);
    OK(mach_vm_inherit(SELF, a, 32 * PAGE, VM_INHERIT_SHARE));
    fill(a, 16 * PAGE, 4);
    IN_CHILD(CHECK(holds(a, 16 * PAGE, 0, 4)));
    OK(mach_vm_inherit(SELF, a, 32 * PAGE, VM_INHERIT_COPY));
    int turn[2];
    CHECK(pipe(turn) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        await_turn(turn[0]);
        CHECK(holds(a, 16 * PAGE, 0, 4) && zero(a + 16 * PAGE, 16 * PAGE));
        memset(AT(a), 1, 32 * PAGE);
        _exit(0);
    }
    memset(AT(a), 2, 32 * PAGE);
    give_turn(turn[1]);
    await_child(pid);
    EQUAL(WORD(a + 31 * PAGE), 0x0202020202020202);
}

int main(void) {
    both_ways();
    generations();
    aliases();
    copied_later();
    return 0;
}
