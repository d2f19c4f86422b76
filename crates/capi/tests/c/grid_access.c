// timeout: 120
/* What mach_vm_deallocate and mach_vm_protect take away, at the start, in the middle and at the end of every size:
   rows U04 and U20, traps Z01, Z94. */
#include "grid.h"

/* The signals of accesses; functions, since what jumps back forgets what is in registers. */
__attribute__((noinline)) static int read_of(mach_vm_address_t at) {
    return READ_FAULT(at);
}
__attribute__((noinline)) static int write_to(mach_vm_address_t at) {
    return WRITE_FAULT(at);
}

static void u04_what_is_deallocated_is_gone(mach_vm_size_t size, enum how how) {
    struct spot s = new_spot(size, how);
    mach_vm_size_t all = round_page(s.size + (s.at - s.first));
    OK(mach_vm_deallocate(SELF, s.at, s.size));
    if (size) {
        mach_vm_address_t inside[] = {s.first, s.at, s.first + all / 2, s.first + all - 8};
        for (size_t i = 0; i < COUNT_OF(inside); i++) FAULTS(SIGSEGV, read_of(inside[i]), inside[i]);
        EQUAL(read_of(s.first + s.all - 1), s.all > all ? 0 : SIGSEGV);
    } else {
        EQUAL(read_of(s.first), 0);
    }
    OK(mach_vm_deallocate(SELF, s.at, s.size));
    drop_spot(&s);
}

static void u04_what_comes_again_is_zero(mach_vm_size_t size, enum how how) {
    struct spot s = new_spot(size, how);
    put_words(s.first, s.all, 3, s.first);
    drop_spot(&s);
    mach_vm_address_t at = s.first;
    OK(mach_vm_allocate(SELF, &at, s.all, VM_FLAGS_FIXED));
    EQUAL(at, s.first);
    CHECK(zero(at, s.all));
    drop_spot(&s);
    RETURNS(MACH_SEND_INVALID_DEST, mach_vm_deallocate(VM_MAP_NULL, s.at, s.size));
}

/* The pages that the range touches, and no others, lose the right. */
static void u20_protected(mach_vm_size_t size, enum how how, vm_prot_t left) {
    struct spot s = new_spot(size, how);
    int read = left == VM_PROT_READ;
    if (read) CHECK(zero(s.first, s.all));
    OK(mach_vm_protect(SELF, s.at, s.size, FALSE, left));
    EQUAL(rights(SELF, s.at), size ? left : VM_PROT_DEFAULT);
    mach_vm_size_t all = size ? round_page(s.at + s.size) - s.first : 0;
    if (size) {
        mach_vm_address_t inside[] = {s.first, s.first + all / 2, s.first + all - 8};
        for (size_t i = 0; i < COUNT_OF(inside); i++) {
            if (read)
                FAULTS(SIGBUS, write_to(inside[i]), inside[i]);
            else
                FAULTS(SIGBUS, read_of(inside[i]), inside[i]);
        }
    }
    if (s.all > all) EQUAL(read_of(s.first + all), 0);
    OK(mach_vm_protect(SELF, s.at, s.size, FALSE, VM_PROT_DEFAULT));
    CHECK(zero(s.first, s.all));
    EQUAL(write_to(s.first), 0);
    drop_spot(&s);
}

/* A program that handles no signals dies of the same ones. */
static void u04_u20_programs_die(void) {
    mach_vm_address_t at = new_memory(2 * PAGE);
    static const struct {
        vm_prot_t prot;
        int signal;
    } ends[] = {{VM_PROT_READ, SIGBUS}, {VM_PROT_WRITE, SIGBUS}, {VM_PROT_NONE, SIGBUS}, {-1, SIGSEGV}};
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        fflush(NULL);
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            signal(SIGBUS, SIG_DFL);
            signal(SIGSEGV, SIG_DFL);
            if (ends[i].prot < 0)
                OK(mach_vm_deallocate(SELF, at, PAGE));
            else
                OK(mach_vm_protect(SELF, at, PAGE, FALSE, ends[i].prot));
            if (ends[i].prot == VM_PROT_READ)
                *(volatile char *) AT(at + 8) = 1;
            else
                (void) *(volatile char *) AT(at + 8);
            _exit(0);
        }
        int status = 0;
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFSIGNALED(status));
        EQUAL(WTERMSIG(status), ends[i].signal);
    }
    OK(mach_vm_deallocate(SELF, at, 2 * PAGE));
}

static void z01_ends_of_the_address_space(void) {
    static const struct {
        mach_vm_address_t at;
        mach_vm_size_t size;
    } to_zero[] = {{0, UINT64_MAX},
                   {0, UINT64_MAX - PAGE + 2},
                   {1, UINT64_MAX - 1},
                   {1, UINT64_MAX - PAGE + 1},
                   {2, UINT64_MAX - 2},
                   {2, UINT64_MAX - PAGE},
                   {UINT64_MAX - PAGE + 1, PAGE - 1},
                   {UINT64_MAX - PAGE + 1, 1},
                   {UINT64_MAX - 1, 1}},
      around[] = {{1, UINT64_MAX}, {PAGE, UINT64_MAX - PAGE + 1}, {UINT64_MAX - PAGE + 1, PAGE}, {UINT64_MAX, 1}};
    mach_vm_address_t mine = new_memory(PAGE);
    AT(mine)[0] = 1;
    for (size_t i = 0; i < COUNT_OF(ODD); i++) {
        OK(mach_vm_deallocate(SELF, ODD[i], 0));
        OK(mach_vm_protect(SELF, ODD[i], 0, FALSE, VM_PROT_READ));
        OK(mach_vm_protect(SELF, ODD[i], 0, FALSE, VM_PROT_WRITE));
    }
    for (size_t i = 0; i < COUNT_OF(to_zero); i++) OK(mach_vm_deallocate(SELF, to_zero[i].at, to_zero[i].size));
    for (size_t i = 0; i < COUNT_OF(around); i++) {
        RETURNS(KERN_INVALID_ARGUMENT, mach_vm_deallocate(SELF, around[i].at, around[i].size));
        RETURNS(KERN_INVALID_ARGUMENT, mach_vm_protect(SELF, around[i].at, around[i].size, FALSE, VM_PROT_READ));
        RETURNS(KERN_INVALID_ARGUMENT, mach_vm_protect(SELF, around[i].at, around[i].size, FALSE, VM_PROT_WRITE));
    }
    EQUAL(AT(mine)[0], 1);
    OK(mach_vm_deallocate(SELF, mine, PAGE));
}

int main(void) {
    catch_faults();
    for (size_t s = 0; s < COUNT_OF(SIZES); s++)
        for (enum how how = ANYWHERE; how < HOWS; how++) {
            u04_what_is_deallocated_is_gone(SIZES[s], how);
            u04_what_comes_again_is_zero(SIZES[s], how);
            u20_protected(SIZES[s], how, VM_PROT_READ);
            u20_protected(SIZES[s], how, VM_PROT_WRITE);
        }
    u04_u20_programs_die();
    z01_ends_of_the_address_space();
    return 0;
}
