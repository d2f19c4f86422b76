/* Page size and the bounds of addresses. */
#ifndef _MACH_MACHINE_VM_PARAM_H_
#define _MACH_MACHINE_VM_PARAM_H_

#include <mach/machine/vm_types.h>

#define BYTE_SIZE 8 /* bits */

/* The page of the library, which is a constant on every machine it runs on. */
#ifndef PAGE_SHIFT
#define PAGE_SHIFT 12
#endif
#ifndef PAGE_SIZE
#define PAGE_SIZE 4096
#endif
#ifndef PAGE_MASK
#define PAGE_MASK (PAGE_SIZE - 1)
#endif

/* No task has addresses at or above this. A task of the library can map less: see vm_region(). */
#define VM_MAX_PAGE_ADDRESS UINT64_C(0x00007FFFFFE00000)

#define MACH_VM_MIN_ADDRESS ((mach_vm_offset_t) 0)
#define MACH_VM_MAX_ADDRESS ((mach_vm_offset_t) VM_MAX_PAGE_ADDRESS)
#define VM_MIN_ADDRESS ((vm_offset_t) 0)
#define VM_MAX_ADDRESS ((vm_offset_t) VM_MAX_PAGE_ADDRESS)

#endif
