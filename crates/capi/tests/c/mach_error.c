/* mach_error_string, mach_error_type and mach_error: every code has a phrase. */
#include "check.h"

static void known(void) {
    CHECK(strcmp(mach_error_string(KERN_SUCCESS), "(os/kern) successful") == 0);
    CHECK(strcmp(mach_error_string(KERN_INVALID_ADDRESS), "(os/kern) invalid address") == 0);
    CHECK(strcmp(mach_error_string(KERN_PROTECTION_FAILURE), "(os/kern) protection failure") == 0);
    CHECK(strcmp(mach_error_string(KERN_NO_SPACE), "(os/kern) no space available") == 0);
    CHECK(strcmp(mach_error_string(KERN_INVALID_ARGUMENT), "(os/kern) invalid argument") == 0);
    CHECK(strcmp(mach_error_string(KERN_RESOURCE_SHORTAGE), "(os/kern) resource shortage") == 0);
    CHECK(strcmp(mach_error_string(MACH_SEND_INVALID_DEST), "(ipc/send) invalid destination port") == 0);
    CHECK(strcmp(mach_error_type(KERN_NO_SPACE), "(os/kern)") == 0);
    CHECK(strcmp(mach_error_type(MACH_SEND_INVALID_MEMORY), "(ipc/send)") == 0);
    CHECK(strcmp(mach_error_type(MACH_RCV_TIMED_OUT), "(ipc/rcv)") == 0);
}

/* All of kern_return.h and message.h, each with a phrase of its own. */
static void all(void) {
    static char *seen[200];
    int n = 0;
    mach_error_t more[] = {
        MACH_SEND_IN_PROGRESS, MACH_SEND_INVALID_DATA, MACH_SEND_INVALID_DEST, MACH_SEND_TIMED_OUT,
        MACH_SEND_INVALID_VOUCHER, MACH_SEND_INTERRUPTED, MACH_SEND_MSG_TOO_SMALL, MACH_SEND_INVALID_REPLY,
        MACH_SEND_INVALID_RIGHT, MACH_SEND_INVALID_NOTIFY, MACH_SEND_INVALID_MEMORY, MACH_SEND_NO_BUFFER,
        MACH_SEND_TOO_LARGE, MACH_SEND_INVALID_TYPE, MACH_SEND_INVALID_HEADER, MACH_SEND_INVALID_TRAILER,
        MACH_SEND_INVALID_CONTEXT, MACH_SEND_INVALID_OPTIONS, MACH_SEND_INVALID_RT_OOL_SIZE, MACH_SEND_NO_GRANT_DEST,
        MACH_SEND_MSG_FILTERED, MACH_SEND_AUX_TOO_SMALL, MACH_SEND_AUX_TOO_LARGE, MACH_RCV_IN_PROGRESS,
        MACH_RCV_INVALID_NAME, MACH_RCV_TIMED_OUT, MACH_RCV_TOO_LARGE, MACH_RCV_INTERRUPTED, MACH_RCV_PORT_CHANGED,
        MACH_RCV_INVALID_NOTIFY, MACH_RCV_INVALID_DATA, MACH_RCV_PORT_DIED, MACH_RCV_IN_SET, MACH_RCV_HEADER_ERROR,
        MACH_RCV_BODY_ERROR, MACH_RCV_INVALID_TYPE, MACH_RCV_SCATTER_SMALL, MACH_RCV_INVALID_TRAILER,
        MACH_RCV_IN_PROGRESS_TIMED, MACH_RCV_INVALID_REPLY, MACH_RCV_INVALID_ARGUMENTS};
    for (mach_error_t e = 0; e <= KERN_NOT_FOUND; e++) seen[n++] = mach_error_string(e);
    for (unsigned i = 0; i < sizeof more / sizeof *more; i++) seen[n++] = mach_error_string(more[i]);
    for (int i = 0; i < n; i++) {
        CHECK(seen[i] && strlen(seen[i]) > 10 && seen[i][0] == '(');
        for (int j = 0; j < i; j++)
            if (strcmp(seen[i], seen[j]) == 0) {
                fprintf(stderr, "twice: %s\n", seen[i]);
                exit(1);
            }
    }
    /* unknown numbers */
    CHECK(strlen(mach_error_string(0x3fff)) > 0 && strlen(mach_error_string(-1)) > 0);
    CHECK(strlen(mach_error_type(-1)) > 0);
}

static void printed(void) {
    int ends[2], saved = dup(2);
    char text[200] = {0};
    CHECK(pipe(ends) == 0 && dup2(ends[1], 2) == 2);
    mach_error("vm_copy", KERN_INVALID_ADDRESS);
    fflush(stderr);
    CHECK(dup2(saved, 2) == 2);
    CHECK(read(ends[0], text, sizeof text - 1) > 0);
    CHECK(strstr(text, "vm_copy") == text && strstr(text, "(os/kern) invalid address") && strchr(text, '\n'));
}

int main(void) {
    known();
    all();
    printed();
    return 0;
}
