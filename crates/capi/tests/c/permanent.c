/* Permanent memory cannot be replaced: whoever tries takes its rights and gets nothing in its place: rows U02, U04,
   U07, U20. */
#include "fork.h"

#define SIZE (256 * PAGE)

static mach_vm_address_t permanent_memory(void) {
    mach_vm_address_t at = 0;
    OK(mach_vm_allocate(SELF, &at, SIZE, VM_FLAGS_ANYWHERE | VM_FLAGS_PERMANENT));
    *(volatile int *) AT(at) = 42;
    OK(mach_vm_protect(SELF, at, SIZE, FALSE, VM_PROT_READ));
    EQUAL(*(volatile int *) AT(at), 42);
    return at;
}

static kern_return_t overwrite(mach_vm_address_t at) {
    mach_vm_address_t there = at;
    kern_return_t code = mach_vm_allocate(SELF, &there, SIZE, VM_FLAGS_FIXED | VM_FLAGS_OVERWRITE);
    EQUAL(there, at);
    return code;
}
static kern_return_t map_over(mach_vm_address_t at) {
    mach_vm_address_t there = at;
    return mach_vm_map(SELF, &there, SIZE, 0, VM_FLAGS_FIXED | VM_FLAGS_OVERWRITE, MACH_PORT_NULL, 0, FALSE,
                       VM_PROT_DEFAULT, VM_PROT_ALL, VM_INHERIT_DEFAULT);
}
static kern_return_t copy_to_write(mach_vm_address_t at) {
    return mach_vm_protect(SELF, at, SIZE, TRUE, VM_PROT_COPY | VM_PROT_DEFAULT);
}
static kern_return_t remap_over(mach_vm_address_t at) {
    mach_vm_address_t there = at, other = new_memory(SIZE);
    vm_prot_t prot, max;
    return mach_vm_remap(SELF, &there, SIZE, 0, VM_FLAGS_FIXED | VM_FLAGS_OVERWRITE, SELF, other, TRUE, &prot, &max,
                         VM_INHERIT_DEFAULT);
}
static kern_return_t deallocate(mach_vm_address_t at) {
    return mach_vm_deallocate(SELF, at, SIZE);
}

static const struct {
    const char *name;
    kern_return_t (*how)(mach_vm_address_t);
    kern_return_t code;
} TRIES[] = {{"overwrite", overwrite, KERN_NO_SPACE},
             {"map", map_over, KERN_NO_SPACE},
             {"copy to write", copy_to_write, KERN_NO_SPACE},
             {"remap", remap_over, KERN_NO_SPACE},
             {"deallocate", deallocate, KERN_SUCCESS}};

int main(void) {
    for (size_t i = 0; i < sizeof TRIES / sizeof TRIES[0]; i++) {
        fflush(NULL);
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            mach_vm_address_t at = permanent_memory();
            kern_return_t code = TRIES[i].how(at);
            if (code != TRIES[i].code) fprintf(stderr, "%s:\n", TRIES[i].name);
            RETURNS(TRIES[i].code, code);
            mach_vm_address_t again = at;
            RETURNS(KERN_NO_SPACE, mach_vm_allocate(SELF, &again, PAGE, VM_FLAGS_FIXED));
            EQUAL(*(volatile int *) AT(at), 42); /* ends here */
            _exit(0);
        }
        int status = 0;
        CHECK(waitpid(pid, &status, 0) == pid);
        if (!WIFSIGNALED(status)) fprintf(stderr, "%s: status %#x\n", TRIES[i].name, status);
        CHECK(WIFSIGNALED(status));
        EQUAL(WTERMSIG(status), SIGBUS);
    }
    return 0;
}
