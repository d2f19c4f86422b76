// run: MACHVM_FAULTS=auto
// run: MACHVM_FAULTS=signal
/* Memory that is not the library's: the program's text, data, heap and stack, as a Mach program expects. */
#include "check.h"
#include <sys/mman.h>

static const char constant[] = "a constant of the program";
static char data[3 * 4096] = "data";

static void as_a_source(void) {
    mach_vm_address_t at = new_memory(8 * PAGE);
    char *heap = malloc(5 * PAGE), local[100] = "on the stack";
    vm_offset_t copy;
    mach_msg_type_number_t count;
    for (unsigned i = 0; i < 5 * PAGE; i++) heap[i] = (char) pattern(i, 3);
    OK(mach_vm_copy(SELF, (mach_vm_address_t) (uintptr_t) heap, 5 * PAGE, at + 9));
    CHECK(holds(at + 9, 5 * PAGE, 0, 3));
    OK(mach_vm_copy(SELF, (mach_vm_address_t) (uintptr_t) local, sizeof local, at));
    CHECK(strcmp((char *) AT(at), local) == 0);
    OK(mach_vm_read(SELF, (mach_vm_address_t) (uintptr_t) constant, sizeof constant, &copy, &count));
    CHECK(strcmp((char *) copy, constant) == 0);
    OK(mach_vm_deallocate(SELF, copy, count));
    OK(mach_vm_read(SELF, (mach_vm_address_t) (uintptr_t) heap, 5 * PAGE, &copy, &count));
    heap[77] ^= 1;
    CHECK(holds(copy, 5 * PAGE, 0, 3));
    OK(mach_vm_deallocate(SELF, copy, count));
    OK(mach_vm_deallocate(SELF, at, 8 * PAGE));
    free(heap);
}

static void as_a_destination(void) {
    mach_vm_address_t at = new_memory(4 * PAGE);
    char local[64];
    fill(at, 4 * PAGE, 4);
    OK(mach_vm_copy(SELF, at + 3, sizeof local, (mach_vm_address_t) (uintptr_t) local));
    CHECK(memcmp(local, AT(at + 3), sizeof local) == 0);
    OK(mach_vm_write(SELF, (mach_vm_address_t) (uintptr_t) data + 100, at, 2 * PAGE));
    CHECK(memcmp(data + 100, AT(at), 2 * PAGE) == 0);
    /* what cannot be written is not */
    CHECK(mach_vm_write(SELF, (mach_vm_address_t) (uintptr_t) constant, at, 4) != KERN_SUCCESS);
    CHECK(strcmp(constant, "a constant of the program") == 0);
    OK(mach_vm_deallocate(SELF, at, 4 * PAGE));
}

static void attributes(void) {
    char *page = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mach_vm_address_t at = (mach_vm_address_t) (uintptr_t) page;
    CHECK(page != MAP_FAILED);
    page[PAGE] = 5;
    EQUAL(rights(SELF, at), VM_PROT_DEFAULT);
    OK(mach_vm_protect(SELF, at + PAGE, PAGE, FALSE, VM_PROT_READ));
    EQUAL(rights(SELF, at + PAGE), VM_PROT_READ);
    EQUAL(page[PAGE], 5);
    CHECK(WRITE_FAULT(at + PAGE) != 0);
    OK(mach_vm_deallocate(SELF, at + 2 * PAGE, PAGE));
    FAULTS(SIGSEGV, READ_FAULT(at + 2 * PAGE), at + 2 * PAGE);
    EQUAL(rights(SELF, at + 2 * PAGE), -1);
    munmap(page, 4 * PAGE);
}

static void holes(void) {
    mach_vm_address_t at = new_memory(PAGE);
    char *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    munmap(page, PAGE);
    CHECK(mach_vm_copy(SELF, (mach_vm_address_t) (uintptr_t) page, 100, at) == KERN_INVALID_ADDRESS);
    CHECK(mach_vm_copy(SELF, at, 100, (mach_vm_address_t) (uintptr_t) page) == KERN_INVALID_ADDRESS);
    OK(mach_vm_deallocate(SELF, at, PAGE));
}

/* A snapshot of outside memory, mapped. */
static void mapped(void) {
    char *heap = aligned_alloc(PAGE, 2 * PAGE);
    mach_vm_address_t at = 0;
    vm_prot_t cur, max;
    for (unsigned i = 0; i < 2 * PAGE; i++) heap[i] = (char) pattern(i, 6);
    OK(mach_vm_remap(SELF, &at, 2 * PAGE, 0, VM_FLAGS_ANYWHERE, SELF, (mach_vm_address_t) (uintptr_t) heap, TRUE,
                     &cur, &max, VM_INHERIT_COPY));
    heap[5] ^= 1;
    CHECK(holds(at, 2 * PAGE, 0, 6));
    OK(mach_vm_deallocate(SELF, at, 2 * PAGE));
    free(heap);
}

__attribute__((noinline, noclone, aligned(64))) static int twice(int n) {
    return 2 * n;
}

/* The program's text can be mapped again, to be run there too: nobody writes it. What can be written is Linux's. */
static void text_mapped_again(void) {
    mach_vm_address_t code = (mach_vm_address_t) (uintptr_t) &twice, at = 0, entry_at = 0;
    mach_vm_size_t size = 64;
    mem_entry_name_port_t entry;
    vm_prot_t cur, max;
    int (*again)(int);
    OK(mach_vm_remap(SELF, &at, 64, 0, VM_FLAGS_ANYWHERE | VM_FLAGS_RETURN_DATA_ADDR, SELF, code, FALSE, &cur, &max,
                     VM_INHERIT_DEFAULT));
    EQUAL(cur, VM_PROT_READ | VM_PROT_EXECUTE);
    EQUAL(max, VM_PROT_READ | VM_PROT_EXECUTE);
    memcpy(&again, &at, sizeof again);
    EQUAL(again(21), 42);
    RETURNS(KERN_PROTECTION_FAILURE, mach_vm_protect(SELF, trunc_page(at), PAGE, FALSE, VM_PROT_DEFAULT));
    OK(mach_make_memory_entry_64(SELF, &size, code, MAP_MEM_VM_SHARE | VM_PROT_READ, &entry, MACH_PORT_NULL));
    OK(mach_vm_map(SELF, &entry_at, size, 0, VM_FLAGS_ANYWHERE, entry, 0, FALSE, VM_PROT_READ, VM_PROT_READ,
                   VM_INHERIT_DEFAULT));
    EQUAL(memcmp(AT(entry_at), AT(trunc_page(code)), PAGE), 0);
    OK(mach_port_deallocate(SELF, entry));
    OK(mach_vm_deallocate(SELF, at, 64));
    OK(mach_vm_deallocate(SELF, entry_at, size));
    RETURNS(KERN_NOT_SUPPORTED, mach_vm_remap(SELF, &at, 64, 0, VM_FLAGS_ANYWHERE, SELF,
                                              (mach_vm_address_t) (uintptr_t) data, FALSE, &cur, &max,
                                              VM_INHERIT_DEFAULT));
}

int main(void) {
    catch_faults();
    as_a_source();
    as_a_destination();
    attributes();
    holes();
    mapped();
    text_mapped_again();
    return 0;
}
