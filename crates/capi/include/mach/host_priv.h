/* Calls that take the privileged host port. */
#ifndef _host_priv_user_
#define _host_priv_user_

#include <mach/kern_return.h>
#include <mach/mach_types.h>
#include <mach/vm_wire.h>

#ifdef __cplusplus
extern "C" {
#endif

extern kern_return_t host_get_special_port(host_priv_t host_priv, int node, int which, mach_port_t *port);
extern kern_return_t vm_wire(host_priv_t host_priv, vm_map_t task, vm_address_t address, vm_size_t size,
                             vm_prot_t desired_access);
extern kern_return_t mach_vm_wire(host_priv_t host_priv, vm_map_t task, mach_vm_address_t address,
                                  mach_vm_size_t size, vm_prot_t desired_access);

/* Mach 3. */
extern kern_return_t vm_wire_all(host_priv_t host_priv, vm_map_t task, vm_wire_t flags);

#ifdef __cplusplus
}
#endif

#endif
