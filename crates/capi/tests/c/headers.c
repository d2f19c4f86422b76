// cc: -std=c99 -pedantic
/* Every header in one program, twice, in strict C99. */
#include <mach.h>
#include <mach_error.h>
#include <mach/boolean.h>
#include <mach/error.h>
#include <mach/host_info.h>
#include <mach/host_priv.h>
#include <mach/host_special_ports.h>
#include <mach/kern_return.h>
#include <mach/mach.h>
#include <mach/mach_error.h>
#include <mach/mach_host.h>
#include <mach/mach_init.h>
#include <mach/mach_interface.h>
#include <mach/mach_port.h>
#include <mach/mach_time.h>
#include <mach/mach_traps.h>
#include <mach/mach_types.h>
#include <mach/mach_vm.h>
#include <mach/machine.h>
#include <mach/machine/boolean.h>
#include <mach/machine/kern_return.h>
#include <mach/machine/vm_param.h>
#include <mach/machine/vm_types.h>
#include <mach/memory_entry.h>
#include <mach/memory_object_types.h>
#include <mach/message.h>
#include <mach/mig_errors.h>
#include <mach/policy.h>
#include <mach/port.h>
#include <mach/std_types.h>
#include <mach/task.h>
#include <mach/task_info.h>
#include <mach/time_value.h>
#include <mach/vm_attributes.h>
#include <mach/vm_behavior.h>
#include <mach/vm_cache_statistics.h>
#include <mach/vm_inherit.h>
#include <mach/vm_map.h>
#include <mach/vm_page_size.h>
#include <mach/vm_param.h>
#include <mach/vm_prot.h>
#include <mach/vm_purgable.h>
#include <mach/vm_region.h>
#include <mach/vm_statistics.h>
#include <mach/vm_sync.h>
#include <mach/vm_types.h>
#include <mach/vm_wire.h>

#include <mach.h>
#include <mach_error.h>
#include <mach/boolean.h>
#include <mach/error.h>
#include <mach/host_info.h>
#include <mach/host_priv.h>
#include <mach/host_special_ports.h>
#include <mach/kern_return.h>
#include <mach/mach.h>
#include <mach/mach_error.h>
#include <mach/mach_host.h>
#include <mach/mach_init.h>
#include <mach/mach_interface.h>
#include <mach/mach_port.h>
#include <mach/mach_time.h>
#include <mach/mach_traps.h>
#include <mach/mach_types.h>
#include <mach/mach_vm.h>
#include <mach/machine.h>
#include <mach/machine/boolean.h>
#include <mach/machine/kern_return.h>
#include <mach/machine/vm_param.h>
#include <mach/machine/vm_types.h>
#include <mach/memory_entry.h>
#include <mach/memory_object_types.h>
#include <mach/message.h>
#include <mach/mig_errors.h>
#include <mach/policy.h>
#include <mach/port.h>
#include <mach/std_types.h>
#include <mach/task.h>
#include <mach/task_info.h>
#include <mach/time_value.h>
#include <mach/vm_attributes.h>
#include <mach/vm_behavior.h>
#include <mach/vm_cache_statistics.h>
#include <mach/vm_inherit.h>
#include <mach/vm_map.h>
#include <mach/vm_page_size.h>
#include <mach/vm_param.h>
#include <mach/vm_prot.h>
#include <mach/vm_purgable.h>
#include <mach/vm_region.h>
#include <mach/vm_statistics.h>
#include <mach/vm_sync.h>
#include <mach/vm_types.h>
#include <mach/vm_wire.h>

#include <stddef.h>

/* Some facts that sources rely on. */
int main(void) {
    struct vm_region_basic_info_64 info = {0};
    int wrong = 0;
    wrong |= sizeof(mach_port_t) != 4 || sizeof(natural_t) != 4 || sizeof(kern_return_t) != 4;
    wrong |= sizeof(mach_vm_address_t) != 8 || sizeof(vm_address_t) != sizeof(void *);
    wrong |= VM_REGION_BASIC_INFO_COUNT_64 != 9 || offsetof(struct vm_region_basic_info_64, offset) != 20;
    wrong |= VM_REGION_SUBMAP_INFO_COUNT_64 != 19 || VM_REGION_SUBMAP_INFO_V0_COUNT_64 != 16;
    wrong |= HOST_VM_INFO_COUNT != 15 || HOST_VM_INFO64_COUNT != 38 || HOST_BASIC_INFO_COUNT != 12;
    wrong |= MACH_TASK_BASIC_INFO_COUNT != 12 || TASK_BASIC_INFO_64_COUNT != 10 || TASK_BASIC_INFO_32_COUNT != 8;
    wrong |= TASK_VM_INFO_REV0_COUNT != 36 || TASK_VM_INFO_REV2_COUNT != 42 || sizeof(struct vm_page_info_basic) != 32;
    wrong |= info.protection != VM_PROT_NONE;
    return wrong;
}
