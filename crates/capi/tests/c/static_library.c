// link: static
/* The archive does what the shared library does. */
#include "check.h"

int main(void) {
    mach_vm_address_t from = new_memory(16 * PAGE), to = new_memory(16 * PAGE);
    fill(from, 16 * PAGE, 1);
    OK(mach_vm_copy(SELF, from, 16 * PAGE, to));
    fill(from, 16 * PAGE, 2);
    CHECK(holds(to, 16 * PAGE, 0, 1));
    EQUAL(vm_page_size, 4096);
    return 0;
}
