/* What the programs grid_* put together: sizes times ways to get memory times offsets. */
#ifndef GRID_H
#define GRID_H

#include "fork.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#define LARGE (64 * PAGE)
static const mach_vm_size_t SIZES[] = {LARGE, 0, PAGE, 1, PAGE - 1, PAGE + 1};

/* Where memory goes. */
enum how { ANYWHERE, FIXED, UNALIGNED, HOWS };

/* Addresses that mean nothing, up to the last. */
static const mach_vm_address_t ODD[] = {0,
                                        1,
                                        PAGE - 1,
                                        PAGE,
                                        PAGE + 1,
                                        UINT32_MAX - PAGE + 1,
                                        UINT32_MAX,
                                        UINT64_MAX - PAGE + 1,
                                        UINT64_MAX};

/* Memory with a byte more than is used, so that an address within the first page is good for it too. */
struct spot {
    mach_vm_address_t at;    /* what is used */
    mach_vm_size_t size;     /* of that */
    mach_vm_address_t first; /* what was allocated */
    mach_vm_size_t all;
};

/* A free address for `size` bytes and some pages more. */
__attribute__((unused)) static mach_vm_address_t free_address(mach_vm_size_t size) {
    mach_vm_address_t at = new_memory(size + 4 * PAGE);
    OK(mach_vm_deallocate(SELF, at, size + 4 * PAGE));
    return at;
}

__attribute__((unused)) static struct spot new_spot(mach_vm_size_t size, enum how how) {
    mach_vm_address_t at = how == ANYWHERE ? 0 : free_address(size) + (how == UNALIGNED);
    mach_vm_address_t want = at;
    OK(mach_vm_allocate(SELF, &at, size + 1, how == ANYWHERE ? VM_FLAGS_ANYWHERE : VM_FLAGS_FIXED));
    if (how != ANYWHERE) EQUAL(at, trunc_page(want));
    return (struct spot) {.at = at + (how == UNALIGNED), .size = size, .first = at, .all = round_page(size + 1)};
}

__attribute__((unused)) static void drop_spot(const struct spot *s) {
    OK(mach_vm_deallocate(SELF, s->first, s->all));
}

/* The page in the middle. */
__attribute__((unused)) static mach_vm_address_t middle(mach_vm_address_t at, mach_vm_size_t size) {
    return trunc_page(at + size / 2);
}

/* Which of two things a word of a pattern is: what it is called, and its place. */
typedef int filter(mach_vm_address_t at);
__attribute__((unused)) static int every(mach_vm_address_t at) {
    (void) at;
    return 1;
}
__attribute__((unused)) static int other(mach_vm_address_t at) {
    return at / 8 % 2 == 0;
}
__attribute__((unused)) static int page_end(mach_vm_address_t at) {
    return at % PAGE == 0 || at % PAGE == PAGE - 8;
}
static const struct {
    filter *of;
    int reversed;
} PATTERNS[] = {{every, 0}, {other, 0}, {other, 1}, {page_end, 0}, {page_end, 1}};

/* Writes to some words how far they are from `at`, and leaves the rest. */
__attribute__((unused)) static void put_words(mach_vm_address_t at, mach_vm_size_t size, size_t which,
                                              mach_vm_address_t as) {
    for (mach_vm_size_t i = 0; i + 8 <= size; i += 8)
        if (PATTERNS[which].of(as + i) != PATTERNS[which].reversed) {
            uint64_t word = as + i;
            memcpy(AT(at + i), &word, 8);
        }
}

/* Are they so, and the rest zero? `as`: where they were written. */
__attribute__((unused)) static void same_words(mach_vm_address_t at, mach_vm_size_t size, size_t which,
                                               mach_vm_address_t as) {
    for (mach_vm_size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, AT(at + i), 8);
        EQUAL(word, PATTERNS[which].of(as + i) != PATTERNS[which].reversed ? as + i : 0);
    }
}

#endif
