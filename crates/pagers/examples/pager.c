/*
 * A pager in C. It keeps memory for kernels that have too little (a default pager), and has
 * two kinds of objects: "numbers", where every page begins with its own number, and any
 * other name, which is data that can be written and that lasts as long as the pager.
 *
 *     cc -O2 -pthread -Iinclude -o pager examples/pager.c
 *     ./pager /tmp/pager.sock &
 *     machvm run --memory 64M --swap pager:/tmp/pager.sock -- program
 */
#define _GNU_SOURCE
#include <machvm/pager.h>
#include <stdio.h>

#define NAMED (1ull << 30) /* bytes of a named object */

struct store {
	char name[MACHVM_LONGEST_NAME];
	size_t length; /* of the name; 0: memory of a kernel */
	int numbers;
	uint8_t *data;
	uint64_t size;
	struct store *next;
};

static struct store *named;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct store *
make(uint64_t size)
{
	struct store *s = calloc(1, sizeof *s);
	void *at;

	if (!s)
		return NULL;
	/* Only pages that are written take memory. */
	at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
	    -1, 0);
	if (at == MAP_FAILED) {
		free(s);
		return NULL;
	}
	s->data = at;
	s->size = size;
	return s;
}

static enum machvm_status
init(void *cookie, const char *name, size_t length, struct machvm_about *about, void **object)
{
	struct store *s;

	(void)cookie;
	pthread_mutex_lock(&lock);
	for (s = named; s; s = s->next)
		if (s->length == length && memcmp(s->name, name, length) == 0)
			break;
	if (!s && (s = make(NAMED))) {
		memcpy(s->name, name, length);
		s->length = length;
		s->numbers = length == 7 && memcmp(name, "numbers", 7) == 0;
		s->next = named;
		named = s;
	}
	pthread_mutex_unlock(&lock);
	if (!s)
		return MACHVM_FULL;
	about->size = s->size;
	about->rights = MACHVM_READ | (s->numbers ? 0 : MACHVM_WRITE);
	*object = s;
	return MACHVM_SUCCESS;
}

static enum machvm_status
create(void *cookie, uint64_t size, void **object)
{
	(void)cookie;
	*object = make(size);
	return *object ? MACHVM_SUCCESS : MACHVM_FULL;
}

static int
inside(const struct store *s, uint64_t offset, uint64_t size)
{
	return offset <= s->size && size <= s->size - offset;
}

static uint32_t
data_request(void *cookie, void *object, uint64_t offset, uint64_t size, uint32_t access, void *data,
    struct machvm_supply *how)
{
	const struct store *s = object;
	uint64_t at;

	(void)cookie;
	(void)access;
	if (offset >= s->size)
		return MACHVM_BEYOND;
	if (!inside(s, offset, size))
		how->size = size = s->size - offset;
	if (!s->numbers) {
		memcpy(data, s->data + offset, size);
		return MACHVM_SUCCESS;
	}
	memset(data, 0, size);
	for (at = 0; at < size; at += MACHVM_PAGE) {
		uint64_t number = (offset + at) / MACHVM_PAGE;

		memcpy((char *)data + at, &number, sizeof number);
	}
	return MACHVM_SUCCESS;
}

static enum machvm_status
data_return(void *cookie, void *object, uint64_t offset, uint64_t size, const void *data, unsigned flags)
{
	struct store *s = object;

	(void)cookie;
	(void)flags;
	if (s->numbers)
		return MACHVM_DENIED;
	if (!inside(s, offset, size))
		return MACHVM_BEYOND;
	memcpy(s->data + offset, data, size);
	return MACHVM_SUCCESS;
}

static void
terminate(void *cookie, void *object)
{
	struct store *s = object;

	(void)cookie;
	if (s->length)
		return; /* data with a name stays */
	munmap(s->data, s->size);
	free(s);
}

int
main(int argc, char **argv)
{
	struct machvm_pager pager = {
		.instance = (uint64_t)getpid(),
		.init = init,
		.create = create,
		.data_request = data_request,
		.data_return = data_return,
		.terminate = terminate,
	};
	int s;

	if (argc != 2) {
		fprintf(stderr, "usage: %s SOCKET\n", argv[0]);
		return 2;
	}
	s = machvm_pager_listen(argv[1]);
	if (s < 0) {
		perror(argv[1]);
		return 1;
	}
	machvm_pager_run(s, &pager);
	perror("accept");
	return 1;
}
