/*
 * A table that is changed while somebody reads a snapshot of it: what fork(2) is used for elsewhere, here with
 * one mach_vm_copy. The snapshot costs little when it is taken; a page is copied when the table is written there,
 * or the snapshot is first looked at.
 *
 *     make && ./snapshot
 */
#include <mach/mach.h>
#include <mach/mach_vm.h>

#include <stdio.h>
#include <stdlib.h>

enum { ENTRIES = 4 << 20 }; /* 32 MiB of numbers */

static void must(kern_return_t kr, const char *what) {
    if (kr != KERN_SUCCESS) {
        mach_error(what, kr);
        exit(1);
    }
}

static uint64_t copies(void) {
    vm_statistics64_data_t stat;
    mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
    must(host_statistics64(mach_host_self(), HOST_VM_INFO64, (host_info64_t) &stat, &count), "host_statistics64");
    return stat.cow_faults;
}

int main(void) {
    mach_vm_size_t size = ENTRIES * sizeof(uint64_t);
    mach_vm_address_t table = 0, snapshot = 0;
    must(mach_vm_allocate(mach_task_self(), &table, size, VM_FLAGS_ANYWHERE), "mach_vm_allocate");
    must(mach_vm_allocate(mach_task_self(), &snapshot, size, VM_FLAGS_ANYWHERE), "mach_vm_allocate");

    uint64_t *now = (uint64_t *) table, *then = (uint64_t *) snapshot;
    for (uint64_t i = 0; i < ENTRIES; i++) now[i] = i;

    must(mach_vm_copy(mach_task_self(), table, size, snapshot), "mach_vm_copy");

    uint64_t before = copies();
    for (uint64_t i = 0; i < ENTRIES; i += ENTRIES / 100) now[i] = 0; /* a hundred entries change */
    uint64_t copied = copies() - before;

    for (uint64_t i = 0; i < ENTRIES; i++)
        if (then[i] != i) {
            fprintf(stderr, "the snapshot changed at %llu\n", (unsigned long long) i);
            return 1;
        }
    printf("%d entries are as they were; %llu of %llu pages were copied when the table changed\n", ENTRIES,
           (unsigned long long) copied, (unsigned long long) (size / vm_page_size));
    return 0;
}
