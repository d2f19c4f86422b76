/* What the C tests share: checks that say what was expected, and accesses that may fault. */
#ifndef CHECK_H
#define CHECK_H

#include <mach/mach.h>
#include <mach/mach_vm.h>

#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE ((mach_vm_size_t) 4096)
#define SELF mach_task_self()

/* Ends the program when `condition` does not hold. */
#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s: not true\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

/* Two numbers are equal. */
#define EQUAL(a, b) \
    do { \
        unsigned long long a_ = (unsigned long long) (a), b_ = (unsigned long long) (b); \
        if (a_ != b_) { \
            fprintf(stderr, "%s:%d: %s is %#llx, %s is %#llx\n", __FILE__, __LINE__, #a, a_, #b, b_); \
            exit(1); \
        } \
    } while (0)

/* A call returns a certain code. */
#define RETURNS(code, call) \
    do { \
        kern_return_t got_ = (call); \
        if (got_ != (kern_return_t) (code)) { \
            fprintf(stderr, "%s:%d: %s: %#x (%s), not %s\n", __FILE__, __LINE__, #call, (unsigned) got_, \
                    mach_error_string(got_), #code); \
            exit(1); \
        } \
    } while (0)

#define OK(call) RETURNS(KERN_SUCCESS, call)

/* An address as a pointer. */
#define AT(address) ((unsigned char *) (uintptr_t) (address))

/* New memory of `size` bytes anywhere. */
__attribute__((unused)) static mach_vm_address_t new_memory(mach_vm_size_t size) {
    mach_vm_address_t at = 0;
    OK(mach_vm_allocate(SELF, &at, size, VM_FLAGS_ANYWHERE));
    return at;
}

/* A byte that depends on its place and on a seed. */
__attribute__((unused)) static unsigned char pattern(mach_vm_size_t i, unsigned seed) {
    return (unsigned char) ((i * 2654435761u) >> 11 ^ i ^ seed * 37u);
}

__attribute__((unused)) static void fill(mach_vm_address_t at, mach_vm_size_t size, unsigned seed) {
    for (mach_vm_size_t i = 0; i < size; i++) AT(at)[i] = pattern(i, seed);
}

/* Do `size` bytes at `at` hold what fill() wrote, from byte `from` of it on? */
__attribute__((unused)) static int holds(mach_vm_address_t at, mach_vm_size_t size, mach_vm_size_t from,
                                         unsigned seed) {
    for (mach_vm_size_t i = 0; i < size; i++)
        if (AT(at)[i] != pattern(from + i, seed)) {
            fprintf(stderr, "byte %llu at %#llx is %#x, not %#x\n", (unsigned long long) i,
                    (unsigned long long) at + i, AT(at)[i], pattern(from + i, seed));
            return 0;
        }
    return 1;
}

/* Are they all zero? */
__attribute__((unused)) static int zero(mach_vm_address_t at, mach_vm_size_t size) {
    for (mach_vm_size_t i = 0; i < size; i++)
        if (AT(at)[i]) return 0;
    return 1;
}

/* The region at or after *at, with its rights. */
__attribute__((unused)) static kern_return_t region(vm_map_t task, mach_vm_address_t *at, mach_vm_size_t *size,
                                                    vm_region_basic_info_data_64_t *info) {
    mach_msg_type_number_t count = VM_REGION_BASIC_INFO_COUNT_64;
    mach_port_t name = MACH_PORT_NULL;
    return mach_vm_region(task, at, size, VM_REGION_BASIC_INFO_64, (vm_region_info_t) info, &count, &name);
}

/* The current rights at `at`, or -1 where nothing is mapped. */
__attribute__((unused)) static int rights(vm_map_t task, mach_vm_address_t at) {
    mach_vm_address_t found = at;
    mach_vm_size_t size = 0;
    vm_region_basic_info_data_64_t info;
    if (region(task, &found, &size, &info) != KERN_SUCCESS || found > at) return -1;
    return info.protection;
}

/* What an access did. */
static struct {
    sigjmp_buf back;
    volatile sig_atomic_t signal;
    void *volatile address;
    volatile int code;
} fault_;

__attribute__((unused)) static void on_fault_(int signal, siginfo_t *info, void *context) {
    (void) context;
    fault_.signal = signal;
    fault_.address = info->si_addr;
    fault_.code = info->si_code;
    siglongjmp(fault_.back, 1);
}

/* Handles SIGSEGV and SIGBUS until the end of the program. */
__attribute__((unused)) static void catch_faults(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault_;
    action.sa_flags = SA_SIGINFO;
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    CHECK(sigaction(SIGBUS, &action, NULL) == 0);
}

/* The signal that the access raises, 0 for none; fault_.address says where. */
#define FAULT_OF(access) \
    (fault_.signal = 0, fault_.address = NULL, sigsetjmp(fault_.back, 1) == 0 ? (void) (access) : (void) 0, \
     (int) fault_.signal)

#define READ_FAULT(address) FAULT_OF(*(volatile unsigned char *) AT(address))
#define WRITE_FAULT(address) FAULT_OF(*(volatile unsigned char *) AT(address) = 0x5a)

/* The access raises this signal at exactly that address. */
#define FAULTS(which, access, where) \
    do { \
        EQUAL(access, which); \
        EQUAL((uintptr_t) fault_.address, where); \
    } while (0)

#endif
