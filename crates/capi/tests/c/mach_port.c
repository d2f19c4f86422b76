/* References to port names: mach_port_deallocate, _mod_refs, _get_refs, _type, _destroy. */
#include "check.h"

static mach_port_t entry(void) {
    memory_object_size_t size = PAGE;
    mach_port_t port;
    OK(mach_make_memory_entry_64(SELF, &size, 0, MAP_MEM_NAMED_CREATE | VM_PROT_DEFAULT, &port, MACH_PORT_NULL));
    return port;
}

static mach_port_urefs_t refs(mach_port_t port) {
    mach_port_urefs_t n = 0;
    OK(mach_port_get_refs(SELF, port, MACH_PORT_RIGHT_SEND, &n));
    return n;
}

static void references(void) {
    mach_port_t port = entry();
    mach_port_type_t type = 0;
    EQUAL(refs(port), 1);
    OK(mach_port_mod_refs(SELF, port, MACH_PORT_RIGHT_SEND, 2));
    EQUAL(refs(port), 3);
    OK(mach_port_type(SELF, port, &type));
    CHECK(type & MACH_PORT_TYPE_SEND);
    RETURNS(KERN_INVALID_VALUE, mach_port_mod_refs(SELF, port, MACH_PORT_RIGHT_SEND, -4));
    EQUAL(refs(port), 3);
    OK(mach_port_deallocate(SELF, port));
    OK(mach_port_mod_refs(SELF, port, MACH_PORT_RIGHT_SEND, -2));
    RETURNS(KERN_INVALID_NAME, mach_port_deallocate(SELF, port));
    RETURNS(KERN_INVALID_NAME, mach_port_type(SELF, port, &type));
}

/* The name is gone, and not soon another's. */
static void names_are_not_reused(void) {
    mach_port_t old = entry();
    mach_vm_address_t at = 0;
    OK(mach_port_destroy(SELF, old));
    for (int i = 0; i < 100; i++) {
        mach_port_t port = entry();
        CHECK(port != old && port != SELF && port != MACH_PORT_NULL && port != MACH_PORT_DEAD);
        OK(mach_port_deallocate(SELF, port));
    }
    CHECK(mach_vm_map(SELF, &at, PAGE, 0, VM_FLAGS_ANYWHERE, old, 0, FALSE, VM_PROT_DEFAULT, VM_PROT_DEFAULT,
                      VM_INHERIT_DEFAULT) != KERN_SUCCESS);
    EQUAL(at, 0);
}

static void the_programs_own_port_stays(void) {
    mach_port_t self = SELF;
    for (int i = 0; i < 10; i++) mach_port_deallocate(SELF, self);
    mach_vm_address_t at = new_memory(PAGE);
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

static void codes(void) {
    mach_port_urefs_t n = 7;
    RETURNS(KERN_INVALID_NAME, mach_port_deallocate(SELF, 0x7777777));
    RETURNS(KERN_INVALID_NAME, mach_port_get_refs(SELF, 0x7777777, MACH_PORT_RIGHT_SEND, &n));
    RETURNS(KERN_INVALID_VALUE, mach_port_get_refs(SELF, SELF, 99, &n));
    RETURNS(MACH_SEND_INVALID_DEST, mach_port_deallocate(MACH_PORT_NULL, SELF));
    EQUAL(n, 7);
}

int main(void) {
    references();
    names_are_not_reused();
    the_programs_own_port_stays();
    codes();
    return 0;
}
