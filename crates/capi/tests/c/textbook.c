// cc: -std=gnu89 -Wno-error -w
// run: MACHVM_PERSONALITY=xnu
// run: MACHVM_PERSONALITY=mach3
/*
 * Programs in the manner of the books on Mach: <mach.h>, task_self(), booleans for flags, addresses kept in
 * pointers to char, main without a type.
 */
#include <mach.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A page, a copy of it with vm_copy, and a comparison. */
copy_a_page()
{
    char *from, *to;
    int i;
    kern_return_t ret;

    if ((ret = vm_allocate(task_self(), (vm_address_t *) &from, vm_page_size, TRUE)) != KERN_SUCCESS) {
        mach_error("vm_allocate", ret);
        exit(1);
    }
    for (i = 0; i < vm_page_size; i++) from[i] = i;
    if ((ret = vm_allocate(task_self(), (vm_address_t *) &to, vm_page_size, TRUE)) != KERN_SUCCESS) {
        mach_error("vm_allocate", ret);
        exit(1);
    }
    if ((ret = vm_copy(task_self(), (vm_address_t) from, vm_page_size, (vm_address_t) to)) != KERN_SUCCESS) {
        mach_error("vm_copy", ret);
        exit(1);
    }
    if (memcmp(from, to, vm_page_size) != 0) {
        printf("the copy differs\n");
        exit(1);
    }
    vm_deallocate(task_self(), (vm_address_t) from, vm_page_size);
    vm_deallocate(task_self(), (vm_address_t) to, vm_page_size);
}

/* What was read is freed by whoever read it. */
read_and_write()
{
    vm_address_t at, data;
    mach_msg_type_number_t count;
    kern_return_t ret;

    ret = vm_allocate(task_self(), &at, 2 * vm_page_size, TRUE);
    if (ret == KERN_SUCCESS) strcpy((char *) at, "written by the parent");
    if (ret == KERN_SUCCESS) ret = vm_read(task_self(), at, vm_page_size, &data, &count);
    if (ret == KERN_SUCCESS) ret = vm_write(task_self(), at + vm_page_size, data, count);
    if (ret == KERN_SUCCESS) ret = vm_protect(task_self(), at, vm_page_size, FALSE, VM_PROT_READ);
    if (ret == KERN_SUCCESS) ret = vm_inherit(task_self(), at, vm_page_size, VM_INHERIT_SHARE);
    if (ret != KERN_SUCCESS || strcmp((char *) at + vm_page_size, "written by the parent") != 0) {
        mach_error("vm_read or vm_write", ret);
        exit(1);
    }
    vm_deallocate(task_self(), data, count);
    vm_deallocate(task_self(), at, 2 * vm_page_size);
}

/* Numbers of the whole system. */
statistics()
{
    vm_statistics_data_t stats;
    kern_return_t ret = vm_statistics(task_self(), &stats);

    if (ret != KERN_SUCCESS) {
        mach_error("vm_statistics", ret);
        exit(1);
    }
    printf("%d pages free, %d active, %d faults\n", stats.free_count, stats.active_count, stats.faults);
    if (stats.faults == 0) exit(1);
}

main()
{
    copy_a_page();
    read_and_write();
    statistics();
    return 0;
}
