/* The contract on ports that are none: null, dead, and of the wrong kind. */
#include "check.h"

/* Every call of a map, with its good arguments, on `task`. */
static kern_return_t call(int which, mach_port_t task, mach_vm_address_t at) {
    static char bytes[64];
    mach_vm_address_t to = 0;
    vm_address_t narrow = 0;
    mach_vm_size_t size = 0;
    vm_size_t narrow_size = 0;
    vm_offset_t data;
    natural_t depth = 0;
    mach_port_t name;
    mach_msg_type_number_t count = VM_REGION_SUBMAP_INFO_COUNT_64;
    static int info[VM_REGION_INFO_MAX];
    static mach_vm_read_entry_t list;
    static vm_read_entry_t narrow_list;
    vm_prot_t cur = VM_PROT_READ, max = VM_PROT_READ;
    memory_object_size_t entry_size = PAGE;
    vm_size_t narrow_entry = PAGE;
    integer_t what, refs;
    int value = MATTR_VAL_CACHE_FLUSH;
    switch (which) {
    case 0: return mach_vm_allocate(task, &to, PAGE, VM_FLAGS_ANYWHERE);
    case 1: return vm_allocate(task, &narrow, PAGE, VM_FLAGS_ANYWHERE);
    case 2: return mach_vm_deallocate(task, at, PAGE);
    case 3: return vm_deallocate(task, at, PAGE);
    case 4: return mach_vm_protect(task, at, PAGE, FALSE, VM_PROT_READ);
    case 5: return vm_protect(task, at, PAGE, FALSE, VM_PROT_READ);
    case 6: return mach_vm_inherit(task, at, PAGE, VM_INHERIT_NONE);
    case 7: return vm_inherit(task, at, PAGE, VM_INHERIT_NONE);
    case 8: return mach_vm_read(task, at, PAGE, &data, &count);
    case 9: return vm_read(task, at, PAGE, &data, &count);
    case 10: return mach_vm_read_list(task, list, 1);
    case 11: return vm_read_list(task, narrow_list, 1);
    case 12: return mach_vm_write(task, at, (vm_offset_t) bytes, sizeof bytes);
    case 13: return vm_write(task, at, (vm_offset_t) bytes, sizeof bytes);
    case 14: return mach_vm_copy(task, at, 8, at + 8);
    case 15: return vm_copy(task, at, 8, at + 8);
    case 16: return mach_vm_read_overwrite(task, at, 8, (mach_vm_address_t) (uintptr_t) bytes, &size);
    case 17: return vm_read_overwrite(task, at, 8, (vm_address_t) bytes, &narrow_size);
    case 18: return mach_vm_msync(task, at, PAGE, VM_SYNC_SYNCHRONOUS);
    case 19: return vm_msync(task, at, PAGE, VM_SYNC_SYNCHRONOUS);
    case 20: return mach_vm_behavior_set(task, at, PAGE, VM_BEHAVIOR_RANDOM);
    case 21: return vm_behavior_set(task, at, PAGE, VM_BEHAVIOR_RANDOM);
    case 22: return mach_vm_map(task, &to, PAGE, 0, VM_FLAGS_ANYWHERE, 0, 0, FALSE, 1, 7, VM_INHERIT_COPY);
    case 23: return vm_map(task, &narrow, PAGE, 0, VM_FLAGS_ANYWHERE, 0, 0, FALSE, 1, 7, VM_INHERIT_COPY);
    case 24: return vm_map_64(task, &narrow, PAGE, 0, VM_FLAGS_ANYWHERE, 0, 0, FALSE, 1, 7, VM_INHERIT_COPY);
    case 25: return mach_vm_machine_attribute(task, at, PAGE, MATTR_CACHE, &value);
    case 26: return vm_machine_attribute(task, at, PAGE, MATTR_CACHE, &value);
    case 27: return mach_vm_remap(task, &to, PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, FALSE, &cur, &max, 0);
    case 28: return vm_remap(task, &narrow, PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, FALSE, &cur, &max, 0);
    case 29: return mach_vm_remap_new(task, &to, PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, FALSE, &cur, &max, 0);
    case 30: return vm_remap_new(task, &narrow, PAGE, 0, VM_FLAGS_ANYWHERE, SELF, at, FALSE, &cur, &max, 0);
    case 31: return mach_vm_purgable_control(task, at, VM_PURGABLE_GET_STATE, &value);
    case 32: return vm_purgable_control(task, at, VM_PURGABLE_GET_STATE, &value);
    case 33: return mach_vm_region(task, &to, &size, VM_REGION_BASIC_INFO_64, info, &count, &name);
    case 34: return vm_region_64(task, &narrow, &narrow_size, VM_REGION_BASIC_INFO_64, info, &count, &name);
    case 35: return vm_region(task, &narrow, &narrow_size, VM_REGION_BASIC_INFO, info, &count, &name);
    case 36: return mach_vm_region_recurse(task, &to, &size, &depth, info, &count);
    case 37: return vm_region_recurse_64(task, &narrow, &narrow_size, &depth, info, &count);
    case 38: return vm_region_recurse(task, &narrow, &narrow_size, &depth, info, &count);
    case 39: return mach_vm_page_query(task, at, &what, &refs);
    case 40: return vm_map_page_query(task, at, &what, &refs);
    case 41: return mach_vm_page_info(task, at, VM_PAGE_INFO_BASIC, info, &count);
    case 42: size = 1; return mach_vm_page_range_query(task, at, PAGE, (mach_vm_address_t) (uintptr_t) info, &size);
    case 43: return mach_make_memory_entry(task, &narrow_entry, at, VM_PROT_READ, &name, 0);
    case 44: return mach_make_memory_entry_64(task, &entry_size, at, VM_PROT_READ, &name, 0);
    case 45: return task_create(task, NULL, 0, FALSE, &name);
    case 46: count = TASK_VM_INFO_COUNT; return task_info(task, TASK_VM_INFO, info, &count);
    default: return -1;
    }
}
enum { CALLS = 47 };

