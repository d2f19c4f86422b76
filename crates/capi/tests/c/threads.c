// run: MACHVM_FAULTS=auto
// run: MACHVM_FAULTS=signal
// timeout: 120
/* Calls and faults of several threads at once. */
#include "check.h"
#include <pthread.h>

enum { THREADS = 4, ROUNDS = 150 };

static mach_vm_address_t shared;

/* Each thread allocates, fills, copies, reads, remaps and frees on its own. */
static void *own(void *arg) {
    unsigned me = (unsigned) (uintptr_t) arg;
    for (unsigned i = 0; i < ROUNDS; i++) {
        mach_vm_size_t size = (1 + (i * 7 + me) % 9) * PAGE;
        mach_vm_address_t a = new_memory(size), b = new_memory(size), c = 0;
        vm_offset_t data;
        mach_msg_type_number_t count;
        vm_prot_t cur, max;
        CHECK(zero(a, size));
        fill(a, size, me + i);
        OK(mach_vm_copy(SELF, a, size, b));
        OK(mach_vm_read(SELF, a, size, &data, &count));
        OK(mach_vm_remap(SELF, &c, size, 0, VM_FLAGS_ANYWHERE, SELF, b, FALSE, &cur, &max, VM_INHERIT_COPY));
        fill(a, size, 99);
        CHECK(holds(b, size, 0, me + i) && holds(data, size, 0, me + i) && holds(c, size, 0, me + i));
        OK(mach_vm_deallocate(SELF, a, size));
        OK(mach_vm_deallocate(SELF, b, size));
        OK(mach_vm_deallocate(SELF, c, size));
        OK(mach_vm_deallocate(SELF, data, size));
    }
    return NULL;
}

/* A page holds one number in all its words, whoever copies what where. */
static void *copier(void *arg) {
    unsigned seed = (unsigned) (uintptr_t) arg * 2654435761u + 1;
    for (unsigned i = 0; i < 20 * ROUNDS; i++) {
        seed = seed * 1664525u + 1013904223u;
        mach_vm_address_t from = shared + (seed >> 8) % 16 * PAGE, to = shared + (seed >> 20) % 16 * PAGE;
        OK(mach_vm_copy(SELF, from, PAGE, to));
    }
    return NULL;
}

static void *reader(void *arg) {
    (void) arg;
    for (unsigned i = 0; i < 20 * ROUNDS; i++) {
        uint64_t word = 0;
        mach_vm_size_t got;
        OK(mach_vm_read_overwrite(SELF, shared + i % 16 * PAGE + 64, 8, (mach_vm_address_t) (uintptr_t) &word, &got));
        CHECK(word < 16);
    }
    return NULL;
}

static void run(void *(*what)(void *), void *(*last)(void *)) {
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, i == THREADS - 1 ? last : what, (void *) i) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
}

int main(void) {
    run(own, own);
    shared = new_memory(16 * PAGE);
    for (int p = 0; p < 16; p++)
        for (unsigned w = 0; w < PAGE / 8; w++) ((uint64_t *) AT(shared + p * PAGE))[w] = (uint64_t) p;
    run(copier, reader);
    for (int p = 0; p < 16; p++) {
        uint64_t *page = (uint64_t *) AT(shared + p * PAGE);
        for (unsigned w = 0; w < PAGE / 8; w++) CHECK(page[w] < 16);
    }
    return 0;
}
