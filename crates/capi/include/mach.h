/* The name and the spellings of sources that are older than <mach/mach.h>. */
#ifndef _MACH_OLD_H_
#define _MACH_OLD_H_

#include <mach/mach.h>
#include <mach/mach_error.h>

#define task_self() mach_task_self()
#define host_self() mach_host_self()

#endif
