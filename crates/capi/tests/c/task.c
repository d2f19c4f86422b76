/* task_create, task_terminate, task_info, task_for_pid, pid_for_task: row U35. */
#include "check.h"

static void u35_an_empty_task(void) {
    task_t task = MACH_PORT_NULL;
    mach_vm_address_t mine = new_memory(PAGE), at = mine;
    OK(task_create(SELF, NULL, 0, FALSE, &task));
    CHECK(task != MACH_PORT_NULL && task != SELF);
    OK(mach_vm_allocate(task, &at, PAGE, VM_FLAGS_FIXED)); /* the same numbers, another space */
    AT(mine)[0] = 1;
    unsigned char byte = 9;
    mach_vm_size_t got;
    OK(mach_vm_read_overwrite(task, at, 1, (mach_vm_address_t) (uintptr_t) &byte, &got));
    EQUAL(byte, 0);
    OK(task_terminate(task));
    CHECK(mach_vm_allocate(task, &at, PAGE, VM_FLAGS_ANYWHERE) != KERN_SUCCESS);
    CHECK(task_terminate(task) != KERN_SUCCESS);
    OK(mach_port_deallocate(SELF, task));
    EQUAL(AT(mine)[0], 1);
    OK(mach_vm_deallocate(SELF, mine, PAGE));
}

/* Many of them, one after the other and at once: nothing is used up. */
static void u35_many(void) {
    task_t tasks[16];
    for (int round = 0; round < 8; round++) {
        for (int i = 0; i < 16; i++) {
            mach_vm_address_t at = 0;
            OK(task_create(SELF, NULL, 0, FALSE, &tasks[i]));
            OK(mach_vm_allocate(tasks[i], &at, 1 << 20, VM_FLAGS_ANYWHERE));
            OK(mach_vm_write(tasks[i], at, (vm_offset_t) "task", 4));
        }
        for (int i = 0; i < 16; i++) {
            OK(task_terminate(tasks[i]));
            OK(mach_port_deallocate(SELF, tasks[i]));
        }
    }
}

static void u35_vm_info(void) {
    struct task_vm_info info;
    mach_msg_type_number_t count = TASK_VM_INFO_COUNT;
    task_t task;
    mach_vm_address_t at = 0;
    OK(task_create(SELF, NULL, 0, FALSE, &task));
    OK(mach_vm_allocate(task, &at, 10 * PAGE, VM_FLAGS_ANYWHERE));
    OK(mach_vm_write(task, at, (vm_offset_t) "x", 1));
    memset(&info, 0xee, sizeof info);
    OK(task_info(task, TASK_VM_INFO, (task_info_t) &info, &count));
    EQUAL(count, TASK_VM_INFO_COUNT);
    EQUAL(info.virtual_size, 10 * PAGE);
    EQUAL(info.region_count, 1);
    EQUAL(info.page_size, PAGE);
    CHECK(info.min_address <= at && at < info.max_address);
    CHECK(info.phys_footprint <= 10 * PAGE);
    mach_msg_type_number_t counts[] = {TASK_VM_INFO_REV0_COUNT, TASK_VM_INFO_REV1_COUNT, TASK_VM_INFO_REV2_COUNT,
                                       TASK_VM_INFO_REV3_COUNT, TASK_VM_INFO_REV4_COUNT, TASK_VM_INFO_REV5_COUNT};
    for (int i = 0; i < 6; i++) {
        int words[200];
        memset(words, 0xee, sizeof words);
        count = counts[i];
        OK(task_info(task, TASK_VM_INFO, words, &count));
        EQUAL(count, counts[i]);
        EQUAL(words[counts[i]], (int) 0xeeeeeeee);
    }
    /* The program's own, in every revision: what a revision does not have stays. */
    for (int i = 0; i < 3; i++) {
        count = counts[i];
        memset(&info, 0x0f, sizeof info);
        info.phys_footprint = 5;
        OK(task_info(SELF, TASK_VM_INFO_PURGEABLE, (task_info_t) &info, &count));
        CHECK(info.virtual_size != 0);
        CHECK((info.phys_footprint == 5) == (i < 1));
        CHECK((info.min_address == UINT64_C(0x0f0f0f0f0f0f0f0f)) == (i < 2));
        CHECK((info.max_address == UINT64_C(0x0f0f0f0f0f0f0f0f)) == (i < 2));
        if (i) CHECK(info.phys_footprint != 0);
    }
    count = TASK_VM_INFO_REV0_COUNT - 1;
    RETURNS(KERN_INVALID_ARGUMENT, task_info(task, TASK_VM_INFO, (task_info_t) &info, &count));
    OK(task_terminate(task));
    OK(mach_port_deallocate(SELF, task));
}

static void u35_basic_info(void) {
    struct task_basic_info basic;
    struct mach_task_basic_info mach;
    struct task_basic_info_32 narrow;
    mach_vm_address_t at = new_memory(64 * PAGE);
    fill(at, 64 * PAGE, 1);
    mach_msg_type_number_t count = TASK_BASIC_INFO_COUNT;
    OK(task_info(SELF, TASK_BASIC_INFO, (task_info_t) &basic, &count));
    EQUAL(count, TASK_BASIC_INFO_COUNT);
    count = MACH_TASK_BASIC_INFO_COUNT;
    OK(task_info(SELF, MACH_TASK_BASIC_INFO, (task_info_t) &mach, &count));
    EQUAL(count, MACH_TASK_BASIC_INFO_COUNT);
    count = TASK_BASIC_INFO_32_COUNT;
    OK(task_info(SELF, TASK_BASIC_INFO_32, (task_info_t) &narrow, &count));
    EQUAL(mach.suspend_count, 0);
    CHECK(basic.virtual_size >= 64 * PAGE && basic.resident_size >= PAGE);
    CHECK(mach.virtual_size >= 64 * PAGE && mach.resident_size <= mach.resident_size_max);
    RETURNS(KERN_INVALID_ARGUMENT, task_info(SELF, 9999, (task_info_t) &basic, &count));
    count = 1;
    RETURNS(KERN_INVALID_ARGUMENT, task_info(SELF, MACH_TASK_BASIC_INFO, (task_info_t) &mach, &count));
    OK(mach_vm_deallocate(SELF, at, 64 * PAGE));
}

static void u35_oneself(void) {
    mach_port_t task = MACH_PORT_NULL;
    int pid = 0;
    OK(task_for_pid(SELF, getpid(), &task));
    OK(pid_for_task(task, &pid));
    EQUAL(pid, getpid());
    CHECK(task_for_pid(SELF, 1, &task) != KERN_SUCCESS);
    EQUAL(task_self_trap(), SELF);
}

/* Of the program's own task it ends the program. */
static void u35_the_own_task_ends(void) {
    int status = 0;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        new_memory(PAGE);
        task_terminate(SELF);
        _exit(0); /* not reached */
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status));
}

static void u35_codes(void) {
    task_t task = 5;
    RETURNS(MACH_SEND_INVALID_DEST, task_create(MACH_PORT_NULL, NULL, 0, FALSE, &task));
    RETURNS(MACH_SEND_INVALID_DEST, task_terminate(MACH_PORT_NULL));
    EQUAL(task, 5);
}

int main(void) {
    u35_an_empty_task();
    u35_many();
    u35_vm_info();
    u35_basic_info();
    u35_oneself();
    u35_the_own_task_ends();
    u35_codes();
    return 0;
}
