/* What the programs about fork(2) share. */
#ifndef FORK_H
#define FORK_H

#include "check.h"

/* Runs `body` in a child, which must end well. */
#define IN_CHILD(...) \
    do { \
        fflush(NULL); \
        pid_t pid_ = fork(); \
        CHECK(pid_ >= 0); \
        if (pid_ == 0) { \
            __VA_ARGS__; \
            _exit(0); \
        } \
        await_child(pid_); \
    } while (0)

__attribute__((unused)) static void await_child(pid_t pid) {
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    EQUAL(status, 0);
}

/* A turn for the other process, and waiting for one's own. */
__attribute__((unused)) static void give_turn(int fd) {
    CHECK(write(fd, "x", 1) == 1);
}
__attribute__((unused)) static void await_turn(int fd) {
    char byte;
    CHECK(read(fd, &byte, 1) == 1);
}

/* The word at `address`. */
#define WORD(address) (*(volatile uint64_t *) AT(address))

#endif
