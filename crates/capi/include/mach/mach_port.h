/* References to ports by name. */
#ifndef _mach_port_user_
#define _mach_port_user_

#include <mach/kern_return.h>
#include <mach/mach_types.h>
#include <mach/mig_errors.h>
#include <mach/port.h>

#ifdef __cplusplus
extern "C" {
#endif

extern kern_return_t mach_port_type(ipc_space_t task, mach_port_name_t name, mach_port_type_t *ptype);
extern kern_return_t mach_port_destroy(ipc_space_t task, mach_port_name_t name);
extern kern_return_t mach_port_deallocate(ipc_space_t task, mach_port_name_t name);
extern kern_return_t mach_port_get_refs(ipc_space_t task, mach_port_name_t name, mach_port_right_t right,
                                        mach_port_urefs_t *refs);
extern kern_return_t mach_port_mod_refs(ipc_space_t task, mach_port_name_t name, mach_port_right_t right,
                                        mach_port_delta_t delta);

#ifdef __cplusplus
}
#endif

#endif
