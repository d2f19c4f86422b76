// run: MACHVM_FAULTS=auto
// run: MACHVM_FAULTS=signal
/* mach_vm_wire, vm_wire and vm_wire_all: rows U11 and U12, traps Z28, Z124. */
#include "check.h"

static mach_port_t host(void) {
    mach_port_t priv = MACH_PORT_NULL;
    OK(host_get_host_priv_port(mach_host_self(), &priv));
    return priv;
}

static unsigned wirings(mach_vm_address_t at) {
    mach_vm_address_t found = at;
    mach_vm_size_t size;
    vm_region_basic_info_data_64_t info;
    OK(region(SELF, &found, &size, &info));
    CHECK(found <= at);
    return info.user_wired_count;
}

static void u11_wired_pages_are_there(void) {
    mach_vm_address_t at = new_memory(8 * PAGE);
    mach_port_t priv = host();
    OK(mach_vm_wire(priv, SELF, at, 8 * PAGE, VM_PROT_DEFAULT));
    EQUAL(wirings(at), 1);
    integer_t what = 0, refs = 0;
    for (int i = 0; i < 8; i++) {
        OK(mach_vm_page_query(SELF, at + i * PAGE, &what, &refs));
        CHECK(what & VM_PAGE_QUERY_PAGE_PRESENT);
    }
    fill(at, 8 * PAGE, 1);
    CHECK(holds(at, 8 * PAGE, 0, 1));
    OK(vm_wire(priv, SELF, at, 8 * PAGE, VM_PROT_NONE));
    EQUAL(wirings(at), 0);
    CHECK(holds(at, 8 * PAGE, 0, 1));
    OK(mach_vm_deallocate(SELF, at, 8 * PAGE));
}

static void z124_counted(void) {
    mach_vm_address_t at = new_memory(PAGE);
    mach_port_t priv = host();
    for (unsigned i = 1; i <= 3; i++) {
        OK(mach_vm_wire(priv, SELF, at, PAGE, VM_PROT_READ));
        EQUAL(wirings(at), i);
    }
    for (unsigned i = 3; i-- > 0;) {
        OK(mach_vm_wire(priv, SELF, at, PAGE, VM_PROT_NONE));
        EQUAL(wirings(at), i);
    }
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

static void z124_to_65535(void) {
    mach_vm_address_t at = new_memory(PAGE);
    mach_port_t priv = host();
    for (int i = 0; i < 65535; i++) OK(mach_vm_wire(priv, SELF, at, PAGE, VM_PROT_READ));
    RETURNS(KERN_FAILURE, mach_vm_wire(priv, SELF, at, PAGE, VM_PROT_READ));
    EQUAL(wirings(at), 65535);
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

/* A copy of wired memory is a copy still. */
static void z48_wired_memory_is_copied(void) {
    mach_vm_address_t from = new_memory(4 * PAGE), to = new_memory(4 * PAGE);
    mach_port_t priv = host();
    fill(from, 4 * PAGE, 1);
    OK(mach_vm_wire(priv, SELF, from, 4 * PAGE, VM_PROT_DEFAULT));
    OK(mach_vm_wire(priv, SELF, to, 4 * PAGE, VM_PROT_DEFAULT));
    OK(mach_vm_copy(SELF, from, 4 * PAGE, to));
    fill(from, 4 * PAGE, 2);
    CHECK(holds(to, 4 * PAGE, 0, 1));
    EQUAL(wirings(to), 1);
    OK(mach_vm_deallocate(SELF, from, 4 * PAGE)); /* wired memory may be freed */
    OK(mach_vm_deallocate(SELF, to, 4 * PAGE));
}

static void u11_codes(void) {
    mach_vm_address_t at = new_memory(3 * PAGE);
    mach_port_t priv = host();
    RETURNS(KERN_INVALID_HOST, mach_vm_wire(SELF, SELF, at, PAGE, VM_PROT_READ));
    RETURNS(KERN_INVALID_TASK, mach_vm_wire(priv, MACH_PORT_NULL, at, PAGE, VM_PROT_READ));
    RETURNS(KERN_INVALID_TASK, vm_wire(priv, priv, at, PAGE, VM_PROT_READ));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_wire(priv, SELF, at, PAGE, 0x1000));
    OK(mach_vm_wire(priv, SELF, at, 0, VM_PROT_READ));
    OK(mach_vm_protect(SELF, at, PAGE, FALSE, VM_PROT_READ));
    RETURNS(KERN_PROTECTION_FAILURE, mach_vm_wire(priv, SELF, at, PAGE, VM_PROT_DEFAULT));
    EQUAL(wirings(at), 0);
    OK(mach_vm_deallocate(SELF, at + PAGE, PAGE));
    RETURNS(KERN_INVALID_ADDRESS, mach_vm_wire(priv, SELF, at, 3 * PAGE, VM_PROT_READ));
    EQUAL(wirings(at), 0); /* what was done is undone */
    EQUAL(wirings(at + 2 * PAGE), 0);
    OK(mach_vm_deallocate(SELF, at, 3 * PAGE));
}

static void u12_wire_all(void) {
    task_t task;
    mach_vm_address_t a = 0, b = 0, found;
    mach_vm_size_t size;
    vm_region_basic_info_data_64_t info;
    mach_port_t priv = host();
    OK(task_create(SELF, NULL, 0, FALSE, &task));
    OK(mach_vm_allocate(task, &a, 2 * PAGE, VM_FLAGS_ANYWHERE));
    OK(vm_wire_all(priv, task, VM_WIRE_ALL));
    OK(mach_vm_allocate(task, &b, 2 * PAGE, VM_FLAGS_ANYWHERE)); /* wired as it comes */
    found = a;
    OK(region(task, &found, &size, &info));
    EQUAL(info.user_wired_count, 1);
    found = b;
    OK(region(task, &found, &size, &info));
    EQUAL(info.user_wired_count, 1);
    OK(vm_wire_all(priv, task, VM_WIRE_NONE));
    found = b;
    OK(region(task, &found, &size, &info));
    EQUAL(info.user_wired_count, 0);
    RETURNS(KERN_INVALID_HOST, vm_wire_all(SELF, task, VM_WIRE_ALL));
    RETURNS(KERN_INVALID_TASK, vm_wire_all(priv, MACH_PORT_NULL, VM_WIRE_ALL));
    RETURNS(KERN_INVALID_ARGUMENT, vm_wire_all(priv, task, 4));
    OK(task_terminate(task));
    OK(mach_port_deallocate(SELF, task));
}

int main(void) {
    u11_wired_pages_are_there();
    z124_counted();
    z124_to_65535();
    z48_wired_memory_is_copied();
    u11_codes();
    u12_wire_all();
    return 0;
}
