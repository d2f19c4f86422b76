/* Mach 3's statistics of cached objects. */
#ifndef _MACH_VM_CACHE_STATISTICS_H_
#define _MACH_VM_CACHE_STATISTICS_H_

#include <mach/machine/vm_types.h>

struct vm_cache_statistics {
    integer_t cache_object_count;  /* objects nobody maps */
    integer_t cache_count;         /* their pages */
    integer_t active_tmp_count;
    integer_t inactive_tmp_count;
    integer_t active_perm_count;
    integer_t inactive_perm_count;
    integer_t dirty_count;
    integer_t laundry_count;       /* pages on their way out */
    integer_t writeback_count;
    integer_t slab_count;          /* pages of the VM's own structures */
    integer_t slab_reclaim_count;
};
typedef struct vm_cache_statistics *vm_cache_statistics_t;
typedef struct vm_cache_statistics vm_cache_statistics_data_t;

#endif
