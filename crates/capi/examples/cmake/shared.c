/*
 * Two tasks that share memory through a memory entry, and a child that has a copy of what it inherited.
 */
#include <mach/mach.h>
#include <mach/mach_vm.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(kern_return_t kr, const char *what) {
    if (kr != KERN_SUCCESS) {
        mach_error(what, kr);
        exit(1);
    }
}

static mach_vm_address_t map(task_t task, mach_port_t entry, mach_vm_size_t size) {
    mach_vm_address_t at = 0;
    must(mach_vm_map(task, &at, size, 0, VM_FLAGS_ANYWHERE, entry, 0, FALSE, VM_PROT_DEFAULT, VM_PROT_DEFAULT,
                     VM_INHERIT_COPY),
         "mach_vm_map");
    return at;
}

static void show(const char *who, task_t task, mach_vm_address_t at) {
    char text[32] = "";
    mach_vm_size_t got = 0;
    must(mach_vm_read_overwrite(task, at, sizeof text, (mach_vm_address_t) (uintptr_t) text, &got),
         "mach_vm_read_overwrite");
    printf("%s reads \"%s\"\n", who, text);
}

int main(void) {
    memory_object_size_t size = 1 << 16;
    mach_port_t entry;
    task_t other, child;

    must(task_create(mach_task_self(), NULL, 0, FALSE, &other), "task_create");
    must(mach_make_memory_entry_64(mach_task_self(), &size, 0, MAP_MEM_NAMED_CREATE | VM_PROT_DEFAULT, &entry,
                                   MACH_PORT_NULL),
         "mach_make_memory_entry_64");
    mach_vm_address_t here = map(mach_task_self(), entry, size), there = map(other, entry, size);
    must(mach_port_deallocate(mach_task_self(), entry), "mach_port_deallocate");

    strcpy((char *) (uintptr_t) here, "first");
    must(task_create(mach_task_self(), NULL, 0, TRUE, &child), "task_create");
    must(mach_vm_write(other, there, (vm_offset_t) "second", sizeof "second"), "mach_vm_write");

    printf("the program reads \"%s\"\n", (char *) (uintptr_t) here);
    show("the other task", other, there);
    show("the child", child, here);

    must(task_terminate(other), "task_terminate");
    must(task_terminate(child), "task_terminate");
    return 0;
}
