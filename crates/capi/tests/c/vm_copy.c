// run: MACHVM_FAULTS=auto
// run: MACHVM_FAULTS=signal
/* mach_vm_copy and vm_copy: row U16, traps Z100 to Z102. */
#include "check.h"

/* What memmove would do, for overlaps in both directions at every kind of alignment. */
static void u16_overlap(void) {
    enum { ALL = 12 };
    mach_vm_address_t at = new_memory(ALL * PAGE);
    unsigned char *model = malloc(ALL * PAGE);
    mach_vm_size_t sizes[] = {1, 100, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE + 77, 5 * PAGE};
    long shifts[] = {1, 100, 4095, 4096, 4097, 2 * 4096, 3 * 4096 + 9};
    unsigned seed = 0;
    for (int s = 0; s < 7; s++)
        for (int d = 0; d < 7; d++)
            for (int back = 0; back < 2; back++)
                for (int odd = 0; odd < 2; odd++) {
                    mach_vm_size_t low = odd ? 333 : 0, high = low + (mach_vm_size_t) shifts[d];
                    mach_vm_size_t from = back ? high : low, to = back ? low : high;
                    fill(at, ALL * PAGE, ++seed);
                    memcpy(model, AT(at), ALL * PAGE);
                    memmove(model + to, model + from, sizes[s]);
                    OK(mach_vm_copy(SELF, at + from, sizes[s], at + to));
                    CHECK(memcmp(model, AT(at), ALL * PAGE) == 0);
                }
    free(model);
    OK(mach_vm_deallocate(SELF, at, ALL * PAGE));
}

/* The copy and its source do not affect each other afterwards. */
static void u16_isolation(void) {
    mach_vm_address_t from = new_memory(64 * PAGE), to = new_memory(64 * PAGE);
    fill(from, 64 * PAGE, 1);
    OK(vm_copy(SELF, from, 64 * PAGE, to));
    fill(from, 64 * PAGE, 2);
    CHECK(holds(to, 64 * PAGE, 0, 1));
    fill(to, 64 * PAGE, 3);
    CHECK(holds(from, 64 * PAGE, 0, 2));
    OK(mach_vm_deallocate(SELF, from, 64 * PAGE));
    CHECK(holds(to, 64 * PAGE, 0, 3));
    OK(mach_vm_deallocate(SELF, to, 64 * PAGE));
}

static void z101_onto_itself(void) {
    mach_vm_address_t at = new_memory(4 * PAGE);
    fill(at, 4 * PAGE, 1);
    OK(mach_vm_copy(SELF, at, 4 * PAGE, at));
    OK(mach_vm_copy(SELF, at + 1, 2 * PAGE, at + 1));
    CHECK(holds(at, 4 * PAGE, 0, 1));
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

static void z102_codes(void) {
    mach_vm_address_t from = new_memory(8 * PAGE), to = new_memory(8 * PAGE);
    fill(from, 8 * PAGE, 1);
    fill(to, 8 * PAGE, 2);
    OK(mach_vm_copy(SELF, 1, 0, 2)); /* no bytes: no addresses */
    OK(mach_vm_protect(SELF, to + 6 * PAGE, PAGE, FALSE, VM_PROT_READ));
    RETURNS(KERN_PROTECTION_FAILURE, mach_vm_copy(SELF, from, 8 * PAGE, to));
    CHECK(holds(to, 8 * PAGE, 0, 2));
    RETURNS(KERN_PROTECTION_FAILURE, mach_vm_copy(SELF, from + 1, 8 * PAGE - 2, to));
    CHECK(holds(to, 8 * PAGE, 0, 2));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_copy(SELF, from, PAGE, to + 6 * PAGE)); /* small: hidden */
    OK(mach_vm_protect(SELF, from + 6 * PAGE, PAGE, FALSE, VM_PROT_NONE));
    RETURNS(KERN_PROTECTION_FAILURE, mach_vm_copy(SELF, from, 8 * PAGE, to));
    OK(mach_vm_deallocate(SELF, from + 6 * PAGE, PAGE));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_copy(SELF, from, 8 * PAGE, to));
    OK(mach_vm_deallocate(SELF, to + 3 * PAGE, PAGE));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_copy(SELF, from, 4 * PAGE, to));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_copy(SELF, ~(mach_vm_address_t) 0 - PAGE, 4 * PAGE, to));
    CHECK(holds(to, 3 * PAGE, 0, 2));
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_copy(MACH_PORT_NULL, from, PAGE, to));
    RETURNS(MACH_SEND_INVALID_DEST, vm_copy(MACH_PORT_NULL, from, PAGE, to));
    OK(mach_vm_deallocate(SELF, from, 8 * PAGE));
    OK(mach_vm_deallocate(SELF, to, 8 * PAGE));
}

/* Every alignment of both sides, apart from each other. */
static void u16_unaligned(void) {
    mach_vm_address_t from = new_memory(5 * PAGE), to = new_memory(5 * PAGE);
    mach_vm_size_t places[] = {0, 1, 4, 2048, PAGE - 1};
    fill(from, 5 * PAGE, 7);
    for (int a = 0; a < 5; a++)
        for (int b = 0; b < 5; b++) {
            mach_vm_size_t size = 3 * PAGE + 100;
            memset(AT(to), 0xbb, 5 * PAGE);
            OK(mach_vm_copy(SELF, from + places[a], size, to + places[b]));
            CHECK(holds(to + places[b], size, places[a], 7));
            if (places[b]) EQUAL(AT(to)[places[b] - 1], 0xbb);
            EQUAL(AT(to)[places[b] + size], 0xbb);
        }
    OK(mach_vm_deallocate(SELF, from, 5 * PAGE));
    OK(mach_vm_deallocate(SELF, to, 5 * PAGE));
}

int main(void) {
    u16_overlap();
    u16_isolation();
    z101_onto_itself();
    z102_codes();
    u16_unaligned();
    return 0;
}
