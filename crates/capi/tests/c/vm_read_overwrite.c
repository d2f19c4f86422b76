// run: MACHVM_FAULTS=auto
// run: MACHVM_FAULTS=signal
/* mach_vm_read_overwrite and vm_read_overwrite: row U17. */
#include "check.h"

static void u17_every_alignment(void) {
    mach_vm_address_t from = new_memory(6 * PAGE), to = new_memory(6 * PAGE);
    mach_vm_size_t places[] = {0, 1, 2047, PAGE - 1, PAGE}, sizes[] = {1, 63, PAGE, 2 * PAGE, 3 * PAGE + 5};
    fill(from, 6 * PAGE, 1);
    for (int s = 0; s < 5; s++)
        for (int a = 0; a < 5; a++)
            for (int b = 0; b < 5; b++) {
                mach_vm_size_t got = 0;
                memset(AT(to), 0xaa, 6 * PAGE);
                OK(mach_vm_read_overwrite(SELF, from + places[a], sizes[s], to + places[b], &got));
                EQUAL(got, sizes[s]);
                CHECK(holds(to + places[b], sizes[s], places[a], 1));
                if (places[b]) EQUAL(AT(to)[places[b] - 1], 0xaa);
                EQUAL(AT(to)[places[b] + sizes[s]], 0xaa);
            }
    CHECK(holds(from, 6 * PAGE, 0, 1));
    OK(mach_vm_deallocate(SELF, from, 6 * PAGE));
    OK(mach_vm_deallocate(SELF, to, 6 * PAGE));
}

static void u17_the_stack_and_the_heap(void) {
    mach_vm_address_t at = new_memory(40 * PAGE);
    char on_stack[300];
    unsigned char *on_heap = malloc(40 * PAGE);
    vm_size_t got = 0;
    fill(at, 40 * PAGE, 9);
    OK(vm_read_overwrite(SELF, at + 5, sizeof on_stack, (vm_address_t) on_stack, &got));
    EQUAL(got, sizeof on_stack);
    CHECK(memcmp(on_stack, AT(at + 5), sizeof on_stack) == 0);
    OK(vm_read_overwrite(SELF, at, 40 * PAGE, (vm_address_t) on_heap, &got));
    CHECK(memcmp(on_heap, AT(at), 40 * PAGE) == 0);
    OK(mach_vm_deallocate(SELF, at, 40 * PAGE));
    free(on_heap);
}

static void u17_codes(void) {
    mach_vm_address_t at = new_memory(8 * PAGE), to = new_memory(8 * PAGE);
    mach_vm_size_t got = 7;
    fill(at, 8 * PAGE, 1);
    fill(to, 8 * PAGE, 2);
    OK(mach_vm_protect(SELF, to + 5 * PAGE, PAGE, FALSE, VM_PROT_READ));
    RETURNS(KERN_PROTECTION_FAILURE, mach_vm_read_overwrite(SELF, at, 8 * PAGE, to, &got));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_read_overwrite(SELF, at, 8 * PAGE, to + 4 * PAGE + 8 * PAGE, &got));
    OK(mach_vm_deallocate(SELF, at + 6 * PAGE, PAGE));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_read_overwrite(SELF, at, 8 * PAGE, to, &got));
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_read_overwrite(MACH_PORT_NULL, at, 1, to, &got));
    EQUAL(got, 7);
    CHECK(holds(to, 8 * PAGE, 0, 2)); /* not a byte of it */
    OK(mach_vm_read_overwrite(SELF, 1, 0, 1, &got));
    EQUAL(got, 0);
    OK(mach_vm_deallocate(SELF, at, 8 * PAGE));
    OK(mach_vm_deallocate(SELF, to, 8 * PAGE));
}

int main(void) {
    u17_every_alignment();
    u17_the_stack_and_the_heap();
    u17_codes();
    return 0;
}
