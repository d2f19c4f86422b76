// timeout: 240
/* mach_vm_read, mach_vm_write and mach_vm_copy over sizes, alignments and offsets, whole and with a page that is
   missing or denied: rows U14 to U16, traps Z01, Z07. Below two pages XNU copies through a buffer of its own, to
   which a page that is denied is like one that is not there. */
#include "grid.h"

static kern_return_t denied(mach_vm_size_t size) {
    return size < 2 * PAGE ? KERN_INVALID_ADDRESS : KERN_PROTECTION_FAILURE;
}
static void deny(mach_vm_address_t page, vm_prot_t left) {
    OK(mach_vm_protect(SELF, page, PAGE, FALSE, left));
}

/* ---- read ---- */

static void u14_read(mach_vm_size_t size, enum how how) {
    for (size_t p = 0; p < 3; p++) {
        struct spot s = new_spot(size, how);
        vm_offset_t data = 1;
        mach_msg_type_number_t count = 1;
        RETURNS(MACH_SEND_INVALID_DEST, mach_vm_read(VM_MAP_NULL, s.at, size, &data, &count));
        put_words(s.at, size, p, s.at);
        OK(mach_vm_read(SELF, s.at, size, &data, &count));
        EQUAL(count, size);
        drop_spot(&s);
        EQUAL(data != 0, size != 0);
        if (size == 0) continue;
        /* Two pages and more keep the offset in the page. */
        EQUAL(data % PAGE, size < 2 * PAGE ? 0 : s.at % PAGE);
        same_words(data, size, p, s.at);
        mach_vm_address_t first = trunc_page(data);
        for (mach_vm_address_t i = first; i < data + size; i += PAGE) {
            mach_vm_address_t again = i;
            RETURNS(KERN_NO_SPACE, mach_vm_allocate(SELF, &again, PAGE, VM_FLAGS_FIXED));
        }
        OK(mach_vm_deallocate(SELF, data, count));
    }
}

static void u14_read_what_is_not_there(mach_vm_size_t size, enum how how) {
    vm_offset_t data = 77;
    mach_msg_type_number_t count = 78;
    struct spot s = new_spot(size, how);
    deny(middle(s.at, size), VM_PROT_WRITE);
    RETURNS(denied(size), mach_vm_read(SELF, s.at, size, &data, &count));
    OK(mach_vm_deallocate(SELF, middle(s.at, size), PAGE));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_read(SELF, s.at, size, &data, &count));
    EQUAL(data, 77);
    EQUAL(count, 78);
    drop_spot(&s);
}

/* Ranges that reach the end of the address space or beyond. */
static const struct {
    mach_vm_address_t at;
    mach_vm_size_t size;
} AROUND[] = {{UINT64_MAX - UINT32_MAX + 1, UINT32_MAX},
              {UINT64_MAX - UINT32_MAX + PAGE, UINT32_MAX - PAGE + 1},
              {UINT64_MAX - PAGE + 1, PAGE},
              {UINT64_MAX, 1}};

static void z01_edges(void) {
    vm_offset_t data;
    mach_msg_type_number_t count;
    mach_vm_address_t to = new_memory(PAGE);
    for (size_t i = 0; i < COUNT_OF(ODD); i++) {
        OK(mach_vm_read(SELF, ODD[i], 0, &data, &count));
        OK(mach_vm_copy(SELF, ODD[i], 0, to));
        RETURNS(KERN_INVALID_ARGUMENT, mach_vm_read(SELF, ODD[i], (mach_vm_size_t) UINT32_MAX + 1, &data, &count));
        RETURNS(KERN_INVALID_ADDRESS, mach_vm_copy(SELF, ODD[i], UINT32_MAX - 1, to));
    }
    for (size_t i = 0; i < COUNT_OF(AROUND); i++) {
        RETURNS(KERN_INVALID_ADDRESS, mach_vm_read(SELF, AROUND[i].at, AROUND[i].size, &data, &count));
        RETURNS(KERN_INVALID_ADDRESS, mach_vm_copy(SELF, AROUND[i].at, AROUND[i].size, to));
    }
    CHECK(zero(to, PAGE));
    OK(mach_vm_deallocate(SELF, to, PAGE));
}

/* ---- write and copy: one place with an alignment, one with an offset ---- */

struct pair {
    struct spot spot;
    mach_vm_address_t buffer; /* good for `size` bytes */
    mach_vm_address_t first;
    mach_vm_size_t size, all;
};

static struct pair new_pair(mach_vm_size_t spot, enum how how, mach_vm_size_t size, unsigned offset) {
    struct pair p = {.spot = new_spot(spot, how), .size = size, .all = round_page(size + offset)};
    if (p.all) p.first = new_memory(p.all);
    p.buffer = p.first + offset;
    return p;
}
static void drop_pair(const struct pair *p) {
    drop_spot(&p->spot);
    OK(mach_vm_deallocate(SELF, p->first, p->all));
}

