/*
 * A machvm pager in C: the memory object protocol, version 1, in one header.
 *
 * A pager says what it can do in a struct machvm_pager and calls machvm_pager_run(), or
 * machvm_pager_serve() for a socket of its own. Functions are called one at a time for a
 * connection; machvm_pager_run() gives each connection a thread, so a pager with several
 * kernels locks what they share. Every message is described in docs/external-pagers.md.
 *
 * Needs Linux, a little-endian machine, _GNU_SOURCE, and -pthread for machvm_pager_run().
 */
#ifndef MACHVM_PAGER_H
#define MACHVM_PAGER_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MACHVM_PAGER_VERSION 1u
#define MACHVM_PAGER_MAGIC 0x52454741504d564dull /* "MVMPAGER" */
#define MACHVM_PAGE 4096u
#define MACHVM_CLUSTER 65536u
#define MACHVM_LONGEST_NAME 1024u

/* A message: 64 bytes, little-endian, one packet of a SOCK_SEQPACKET socket. */
struct machvm_message {
	uint16_t kind;
	uint16_t flags;
	uint32_t status;
	uint64_t id;
	uint64_t object;
	uint64_t offset;
	uint64_t size;
	uint64_t place;
	uint32_t access;
	uint32_t how;
	uint64_t extra;
};
_Static_assert(sizeof(struct machvm_message) == 64, "a message has 64 bytes");

enum machvm_kind {
	MACHVM_HELLO = 1,
	MACHVM_WELCOME = 2,

	MACHVM_INIT = 16,
	MACHVM_TERMINATE = 17,
	MACHVM_DATA_REQUEST = 18,
	MACHVM_DATA_RETURN = 19,
	MACHVM_DATA_UNLOCK = 20,
	MACHVM_LOCK_COMPLETED = 21,
	MACHVM_SUPPLY_COMPLETED = 22,
	MACHVM_CHANGE_COMPLETED = 23,
	MACHVM_ATTRIBUTES = 24,
	MACHVM_SYNCHRONIZE = 25,
	MACHVM_COPY = 26,
	MACHVM_CREATE = 27,
	MACHVM_MAP = 28,
	MACHVM_LAST_UNMAP = 29,

	MACHVM_READY = 48,
	MACHVM_REFUSED = 49,
	MACHVM_DATA_SUPPLY = 50,
	MACHVM_DATA_UNAVAILABLE = 51,
	MACHVM_DATA_ERROR = 52,
	MACHVM_RETURN_COMPLETED = 53,
	MACHVM_LOCK_REQUEST = 54,
	MACHVM_CHANGE_ATTRIBUTES = 55,
	MACHVM_GET_ATTRIBUTES = 56,
	MACHVM_SYNCHRONIZE_COMPLETED = 57,
	MACHVM_DESTROY = 58,
	MACHVM_CREATE_PROXY = 59
};

enum machvm_status {
	MACHVM_SUCCESS = 0,
	MACHVM_BEYOND = 1,
	MACHVM_GONE = 2,
	MACHVM_ERROR = 3,
	MACHVM_UNSUPPORTED = 4,
	MACHVM_INVALID = 5,
	MACHVM_PRESENT = 6,
	MACHVM_FULL = 7,
	MACHVM_DENIED = 8,
	MACHVM_BUSY = 9,
	MACHVM_UNKNOWN = 10
};

/* Flags of MACHVM_DATA_RETURN. */
#define MACHVM_DIRTY 1u
#define MACHVM_KERNEL_COPY 2u
#define MACHVM_INITIALIZE 4u
/* Of MACHVM_DATA_SUPPLY. */
#define MACHVM_PRECIOUS 1u
/* Of MACHVM_LOCK_REQUEST. */
#define MACHVM_FLUSH 1u
#define MACHVM_NO_CHANGE 2u
/* Of MACHVM_READY and MACHVM_CHANGE_ATTRIBUTES. */
#define MACHVM_MAY_CACHE 1u
/* Rights. */
#define MACHVM_READ 1u
#define MACHVM_WRITE 2u
#define MACHVM_EXECUTE 4u
/* Copy strategies. */
#define MACHVM_COPY_NONE 0u
#define MACHVM_COPY_CALL 1u
#define MACHVM_COPY_DELAY 2u
#define MACHVM_COPY_TEMPORARY 3u
#define MACHVM_COPY_SYMMETRIC 4u

/* One that data_request() may return beside those above: there is no data, zeroes do. */
#define MACHVM_NO_DATA 0x80000000u

/* What a pager says of an object that is ready. */
struct machvm_about {
	uint64_t size;     /* bytes of data */
	uint32_t rights;   /* that mappings may have */
	uint32_t strategy; /* MACHVM_COPY_DELAY unless it is set */
	int may_cache;
};

