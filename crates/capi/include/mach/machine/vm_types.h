/* Widths of addresses, sizes and plain numbers. */
#ifndef _MACH_MACHINE_VM_TYPES_H_
#define _MACH_MACHINE_VM_TYPES_H_

#include <stdint.h>

typedef unsigned int natural_t; /* 32 bits on every machine */
typedef int integer_t;

/* As wide as a pointer of the program. */
typedef uintptr_t vm_offset_t;
typedef uintptr_t vm_size_t;

/* 64 bits whatever the program: can describe any task. */
typedef uint64_t mach_vm_address_t;
typedef uint64_t mach_vm_offset_t;
typedef uint64_t mach_vm_size_t;

typedef uint64_t vm_map_offset_t;
typedef uint64_t vm_map_address_t;
typedef uint64_t vm_map_size_t;

#endif
