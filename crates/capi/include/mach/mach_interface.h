/* The calls of every kind of port. */
#ifndef _MACH_INTERFACE_H_
#define _MACH_INTERFACE_H_

#include <mach/host_priv.h>
#include <mach/mach_host.h>
#include <mach/mach_port.h>
#include <mach/memory_entry.h>
#include <mach/task.h>
#include <mach/vm_map.h>

#endif