/* Answers for data_request(). */
struct machvm_supply {
	uint64_t size; /* bytes given, whole pages; all that was asked for unless it is set */
	uint32_t lock; /* rights not given */
	int precious;
};

/* A connection. */
struct machvm_peer;

/* What a pager does. `object` is what init() or create() stored. */
struct machvm_pager {
	void *cookie;
	/* What the store is called, or 0: see docs/external-pagers.md. */
	uint64_t instance;
	/* E01. The name is not terminated. */
	enum machvm_status (*init)(void *cookie, const char *name, size_t length,
	    struct machvm_about *about, void **object);
	/* E22; may be NULL. */
	enum machvm_status (*create)(void *cookie, uint64_t size, void **object);
	/* E05: writes the data to `data`, or returns an error or MACHVM_NO_DATA. */
	uint32_t (*data_request)(void *cookie, void *object, uint64_t offset, uint64_t size,
	    uint32_t access, void *data, struct machvm_supply *how);
	/* E11, E13; may be NULL. */
	enum machvm_status (*data_return)(void *cookie, void *object, uint64_t offset,
	    uint64_t size, const void *data, unsigned flags);
	/* E23; may be NULL. */
	enum machvm_status (*synchronize)(void *cookie, void *object, uint64_t offset,
	    uint64_t size);
	/* Every other message, with the connection to answer by; may be NULL: locks are
	 * given up when asked for. */
	void (*told)(void *cookie, void *object, struct machvm_peer *peer,
	    const struct machvm_message *message);
	/* E03; may be NULL. */
	void (*terminate)(void *cookie, void *object);
};

struct machvm_object {
	uint64_t number;
	void *object;
	struct machvm_object *next;
};

struct machvm_peer {
	int socket;
	uint8_t *shared;
	uint64_t size;   /* bytes of shared memory */
	uint64_t pagers; /* where the pager's part of it begins */
	struct machvm_object *objects;
};

/* Sends a message. 0, or -1 and errno: the kernel is no more. */
static inline int
machvm_pager_send(struct machvm_peer *peer, const struct machvm_message *m)
{
	ssize_t n;

	do
		n = send(peer->socket, m, sizeof *m, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)sizeof *m ? 0 : -1;
}

/* Receives one, with the descriptor that came along (or -1). 1; 0 at the end; -1: it is none. */
static inline int
machvm_pager_receive(struct machvm_peer *peer, struct machvm_message *m, int *fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec to = { m, sizeof *m };
	struct msghdr h;
	struct cmsghdr *c;
	ssize_t n;

	memset(&h, 0, sizeof h);
	h.msg_iov = &to;
	h.msg_iovlen = 1;
	h.msg_control = control.space;
	h.msg_controllen = sizeof control.space;
	do
		n = recvmsg(peer->socket, &h, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n == 0)
		return 0;
	if (fd)
		*fd = -1;
	for (c = CMSG_FIRSTHDR(&h); n > 0 && c; c = CMSG_NXTHDR(&h, c)) {
		int got;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		memcpy(&got, CMSG_DATA(c), sizeof got);
		if (fd && *fd < 0)
			*fd = got;
		else
			close(got);
	}
	if (n != (ssize_t)sizeof *m || h.msg_flags & MSG_TRUNC)
		return -1;
	return 1;
}

static inline struct machvm_message
machvm_pager_answer(const struct machvm_message *m, enum machvm_kind kind, uint32_t status)
{
	struct machvm_message a;

	memset(&a, 0, sizeof a);
	a.kind = (uint16_t)kind;
	a.status = status;
	a.id = m->id;
	a.object = m->object;
	return a;
}

/* The greeting: maps the shared memory. 0, or -1: this is no kernel of our version. */
static inline int
machvm_pager_welcome(struct machvm_peer *peer, const struct machvm_pager *pager)
{
	struct machvm_message m, a;
	struct stat st;
	int fd, seals;
	void *at;

	if (machvm_pager_receive(peer, &m, &fd) != 1)
		return -1;
	if (fd < 0 || m.kind != MACHVM_HELLO || m.object != MACHVM_PAGER_MAGIC)
		goto bad;
	memset(&a, 0, sizeof a);
	a.kind = MACHVM_WELCOME;
	a.object = MACHVM_PAGER_MAGIC;
	a.how = MACHVM_PAGER_VERSION;
	if (m.how != MACHVM_PAGER_VERSION || m.offset != MACHVM_PAGE || m.extra > MACHVM_CLUSTER) {
		a.status = MACHVM_UNSUPPORTED;
		machvm_pager_send(peer, &a);
		goto bad;
	}
	/* Memory that may shrink would end us with SIGBUS. */
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) != 0 ||
	    (uint64_t)st.st_size < m.size || m.size == 0 || m.place > m.size)
		goto bad;
	at = mmap(NULL, m.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		goto bad;
	close(fd);
	peer->shared = at;
	peer->size = m.size;
	peer->pagers = m.place;
	a.extra = pager->instance;
	return machvm_pager_send(peer, &a);
bad:
	if (fd >= 0)
		close(fd);
	return -1;
}

