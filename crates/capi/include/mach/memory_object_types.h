/* Memory objects, and the flags of memory entries. */
#ifndef _MACH_MEMORY_OBJECT_TYPES_H_
#define _MACH_MEMORY_OBJECT_TYPES_H_

#include <mach/machine/vm_types.h>
#include <mach/message.h>
#include <mach/port.h>
#include <mach/vm_prot.h>
#include <mach/vm_sync.h>
#include <mach/vm_types.h>

#define VM_64_BIT_DATA_OBJECTS

/* The same type as mach_vm_size_t: programs pass pointers to either. */
typedef uint64_t memory_object_offset_t;
typedef uint64_t memory_object_size_t;
typedef natural_t memory_object_cluster_size_t;
typedef natural_t *memory_object_fault_info_t;
typedef uint64_t vm_object_id_t;

typedef mach_port_t memory_object_t;
typedef mach_port_t memory_object_control_t;
typedef memory_object_t *memory_object_array_t;
typedef mach_port_t memory_object_name_t;
typedef mach_port_t memory_object_default_t;

#define MEMORY_OBJECT_NULL ((memory_object_t) 0)
#define MEMORY_OBJECT_CONTROL_NULL ((memory_object_control_t) 0)
#define MEMORY_OBJECT_NAME_NULL ((memory_object_name_t) 0)
#define MEMORY_OBJECT_DEFAULT_NULL ((memory_object_default_t) 0)

typedef int memory_object_copy_strategy_t;

#define MEMORY_OBJECT_COPY_NONE 0
#define MEMORY_OBJECT_COPY_CALL 1
#define MEMORY_OBJECT_COPY_DELAY 2
#define MEMORY_OBJECT_COPY_TEMPORARY 3
#define MEMORY_OBJECT_COPY_SYMMETRIC 4
#define MEMORY_OBJECT_COPY_INVALID 5
#define MEMORY_OBJECT_COPY_DELAY_FORK 6

typedef int memory_object_return_t;

#define MEMORY_OBJECT_RETURN_NONE 0
#define MEMORY_OBJECT_RETURN_DIRTY 1
#define MEMORY_OBJECT_RETURN_ALL 2
#define MEMORY_OBJECT_RETURN_ANYTHING 3

/* How a processor should cache a mapping: accepted, and without effect on ordinary memory. */
#define MAP_MEM_NOOP 0
#define MAP_MEM_COPYBACK 1
#define MAP_MEM_IO 2
#define MAP_MEM_WTHRU 3
#define MAP_MEM_WCOMB 4
#define MAP_MEM_INNERWBACK 5
#define MAP_MEM_POSTED 6
#define MAP_MEM_RT 7
#define MAP_MEM_POSTED_REORDERED 8
#define MAP_MEM_POSTED_COMBINED_REORDERED 9

#define GET_MAP_MEM(flags) ((((unsigned int) (flags)) >> 24) & 0xFF)
#define SET_MAP_MEM(caching, flags) \
    ((flags) = ((((unsigned int) (caching)) << 24) & 0xFF000000) | ((flags) & 0xFFFFFF))

/* Flags of mach_make_memory_entry(), together with the rights wanted. */
#define MAP_MEM_LEDGER_TAGGED 0x002000
#define MAP_MEM_PURGABLE_KERNEL_ONLY 0x004000
#define MAP_MEM_GRAB_SECLUDED 0x008000
#define MAP_MEM_ONLY 0x010000          /* only change the caching of the parent */
#define MAP_MEM_NAMED_CREATE 0x020000  /* new memory, mapped nowhere yet */
#define MAP_MEM_PURGABLE 0x040000      /* and that purgeable */
#define MAP_MEM_NAMED_REUSE 0x080000   /* the parent, where it is the same already */
#define MAP_MEM_USE_DATA_ADDR 0x100000 /* remember where in the page the data begins */
#define MAP_MEM_VM_COPY 0x200000       /* a copy of the range as it is now */
#define MAP_MEM_VM_SHARE 0x400000      /* the range, with all its regions */
#define MAP_MEM_4K_DATA_ADDR 0x800000

#define MAP_MEM_FLAGS_MASK 0x00FFFF00
#define MAP_MEM_FLAGS_USER \
    (MAP_MEM_PURGABLE_KERNEL_ONLY | MAP_MEM_GRAB_SECLUDED | MAP_MEM_ONLY | MAP_MEM_NAMED_CREATE | MAP_MEM_PURGABLE | \
     MAP_MEM_NAMED_REUSE | MAP_MEM_USE_DATA_ADDR | MAP_MEM_VM_COPY | MAP_MEM_VM_SHARE | MAP_MEM_LEDGER_TAGGED | \
     MAP_MEM_4K_DATA_ADDR)
#define MAP_MEM_FLAGS_ALL (MAP_MEM_FLAGS_USER)

#endif
