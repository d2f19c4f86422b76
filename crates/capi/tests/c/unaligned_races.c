// timeout: 120
/* Copies to addresses within pages, while another thread takes the right to write from half of the target, by
   protection or by another mapping: what may not be written is never written: row U17, trap Z103. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>

#define SIZE (16 * PAGE)
#define ROUNDS 300

/* What the other thread does over and over while it may. */
static struct {
    pthread_mutex_t may;
    void (*once)(void);
    atomic_int turns, end;
    mach_vm_address_t target;
    mem_entry_name_port_t readable, writable;
} other = {.may = PTHREAD_MUTEX_INITIALIZER};

static void *go_on(void *arg) {
    (void) arg;
    while (!other.end) {
        CHECK(pthread_mutex_lock(&other.may) == 0);
        if (!other.end && other.target) {
            other.once();
            other.turns++;
        }
        CHECK(pthread_mutex_unlock(&other.may) == 0);
    }
    return NULL;
}

static void protect_and_allow(void) {
    OK(mach_vm_protect(SELF, other.target, SIZE, FALSE, VM_PROT_READ));
    OK(mach_vm_protect(SELF, other.target, SIZE, FALSE, VM_PROT_DEFAULT));
}

static void map_target(mem_entry_name_port_t entry, vm_prot_t prot) {
    mach_vm_address_t at = other.target;
    OK(mach_vm_map(SELF, &at, SIZE, 0, VM_FLAGS_FIXED | VM_FLAGS_OVERWRITE, entry, 0, FALSE, prot, prot,
                   VM_INHERIT_DEFAULT));
    EQUAL(at, other.target);
}
static void exchange(void) {
    map_target(other.writable, VM_PROT_DEFAULT);
    map_target(other.readable, VM_PROT_READ);
}

/* Two ranges, one after the other; the second is the target that changes. */
static mach_vm_address_t two_ranges(void) {
    mach_vm_address_t first = new_memory(2 * SIZE), second = first + SIZE;
    OK(mach_vm_allocate(SELF, &first, SIZE, VM_FLAGS_FIXED | VM_FLAGS_OVERWRITE | VM_MAKE_TAG(240)));
    OK(mach_vm_allocate(SELF, &second, SIZE, VM_FLAGS_FIXED | VM_FLAGS_OVERWRITE | VM_MAKE_TAG(241)));
    memset(AT(first), 'B', 2 * SIZE);
    return first;
}

static mem_entry_name_port_t entry_of(mach_vm_address_t at, vm_prot_t prot) {
    mem_entry_name_port_t entry;
    mach_vm_size_t size = SIZE;
    OK(mach_make_memory_entry_64(SELF, &size, at, MAP_MEM_VM_SHARE | prot, &entry, MACH_PORT_NULL));
    EQUAL(size, SIZE);
    return entry;
}

/* Copies until the other thread had turns while it was copied; `kept`: what must stay. */
static void race(void (*once)(void), mach_vm_address_t source, mach_vm_address_t first, mach_vm_address_t kept) {
    pthread_t thread;
    unsigned long counts[2] = {0};
    other.once = once;
    other.turns = other.end = 0;
    other.target = first + SIZE;
    CHECK(pthread_create(&thread, NULL, go_on, NULL) == 0);
    for (int i = 0; i < ROUNDS || other.turns < 3; i++) {
        mach_vm_size_t done = 0;
        kern_return_t code = mach_vm_read_overwrite(SELF, source, SIZE, first + 1, &done);
        CHECK(code == KERN_SUCCESS || code == KERN_PROTECTION_FAILURE);
        counts[code == KERN_SUCCESS]++;
        for (mach_vm_size_t b = 0; b < SIZE; b += PAGE) EQUAL(AT(kept)[b], 'A');
        EQUAL(AT(kept)[0], 'A');
    }
    other.end = 1;
    CHECK(pthread_join(thread, NULL) == 0);
    other.target = 0;
    printf("%lu copied, %lu refused\n", counts[1], counts[0]);
}

/* The target has a copy, which keeps what the target was. */
static void z103_protection_changes(mach_vm_address_t source) {
    mach_vm_address_t first = two_ranges();
    vm_offset_t copy;
    mach_msg_type_number_t count;
    memset(AT(first + SIZE), 'A', SIZE);
    OK(mach_vm_read(SELF, first + SIZE, SIZE, &copy, &count));
    race(protect_and_allow, source, first, copy);
    OK(mach_vm_deallocate(SELF, copy, count));
    OK(mach_vm_deallocate(SELF, first, 2 * SIZE));
}

/* The target is now memory that may be written, now memory that nobody can write. */
static void z103_mappings_change(mach_vm_address_t source) {
    mach_vm_address_t first = two_ranges(), fixed = new_memory(SIZE), at = 0;
    mach_vm_size_t size = SIZE;
    mem_entry_name_port_t none = MACH_PORT_NULL;
    memset(AT(fixed), 'A', SIZE);
    OK(mach_vm_protect(SELF, fixed, SIZE, TRUE, VM_PROT_READ));
    RETURNS(KERN_PROTECTION_FAILURE, mach_make_memory_entry_64(SELF, &size, fixed, MAP_MEM_VM_SHARE | VM_PROT_DEFAULT,
                                                               &none, MACH_PORT_NULL));
    other.readable = entry_of(fixed, VM_PROT_READ);
    for (vm_prot_t prot = VM_PROT_READ; prot <= VM_PROT_DEFAULT; prot += VM_PROT_WRITE)
        RETURNS(KERN_INVALID_RIGHT, mach_vm_map(SELF, &at, SIZE, 0, VM_FLAGS_ANYWHERE, other.readable, 0, FALSE, prot,
                                                VM_PROT_DEFAULT, VM_INHERIT_DEFAULT));
    mach_vm_address_t memory = new_memory(SIZE);
    memset(AT(memory), 'D', SIZE);
    other.writable = entry_of(memory, VM_PROT_DEFAULT);
    OK(mach_vm_deallocate(SELF, memory, SIZE));
    race(exchange, source, first, fixed);
    OK(mach_port_deallocate(SELF, other.readable));
    OK(mach_port_deallocate(SELF, other.writable));
    OK(mach_vm_deallocate(SELF, first, 2 * SIZE));
    OK(mach_vm_deallocate(SELF, fixed, SIZE));
}

int main(void) {
    mach_vm_address_t source = new_memory(SIZE);
    memset(AT(source), 'C', SIZE);
    z103_protection_changes(source);
    z103_mappings_change(source);
    return 0;
}
