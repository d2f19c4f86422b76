/* Calls on memory entries. */
#ifndef _memory_entry_user_
#define _memory_entry_user_

#include <mach/kern_return.h>
#include <mach/mach_types.h>

#ifdef __cplusplus
extern "C" {
#endif

extern kern_return_t mach_memory_entry_purgable_control(mem_entry_name_port_t mem_entry, vm_purgable_t control,
                                                        int *state);

#ifdef __cplusplus
}
#endif

#endif
