/* The host: mach_host_self, host_info, host_page_size, the privileged port, the page size's variables. */
#include "check.h"

#include <mach/mach_traps.h>

static void u26_page_size(void) {
    vm_size_t size = 0;
    OK(host_page_size(mach_host_self(), &size));
    EQUAL(size, 4096);
    EQUAL(vm_page_size, size);
    EQUAL(vm_page_mask, size - 1);
    EQUAL((vm_size_t) 1 << vm_page_shift, size);
    EQUAL(vm_kernel_page_size, size);
    EQUAL(vm_kernel_page_mask, size - 1);
    EQUAL(vm_kernel_page_shift, vm_page_shift);
    EQUAL(round_page(1), size);
    EQUAL(round_page(size), size);
    EQUAL(trunc_page(size + 1), size);
    EQUAL(mach_vm_round_page(size + 1), 2 * size);
    EQUAL(mach_vm_trunc_page(2 * size - 1), size);
    EQUAL(PAGE_SIZE, size);
}

static void basic(void) {
    struct host_basic_info info;
    mach_msg_type_number_t count = HOST_BASIC_INFO_COUNT;
    OK(host_info(mach_host_self(), HOST_BASIC_INFO, (host_info_t) &info, &count));
    EQUAL(count, HOST_BASIC_INFO_COUNT);
    EQUAL(info.max_cpus > 0, 1);
    CHECK(info.avail_cpus > 0 && info.avail_cpus <= info.max_cpus && info.logical_cpu > 0);
    CHECK(info.max_mem > 0 && info.memory_size <= 0x80000000u);
#if defined(__x86_64__)
    CHECK(info.cpu_type == CPU_TYPE_X86_64 || info.cpu_type == CPU_TYPE_X86);
#endif
    RETURNS(KERN_INVALID_ARGUMENT, host_info(mach_host_self(), 99, (host_info_t) &info, &count));
    RETURNS(MACH_SEND_INVALID_DEST, host_info(MACH_PORT_NULL, HOST_BASIC_INFO, (host_info_t) &info, &count));
}

static void privileged(void) {
    mach_port_t priv = MACH_PORT_NULL, plain = MACH_PORT_NULL;
    CHECK(mach_host_self() != MACH_PORT_NULL);
    EQUAL(mach_host_self(), host_self_trap());
    OK(host_get_host_priv_port(mach_host_self(), &priv));
    OK(host_get_host_port(mach_host_self(), &plain));
    CHECK(priv != MACH_PORT_NULL && plain != MACH_PORT_NULL && priv != SELF);
    RETURNS(MACH_SEND_INVALID_DEST, host_get_host_priv_port(MACH_PORT_NULL, &priv));
}

int main(void) {
    u26_page_size();
    basic();
    privileged();
    return 0;
}