static inline struct machvm_object **
machvm_pager_find(struct machvm_peer *peer, uint64_t number)
{
	struct machvm_object **o = &peer->objects;

	while (*o && (*o)->number != number)
		o = &(*o)->next;
	return o;
}

static inline int
machvm_pager_keep(struct machvm_peer *peer, uint64_t number, void *object)
{
	struct machvm_object *o = malloc(sizeof *o);

	if (!o)
		return -1;
	o->number = number;
	o->object = object;
	o->next = peer->objects;
	peer->objects = o;
	return 0;
}

static inline void
machvm_pager_forget(const struct machvm_pager *pager,
    struct machvm_object **o)
{
	struct machvm_object *gone = *o;

	if (!gone)
		return;
	*o = gone->next;
	if (pager->terminate)
		pager->terminate(pager->cookie, gone->object);
	free(gone);
}

/* Does [place, place + size) lie in the kernel's part of the shared memory? */
static inline int
machvm_pager_inside(const struct machvm_peer *peer, const struct machvm_message *m, uint64_t most)
{
	return m->size != 0 && m->size <= most && m->place <= peer->pagers &&
	    m->size <= peer->pagers - m->place;
}

static inline int
machvm_pager_init(struct machvm_peer *peer, const struct machvm_pager *pager,
    const struct machvm_message *m)
{
	struct machvm_about about = { 0, MACHVM_READ, MACHVM_COPY_DELAY, 0 };
	struct machvm_message a;
	enum machvm_status status;
	void *object = NULL;

	if (!machvm_pager_inside(peer, m, MACHVM_LONGEST_NAME))
		return -1;
	status = pager->init(pager->cookie, (const char *)peer->shared + m->place, m->size,
	    &about, &object);
	if (status == MACHVM_SUCCESS && machvm_pager_keep(peer, m->object, object) != 0)
		status = MACHVM_ERROR;
	if (status != MACHVM_SUCCESS) {
		a = machvm_pager_answer(m, MACHVM_REFUSED, status);
		return machvm_pager_send(peer, &a);
	}
	a = machvm_pager_answer(m, MACHVM_READY, 0);
	a.flags = about.may_cache ? MACHVM_MAY_CACHE : 0;
	a.size = about.size;
	a.access = about.rights;
	a.how = about.strategy;
	return machvm_pager_send(peer, &a);
}

static inline int
machvm_pager_request(struct machvm_peer *peer, const struct machvm_pager *pager, void *object,
    const struct machvm_message *m)
{
	struct machvm_supply how = { m->size, 0, 0 };
	struct machvm_message a;
	uint32_t status;

	if (!machvm_pager_inside(peer, m, MACHVM_CLUSTER))
		return -1;
	status = pager->data_request(pager->cookie, object, m->offset, m->size, m->access,
	    peer->shared + m->place, &how);
	if (status == MACHVM_SUCCESS && (how.size == 0 || how.size > m->size))
		status = MACHVM_ERROR;
	if (status == MACHVM_SUCCESS) {
		a = machvm_pager_answer(m, MACHVM_DATA_SUPPLY, 0);
		a.flags = how.precious ? MACHVM_PRECIOUS : 0;
		a.access = how.lock;
		a.place = m->place;
		a.size = how.size;
	} else {
		int none = status == MACHVM_NO_DATA;

		a = machvm_pager_answer(m, none ? MACHVM_DATA_UNAVAILABLE : MACHVM_DATA_ERROR,
		    none ? 0 : status);
		a.size = m->size;
	}
	a.offset = m->offset;
	return machvm_pager_send(peer, &a);
}