static void null_and_dead(void) {
    mach_vm_address_t at = new_memory(PAGE);
    fill(at, PAGE, 1);
    for (int i = 0; i < CALLS; i++) {
        kern_return_t null = call(i, MACH_PORT_NULL, at), dead = call(i, MACH_PORT_DEAD, at), other = call(i, 0x7777777, at);
        if (null != MACH_SEND_INVALID_DEST || dead != MACH_SEND_INVALID_DEST || other != MACH_SEND_INVALID_DEST) {
            fprintf(stderr, "call %d: %#x %#x %#x\n", i, (unsigned) null, (unsigned) dead, (unsigned) other);
            exit(1);
        }
    }
    CHECK(holds(at, PAGE, 0, 1));
    EQUAL(rights(SELF, at), VM_PROT_DEFAULT);
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

/* A port that is no task is refused, whatever it is. */
static void not_a_task(void) {
    mach_vm_address_t at = new_memory(PAGE);
    memory_object_size_t size = PAGE;
    mach_port_t entry;
    OK(mach_make_memory_entry_64(SELF, &size, 0, MAP_MEM_NAMED_CREATE | VM_PROT_DEFAULT, &entry, MACH_PORT_NULL));
    for (int i = 0; i < CALLS; i++) {
        CHECK(call(i, entry, at) != KERN_SUCCESS);
        CHECK(call(i, mach_host_self(), at) != KERN_SUCCESS);
    }
    OK(mach_port_deallocate(SELF, entry));
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

/* And so is a task that has ended. */
static void a_task_that_ended(void) {
    mach_vm_address_t at = new_memory(PAGE);
    task_t task;
    OK(task_create(SELF, NULL, 0, TRUE, &task));
    OK(task_terminate(task));
    for (int i = 0; i < CALLS; i++) CHECK(call(i, task, at) != KERN_SUCCESS);
    OK(mach_port_deallocate(SELF, task));
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

/* A null pointer for a result is an argument like another. */
static void null_pointers(void) {
    mach_vm_address_t at = new_memory(PAGE);
    mach_vm_size_t size;
    mach_msg_type_number_t count = VM_REGION_BASIC_INFO_COUNT_64;
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_allocate(SELF, NULL, PAGE, VM_FLAGS_ANYWHERE));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_read(SELF, at, PAGE, NULL, &count));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_region(SELF, &at, &size, VM_REGION_BASIC_INFO_64, NULL, &count, NULL));
    RETURNS(KERN_INVALID_ARGUMENT, mach_vm_purgable_control(SELF, at, VM_PURGABLE_GET_STATE, NULL));
    RETURNS(KERN_INVALID_ARGUMENT, task_create(SELF, NULL, 0, FALSE, NULL));
    RETURNS(KERN_INVALID_ARGUMENT, host_page_size(mach_host_self(), NULL));
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

int main(void) {
    null_and_dead();
    not_a_task();
    a_task_that_ended();
    null_pointers();
    return 0;
}
