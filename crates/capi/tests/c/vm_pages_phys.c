/* vm_pages_phys of Mach 3: row U19. */
#include "check.h"

static void u19_resident_pages_have_addresses(void) {
    mach_vm_address_t at = new_memory(4 * PAGE);
    rpc_phys_addr_t room[4], *pages = room;
    mach_msg_type_number_t count = 4;
    AT(at)[0] = 1;
    AT(at)[2 * PAGE] = 1;
    OK(vm_pages_phys(mach_host_self(), SELF, at, 4 * PAGE, &pages, &count));
    EQUAL(count, 4);
    CHECK(pages[0] != (rpc_phys_addr_t) -1 && pages[2] != (rpc_phys_addr_t) -1 && pages[0] != pages[2]);
    EQUAL(pages[0] % PAGE, 0);
    EQUAL(pages[1], (rpc_phys_addr_t) -1);
    EQUAL(pages[3], (rpc_phys_addr_t) -1);
    RETURNS(KERN_INVALID_ARGUMENT, vm_pages_phys(mach_host_self(), SELF, at + 1, PAGE, &pages, &count));
    RETURNS(KERN_INVALID_ARGUMENT, vm_pages_phys(mach_host_self(), SELF, at, PAGE + 1, &pages, &count));
    RETURNS(KERN_INVALID_HOST, vm_pages_phys(SELF, SELF, at, PAGE, &pages, &count));
    RETURNS(KERN_INVALID_TASK, vm_pages_phys(mach_host_self(), MACH_PORT_NULL, at, PAGE, &pages, &count));
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

/* Too little room: new memory instead. */
static void u19_out_of_line(void) {
    mach_vm_address_t at = new_memory(8 * PAGE);
    rpc_phys_addr_t room[2], *pages = room;
    mach_msg_type_number_t count = 2;
    AT(at + 7 * PAGE)[0] = 1;
    OK(vm_pages_phys(mach_host_self(), SELF, at, 8 * PAGE, &pages, &count));
    CHECK(pages != room && count == 8);
    EQUAL(pages[0], (rpc_phys_addr_t) -1);
    CHECK(pages[7] != (rpc_phys_addr_t) -1);
    OK(vm_deallocate(SELF, (vm_address_t) pages, count * sizeof *pages));
    OK(mach_vm_deallocate(SELF, at, 8 * PAGE));
}

int main(void) {
    u19_out_of_line();
    u19_resident_pages_have_addresses();
    return 0;
}
