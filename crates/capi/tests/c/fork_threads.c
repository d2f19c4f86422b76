// run: MACHVM_MEMORY=1M MACHVM_FAULTS=signal
// run: MACHVM_MEMORY=1M MACHVM_FAULTS=thread
// timeout: 120
/* Other threads fault and call while one forks fifty times: they wait, and go on; the child sees
 * each page as it was at some moment, and goes on too. */
#include "fork.h"

#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 3, PAGES = 300 };

static mach_vm_address_t memory;
static atomic_int stop, rounds;

static void *work(void *arg) {
    mach_vm_address_t mine = memory + (uintptr_t) arg * PAGES * PAGE;
    for (uint64_t round = 1; !atomic_load(&stop); round++) {
        for (int i = 0; i < PAGES; i++) {
            uint64_t old = WORD(mine + i * PAGE);
            CHECK(old == 0 || old % 10000 == (uint64_t) i + 1);
            WORD(mine + i * PAGE) = round * 10000 + i + 1;
        }
        mach_vm_address_t other = new_memory(5 * PAGE);
        OK(mach_vm_copy(SELF, mine, 5 * PAGE, other));
        EQUAL(WORD(other), round * 10000 + 1);
        OK(mach_vm_deallocate(SELF, other, 5 * PAGE));
        mach_port_t task = MACH_PORT_NULL;
        OK(task_create(SELF, NULL, 0, FALSE, &task));
        OK(mach_port_deallocate(SELF, task));
        atomic_fetch_add(&rounds, 1);
    }
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    memory = new_memory(THREADS * PAGES * PAGE);
    mach_vm_address_t common = new_memory(PAGE);
    OK(mach_vm_inherit(SELF, common, PAGE, VM_INHERIT_SHARE));
    for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, work, (void *) i) == 0);
    while (atomic_load(&rounds) < THREADS) usleep(1000);
    for (int k = 1; k <= 50; k++) {
        IN_CHILD({
            for (int p = 0; p < THREADS * PAGES; p++) {
                uint64_t value = WORD(memory + p * PAGE);
                CHECK(value == 0 || value % 10000 == (uint64_t) (p % PAGES) + 1);
                WORD(memory + p * PAGE) = p % PAGES + 1;
            }
            CHECK(zero(new_memory(PAGE), PAGE));
            mach_port_t task = MACH_PORT_NULL;
            OK(task_create(SELF, NULL, 0, TRUE, &task));
            WORD(common) = k;
        });
        EQUAL(WORD(common), k);
    }
    int before = atomic_load(&rounds);
    while (atomic_load(&rounds) < before + THREADS) usleep(1000);
    atomic_store(&stop, 1);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    return 0;
}
