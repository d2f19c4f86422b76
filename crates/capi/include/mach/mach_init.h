/* The program's own ports, and the size of a page. */
#ifndef _MACH_INIT_
#define _MACH_INIT_ 1

#include <mach/mach_traps.h>
#include <mach/mach_types.h>
#include <mach/vm_page_size.h>

#ifdef __cplusplus
extern "C" {
#endif

extern mach_port_t mach_host_self(void);
extern kern_return_t host_page_size(host_t host, vm_size_t *out_page_size);

extern mach_port_t mach_task_self_;
#define mach_task_self() mach_task_self_
#define current_task() mach_task_self()

#ifdef __cplusplus
}
#endif

#endif
