// run: MACHVM_FAULTS=signal MACHVM_MEMORY=2M
// run: MACHVM_FAULTS=thread MACHVM_MEMORY=2M
/* send, recv and their kin on library memory. */
#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

#define BYTES ((mach_vm_size_t) 8 << 20)

static int pair[2];
static mach_vm_address_t from, to;

static void *sends(void *unused) {
    EQUAL(send(pair[0], AT(from), BYTES, 0), BYTES);
    EQUAL(shutdown(pair[0], SHUT_WR), 0);
    return unused;
}

/* 8 MiB, with 2 MiB of memory, while both sides page. */
static void stream(void) {
    pthread_t thread;
    mach_vm_size_t done = 0;
    from = new_memory(BYTES);
    to = new_memory(BYTES);
    fill(from, BYTES, 1);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(pthread_create(&thread, NULL, sends, NULL) == 0);
    EQUAL(recv(pair[1], AT(to), 1000003, MSG_WAITALL), 1000003);
    for (done = 1000003; done < BYTES;) {
        ssize_t n = recv(pair[1], AT(to + done), BYTES - done, 0);
        CHECK(n > 0);
        done += (mach_vm_size_t) n;
    }
    EQUAL(recv(pair[1], AT(to), 1, 0), 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(holds(to, BYTES, 0, 1));
    close(pair[0]);
    close(pair[1]);
    OK(mach_vm_deallocate(SELF, from, BYTES));
    OK(mach_vm_deallocate(SELF, to, BYTES));
}

/* A datagram is whole, and is not lost for an absent page. */
static void datagrams(void) {
    mach_vm_address_t a = new_memory(64 * PAGE), b = new_memory(64 * PAGE);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    fill(a, 64 * PAGE, 2);
    EQUAL(send(pair[0], AT(a + 1), 100000, 0), 100000);
    EQUAL(write(pair[0], AT(a), 10), 10);
    EQUAL(recv(pair[1], AT(b + 3), 64 * PAGE - 3, 0), 100000);
    CHECK(holds(b + 3, 100000, 1, 2));
    EQUAL(read(pair[1], AT(b), 4), 4);
    CHECK(holds(b, 4, 0, 2));
    errno = 0;
    CHECK(recv(pair[1], AT(b), 4, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    /* What may not be read is not sent, not even a part. */
    OK(mach_vm_protect(SELF, a + PAGE, PAGE, 0, VM_PROT_NONE));
    CHECK(send(pair[0], AT(a), 2 * PAGE, 0) == -1 && errno == EFAULT);
    CHECK(recv(pair[1], AT(b), 4, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    /* What may not be written stays. */
    EQUAL(send(pair[0], AT(a), 10, 0), 10);
    OK(mach_vm_protect(SELF, b, PAGE, 0, VM_PROT_READ));
    CHECK(recv(pair[1], AT(b), 10, MSG_PEEK) == -1 && errno == EFAULT);
    EQUAL(recv(pair[1], AT(b + PAGE), 10, 0), 10);
    close(pair[0]);
    close(pair[1]);
    OK(mach_vm_deallocate(SELF, a, 64 * PAGE));
    OK(mach_vm_deallocate(SELF, b, 64 * PAGE));
}

/* Addresses, headers, vectors and control data in library memory, too. */
static void messages(void) {
    mach_vm_address_t a = new_memory(64 * PAGE);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    struct sockaddr_un *name = (struct sockaddr_un *) AT(a);
    name->sun_family = AF_UNIX;
    snprintf(name->sun_path + 1, 50, "machvm-test-%d", (int) getpid());
    socklen_t size = (socklen_t) (sizeof(sa_family_t) + 1 + strlen(name->sun_path + 1));
    int server = socket(AF_UNIX, SOCK_DGRAM, 0), client = socket(AF_UNIX, SOCK_DGRAM, 0);
    struct sockaddr_un copy = *name;
    CHECK(bind(server, (struct sockaddr *) &copy, size) == 0);
    EQUAL(sendto(client, AT(a + PAGE), 77, 0, (struct sockaddr *) name, size), 77);
    socklen_t *len = (socklen_t *) AT(a + 8 * PAGE);
    *len = sizeof copy;
    memset(AT(a + 9 * PAGE), 0xff, sizeof copy);
    EQUAL(recvfrom(server, AT(a + 2 * PAGE), 100, 0, (struct sockaddr *) AT(a + 9 * PAGE), len), 77);
    EQUAL(*len, 0); /* nobody gave the client an address */

    struct msghdr *out = (struct msghdr *) AT(a + 10 * PAGE), *in = (struct msghdr *) AT(a + 20 * PAGE);
    struct iovec *parts = (struct iovec *) AT(a + 11 * PAGE);
    fill(a + 32 * PAGE, 8 * PAGE, 5);
    parts[0] = (struct iovec){AT(a + 32 * PAGE), 3 * PAGE};
    parts[1] = (struct iovec){AT(a + 35 * PAGE), 5 * PAGE};
    memset(out, 0, sizeof *out);
    out->msg_iov = parts;
    out->msg_iovlen = 2;
    out->msg_control = AT(a + 12 * PAGE);
    out->msg_controllen = CMSG_SPACE(sizeof(int));
    struct cmsghdr *c = CMSG_FIRSTHDR(out);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    int passed = dup(1);
    memcpy(CMSG_DATA(c), &passed, sizeof passed);
    EQUAL(sendmsg(pair[0], out, 0), 8 * PAGE);
    memset(in, 0, sizeof *in);
    struct iovec *into = (struct iovec *) AT(a + 21 * PAGE);
    into[0] = (struct iovec){AT(a + 40 * PAGE + 5), 9 * PAGE};
    in->msg_iov = into;
    in->msg_iovlen = 1;
    in->msg_control = AT(a + 22 * PAGE);
    in->msg_controllen = CMSG_SPACE(sizeof(int)) + 64;
    EQUAL(recvmsg(pair[1], in, 0), 8 * PAGE);
    CHECK(holds(a + 40 * PAGE + 5, 8 * PAGE, 0, 5));
    CHECK(in->msg_iov == into && in->msg_control == AT(a + 22 * PAGE));
    c = CMSG_FIRSTHDR(in);
    CHECK(c != NULL && c->cmsg_type == SCM_RIGHTS);
    int got;
    memcpy(&got, CMSG_DATA(c), sizeof got);
    CHECK(got > 2 && close(got) == 0);
    CHECK(in->msg_controllen <= CMSG_SPACE(sizeof(int)));
    errno = 0;
    CHECK(sendmsg(pair[0], (struct msghdr *) AT(a + 64 * PAGE), 0) == -1 && errno == EFAULT);
    close(passed);
    close(server);
    close(client);
    close(pair[0]);
    close(pair[1]);
    OK(mach_vm_deallocate(SELF, a, 64 * PAGE));
}

int main(void) {
    stream();
    datagrams();
    messages();
    return 0;
}
