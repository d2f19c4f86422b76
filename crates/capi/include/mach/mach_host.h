/* Calls about the host. */
#ifndef _mach_host_user_
#define _mach_host_user_

#include <mach/kern_return.h>
#include <mach/mach_init.h>
#include <mach/mach_types.h>
#include <mach/mig_errors.h>
#include <mach/vm_cache_statistics.h>

#ifdef __cplusplus
extern "C" {
#endif

extern kern_return_t host_info(host_t host, host_flavor_t flavor, host_info_t host_info_out,
                               mach_msg_type_number_t *host_info_outCnt);
extern kern_return_t host_statistics(host_t host_priv, host_flavor_t flavor, host_info_t host_info_out,
                                     mach_msg_type_number_t *host_info_outCnt);
extern kern_return_t host_statistics64(host_t host_priv, host_flavor_t flavor, host_info64_t host_info64_out,
                                       mach_msg_type_number_t *host_info64_outCnt);

extern kern_return_t mach_memory_object_memory_entry(host_t host, boolean_t internal, vm_size_t size,
                                                     vm_prot_t permission, memory_object_t pager,
                                                     mach_port_t *entry_handle);
extern kern_return_t mach_memory_object_memory_entry_64(host_t host, boolean_t internal, memory_object_size_t size,
                                                        vm_prot_t permission, memory_object_t pager,
                                                        mach_port_t *entry_handle);

#ifdef __cplusplus
}
#endif

#endif