/* A message about an object that is known. */
static inline int
machvm_pager_about(struct machvm_peer *peer, const struct machvm_pager *pager, void *object,
    const struct machvm_message *m)
{
	struct machvm_message a;
	uint32_t status = MACHVM_SUCCESS;

	switch (m->kind) {
	case MACHVM_DATA_REQUEST:
		return machvm_pager_request(peer, pager, object, m);
	case MACHVM_DATA_RETURN:
		if (!machvm_pager_inside(peer, m, MACHVM_CLUSTER))
			return -1;
		status = MACHVM_DENIED;
		if (pager->data_return)
			status = pager->data_return(pager->cookie, object, m->offset, m->size,
			    peer->shared + m->place, m->flags);
		a = machvm_pager_answer(m, MACHVM_RETURN_COMPLETED, status);
		return machvm_pager_send(peer, &a);
	case MACHVM_SYNCHRONIZE:
		if (pager->synchronize)
			status = pager->synchronize(pager->cookie, object, m->offset, m->size);
		a = machvm_pager_answer(m, MACHVM_SYNCHRONIZE_COMPLETED, status);
		return machvm_pager_send(peer, &a);
	}
	if (pager->told) {
		pager->told(pager->cookie, object, peer, m);
	} else if (m->kind == MACHVM_DATA_UNLOCK) {
		a = machvm_pager_answer(m, MACHVM_LOCK_REQUEST, 0);
		a.offset = m->offset;
		a.size = m->size;
		return machvm_pager_send(peer, &a);
	}
	return 0;
}

/* One message. -1: the connection is over. */
static inline int
machvm_pager_dispatch(struct machvm_peer *peer, const struct machvm_pager *pager,
    const struct machvm_message *m)
{
	struct machvm_object **o = machvm_pager_find(peer, m->object);
	struct machvm_message a;
	void *object = NULL;

	switch (m->kind) {
	case MACHVM_INIT:
		return machvm_pager_init(peer, pager, m);
	case MACHVM_CREATE:
		if (pager->create &&
		    pager->create(pager->cookie, m->size, &object) == MACHVM_SUCCESS)
			return machvm_pager_keep(peer, m->object, object);
		return 0;
	case MACHVM_TERMINATE:
		machvm_pager_forget(pager, o);
		return 0;
	}
	if (*o)
		return machvm_pager_about(peer, pager, (*o)->object, m);
	switch (m->kind) {
	case MACHVM_DATA_REQUEST:
		a = machvm_pager_answer(m, MACHVM_DATA_ERROR, MACHVM_UNKNOWN);
		a.offset = m->offset;
		a.size = m->size;
		return machvm_pager_send(peer, &a);
	case MACHVM_DATA_RETURN:
		a = machvm_pager_answer(m, MACHVM_RETURN_COMPLETED, MACHVM_UNKNOWN);
		return machvm_pager_send(peer, &a);
	case MACHVM_SYNCHRONIZE:
		a = machvm_pager_answer(m, MACHVM_SYNCHRONIZE_COMPLETED, MACHVM_UNKNOWN);
		return machvm_pager_send(peer, &a);
	}
	return 0;
}

/* Serves one kernel until it hangs up. Closes the socket. */
static inline void
machvm_pager_serve(int socket, const struct machvm_pager *pager)
{
	struct machvm_peer peer;
	struct machvm_message m;

	memset(&peer, 0, sizeof peer);
	peer.socket = socket;
	if (machvm_pager_welcome(&peer, pager) == 0)
		while (machvm_pager_receive(&peer, &m, NULL) == 1 &&
		    machvm_pager_dispatch(&peer, pager, &m) == 0)
			;
	close(socket);
	while (peer.objects)
		machvm_pager_forget(pager, &peer.objects);
	if (peer.shared)
		munmap(peer.shared, peer.size);
}

/* Listens at a path, in place of an earlier pager. A socket, or -1 and errno. */
static inline int
machvm_pager_listen(const char *path)
{
	struct sockaddr_un at;
	int s;

	memset(&at, 0, sizeof at);
	at.sun_family = AF_UNIX;
	if (strlen(path) >= sizeof at.sun_path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(at.sun_path, path);
	s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (s < 0)
		return -1;
	unlink(path);
	if (bind(s, (struct sockaddr *)&at, sizeof at) != 0 || listen(s, 16) != 0) {
		close(s);
		return -1;
	}
	return s;
}

struct machvm_pager_thread {
	int socket;
	const struct machvm_pager *pager;
};

static inline void *
machvm_pager_thread(void *arg)
{
	struct machvm_pager_thread t = *(struct machvm_pager_thread *)arg;

	free(arg);
	machvm_pager_serve(t.socket, t.pager);
	return NULL;
}

/* Serves every kernel that comes, for ever. -1 and errno. */
static inline int
machvm_pager_run(int listener, const struct machvm_pager *pager)
{
	for (;;) {
		struct machvm_pager_thread *t;
		pthread_t thread;
		int s = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (s < 0) {
			if (errno == EINTR || errno == ECONNABORTED)
				continue;
			return -1;
		}
		t = malloc(sizeof *t);
		if (!t) {
			close(s);
			continue;
		}
		t->socket = s;
		t->pager = pager;
		if (pthread_create(&thread, NULL, machvm_pager_thread, t) != 0) {
			close(s);
			free(t);
			continue;
		}
		pthread_detach(thread);
	}
}

#endif
