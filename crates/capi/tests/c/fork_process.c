// run: MACHVM_FAULTS=signal
// run: MACHVM_MEMORY=1M
/* Children of every kind: generations, exec, vfork, posix_spawn, sudden ends; with memory that is
 * paged out; and what they leave open. */
#include "fork.h"

#include <dirent.h>
#include <spawn.h>

extern char **environ;

enum { PAGES = 1000 };

static int descriptors(void) {
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    CHECK(dir);
    while (readdir(dir)) n++;
    closedir(dir);
    return n;
}

static int mappings(void) {
    int n = 0, c;
    FILE *f = fopen("/proc/self/maps", "r");
    CHECK(f);
    while ((c = getc(f)) != EOF) n += c == '\n';
    fclose(f);
    return n;
}

/* Two children at each level, three levels deep; each level has its own contents. */
static void descend(mach_vm_address_t a, uint64_t depth) {
    for (int i = 0; i < 50; i++) WORD(a + i * PAGE) = depth * 1000 + i;
    for (int child = 0; depth < 3 && child < 2; child++) IN_CHILD(descend(a, depth + 1));
    for (int i = 0; i < 50; i++) EQUAL(WORD(a + i * PAGE), depth * 1000 + i);
}

int main(void) {
    mach_vm_address_t a = new_memory(PAGES * PAGE);
    for (int i = 0; i < PAGES; i++) WORD(a + i * PAGE) = i + 1;
    /* Paged out or not, the child has it, and pages out itself. */
    IN_CHILD({
        for (int i = 0; i < PAGES; i++) EQUAL(WORD(a + i * PAGE), i + 1);
        for (int i = 0; i < PAGES; i++) WORD(a + i * PAGE) = 3 * i;
        for (int i = 0; i < PAGES; i++) EQUAL(WORD(a + i * PAGE), 3 * i);
    });
    descend(new_memory(50 * PAGE), 0);

    /* exec after fork, from memory of the VM. */
    mach_vm_address_t path = new_memory(PAGE);
    strcpy((char *) AT(path), "/bin/true");
    char local[32];
    IN_CHILD({
        strcpy(local, (char *) AT(path));
        execl(local, "true", (char *) NULL);
        _exit(1);
    });
    /* These do not copy anything: the child uses the parent's memory until it execs. */
    pid_t pid;
    char *args[] = {(char *) "true", NULL};
    CHECK(posix_spawn(&pid, "/bin/true", NULL, NULL, args, environ) == 0);
    await_child(pid);
    CHECK(system("true") == 0);
    pid = vfork();
    CHECK(pid >= 0);
    if (pid == 0) {
        WORD(a) = 77;
        execl("/bin/true", "true", (char *) NULL);
        _exit(1);
    }
    await_child(pid);
    EQUAL(WORD(a), 77);
    WORD(a) = 1;

    /* A sudden end. */
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        WORD(a) = 5;
        raise(SIGKILL);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
    for (int i = 0; i < PAGES; i++) EQUAL(WORD(a + i * PAGE), i + 1);

    /* Nothing is left over, in the parent or in the child. */
    OK(mach_vm_inherit(SELF, a, PAGE, VM_INHERIT_SHARE));
    IN_CHILD(WORD(a) = 9);
    EQUAL(WORD(a), 9);
    int fds = descriptors(), maps = mappings();
    for (int i = 0; i < 20; i++) IN_CHILD(EQUAL(descriptors(), fds));
    EQUAL(descriptors(), fds);
    CHECK(mappings() <= maps + 2);
    OK(mach_vm_deallocate(SELF, a, PAGES * PAGE));
    EQUAL(descriptors(), fds - 1);
    return 0;
}
