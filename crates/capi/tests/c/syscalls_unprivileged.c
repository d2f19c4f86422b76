// run: MACHVM_MEMORY=4M
/* Without the right to handle the kernel's faults the library says nothing and works. */
#define _GNU_SOURCE
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/prctl.h>

#define BYTES ((mach_vm_size_t) 8 << 20)

/* Is there a thread that serves faults? */
static int served_by_a_thread(void) {
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *e;
    int found = 0;
    CHECK(tasks != NULL);
    while ((e = readdir(tasks)) != NULL) {
        char path[300], name[64] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", e->d_name);
        int fd = open(path, O_RDONLY);
        if (fd < 0) continue;
        CHECK(read(fd, name, sizeof name - 1) >= 0);
        close(fd);
        found |= strncmp(name, "machvm-faults", 13) == 0;
    }
    closedir(tasks);
    return found;
}

static int works(void) {
    mach_vm_address_t a = new_memory(BYTES), b = new_memory(BYTES);
    FILE *f = tmpfile();
    CHECK(f != NULL);
    fill(a, BYTES, 1);
    EQUAL(pwrite(fileno(f), AT(a), BYTES, 0), BYTES);
    EQUAL(pread(fileno(f), AT(b), BYTES, 0), BYTES);
    CHECK(holds(b, BYTES, 0, 1));
    fclose(f);
    return served_by_a_thread();
}

int main(void) {
    int may = geteuid() == 0, status;
    pid_t child = fork();
    if (child == 0) {
        CHECK(!may || (setgid(65534) == 0 && setuid(65534) == 0));
        /* else /proc/self belongs to root */
        CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
        int allowed = access("/dev/userfaultfd", R_OK | W_OK) == 0;
        FILE *f = fopen("/proc/sys/vm/unprivileged_userfaultfd", "r");
        int any = 0;
        if (f != NULL && fscanf(f, "%d", &any) == 1) allowed |= any;
        EQUAL(works(), allowed);
        exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    EQUAL(status, 0);
    EQUAL(works(), may);
    return 0;
}