static kern_return_t write_buffer(const struct pair *p) {
    return mach_vm_write(SELF, p->spot.at, (vm_offset_t) p->buffer, (mach_msg_type_number_t) p->size);
}

static void u15_write(mach_vm_size_t spot, enum how how, mach_vm_size_t size, unsigned offset) {
    struct pair p = new_pair(spot, how, size, offset);
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_write(VM_MAP_NULL, p.spot.at, (vm_offset_t) p.buffer, (unsigned) size));
    OK(mach_vm_write(SELF, p.spot.at, (vm_offset_t) p.buffer, 0));
    if (size <= spot) {
        OK(write_buffer(&p));
        CHECK(zero(p.spot.first, p.spot.all) && zero(p.first, p.all));
        put_words(p.buffer, size, 1, p.buffer);
        OK(write_buffer(&p));
        same_words(p.buffer, size, 1, p.buffer);
        same_words(p.spot.at, size, 1, p.buffer);
    }
    drop_pair(&p);
}

/* The buffer travels by message, so what is wrong with it is said first. */
static void u15_write_what_is_not_there(mach_vm_size_t spot, enum how how, mach_vm_size_t size, unsigned offset) {
    struct pair p = new_pair(spot, how, size, offset);
    deny(p.spot.first, VM_PROT_READ);
    RETURNS(denied(size), write_buffer(&p));
    OK(mach_vm_deallocate(SELF, p.spot.first, PAGE));
    RETURNS(KERN_INVALID_ADDRESS, write_buffer(&p));
    deny(middle(p.buffer, size), VM_PROT_WRITE);
    RETURNS(MACH_SEND_INVALID_MEMORY, write_buffer(&p));
    OK(mach_vm_deallocate(SELF, middle(p.buffer, size), PAGE));
    RETURNS(MACH_SEND_INVALID_MEMORY, write_buffer(&p));
    drop_pair(&p);
}

static kern_return_t copy_spot(const struct pair *p) {
    return mach_vm_copy(SELF, p->spot.at, p->size, p->buffer);
}

static void u16_copy(mach_vm_size_t spot, enum how how, mach_vm_size_t size, unsigned offset) {
    struct pair p = new_pair(spot, how, size, offset);
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_copy(VM_MAP_NULL, p.spot.at, size, p.buffer));
    OK(copy_spot(&p));
    CHECK(zero(p.spot.first, p.spot.all) && zero(p.first, p.all));
    for (size_t i = 0; i < 3; i++) {
        put_words(p.spot.at, spot, i, p.spot.at);
        OK(copy_spot(&p));
        same_words(p.buffer, size, i, p.spot.at);
        memset(AT(p.spot.first), 0, p.spot.all);
        same_words(p.buffer, size, i, p.spot.at);
    }
    drop_pair(&p);
}

enum side { SOURCE, TARGET };
static void u16_copy_what_is_not_there(mach_vm_size_t spot, enum how how, mach_vm_size_t size, unsigned offset) {
    for (enum side side = SOURCE; side <= TARGET; side++)
        for (int in_the_middle = 0; in_the_middle < 2; in_the_middle++) {
            struct pair p = new_pair(spot, how, size, offset);
            mach_vm_address_t at = side == SOURCE ? p.spot.at : p.buffer;
            mach_vm_address_t page = in_the_middle ? middle(at, size) : trunc_page(at);
            deny(page, side == SOURCE ? VM_PROT_WRITE : VM_PROT_READ);
            RETURNS(denied(size), copy_spot(&p));
            OK(mach_vm_deallocate(SELF, page, PAGE));
            RETURNS(KERN_INVALID_ADDRESS, copy_spot(&p));
            drop_pair(&p);
        }
}

int main(void) {
    z01_edges();
    for (size_t s = 0; s < COUNT_OF(SIZES); s++)
        for (enum how how = ANYWHERE; how < HOWS; how++) {
            u14_read(SIZES[s], how);
            if (SIZES[s]) u14_read_what_is_not_there(SIZES[s], how);
            for (size_t b = 0; b < COUNT_OF(SIZES); b++)
                for (unsigned offset = 0; offset < 3; offset++) {
                    u15_write(SIZES[s], how, SIZES[b], offset);
                    if (SIZES[b]) u15_write_what_is_not_there(SIZES[s], how, SIZES[b], offset);
                    if (SIZES[b] > SIZES[s]) continue;
                    u16_copy(SIZES[s], how, SIZES[b], offset);
                    if (SIZES[b]) u16_copy_what_is_not_there(SIZES[s], how, SIZES[b], offset);
                }
        }
    return 0;
}
