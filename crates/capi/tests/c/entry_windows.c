/* Memory entries of bytes that begin and end within pages, mapped from every kind of offset: rows U06, U09, with the
   flags MAP_MEM_VM_COPY, MAP_MEM_VM_SHARE, MAP_MEM_USE_DATA_ADDR and VM_FLAGS_RETURN_DATA_ADDR. */
#include "grid.h"

#define DATA (4 * PAGE - 128)          /* where the entry's data begins */
#define BYTES (4 * PAGE + 256)         /* and how much that is */
#define FIRST (3 * PAGE)               /* the pages with it */
#define END (9 * PAGE)
#define TAG VM_MEMORY_APPLICATION_SPECIFIC_1

static const vm_prot_t KINDS[] = {0,
                                  MAP_MEM_VM_COPY,
                                  MAP_MEM_VM_SHARE,
                                  MAP_MEM_USE_DATA_ADDR,
                                  MAP_MEM_VM_COPY | MAP_MEM_USE_DATA_ADDR,
                                  MAP_MEM_VM_SHARE | MAP_MEM_USE_DATA_ADDR};

static const mach_vm_offset_t EDGES[] = {0,
                                         64,
                                         128,
                                         256,
                                         PAGE - 64,
                                         PAGE,
                                         PAGE + 64,
                                         2 * PAGE - 64,
                                         2 * PAGE,
                                         4 * PAGE + 64,
                                         4 * PAGE + 128,
                                         4 * PAGE + 256,
                                         5 * PAGE,
                                         5 * PAGE + 64,
                                         6 * PAGE - 64,
                                         6 * PAGE,
                                         6 * PAGE + 1,
                                         7 * PAGE};

static mach_vm_address_t memory; /* each 32-bit word of it holds its number */

/* What a mapping must show, counted from the start of `memory`. */
struct expected {
    kern_return_t code;
    mach_vm_size_t within; /* where in its page the address is */
    mach_vm_size_t from, bytes;
};

static struct expected expect(vm_prot_t kind, int data_address, mach_vm_offset_t offset, mach_vm_size_t size) {
    int whole = kind & (MAP_MEM_VM_COPY | MAP_MEM_VM_SHARE); /* such an entry is mapped as one */
    mach_vm_size_t data = kind & MAP_MEM_USE_DATA_ADDR ? DATA - FIRST : 0;
    mach_vm_size_t at = offset + (data_address ? data : 0);
    struct expected e = {KERN_SUCCESS, data_address ? at % PAGE : 0, 0, 0};
    e.from = FIRST + (whole ? 0 : trunc_page(at));
    e.bytes = whole ? END - FIRST : round_page(at % PAGE + size);
    if (at + size > END - FIRST || (offset % PAGE && !data_address && !whole)) e.code = KERN_INVALID_ARGUMENT;
    return e;
}

static void map_and_look(mem_entry_name_port_t entry, const struct expected *e, int flags, mach_vm_offset_t offset,
                         mach_vm_size_t size, boolean_t copy) {
    mach_vm_address_t at = 0;
    RETURNS(e->code, mach_vm_map(SELF, &at, size, 0, VM_MAKE_TAG(TAG) | VM_FLAGS_ANYWHERE | flags, entry, offset, copy,
                                 VM_PROT_DEFAULT, VM_PROT_DEFAULT, VM_INHERIT_DEFAULT));
    if (e->code != KERN_SUCCESS) return;
    EQUAL(at % PAGE, e->within);
    mach_vm_address_t start = at;
    mach_vm_size_t bytes = 0;
    vm_region_basic_info_data_64_t info;
    OK(region(SELF, &start, &bytes, &info));
    EQUAL(start, trunc_page(at));
    EQUAL(bytes, e->bytes);
    for (mach_vm_size_t i = 4; i < bytes; i += PAGE) EQUAL(*(uint32_t *) AT(start + i), (e->from + i) / 4);
    OK(mach_vm_deallocate(SELF, start, bytes));
}

/* Three regions with tags of their own, behind an entry of all: the mapping has them too, unless it has its own. */
static void u09_tags_go_along(vm_prot_t kind, int own) {
    mach_vm_address_t range = new_memory(3 * 4 * PAGE), at = 0;
    mach_vm_size_t size = 3 * 4 * PAGE;
    mem_entry_name_port_t entry;
    for (int i = 0; i < 3; i++) {
        mach_vm_address_t part = range + (mach_vm_size_t) i * 4 * PAGE;
        OK(mach_vm_allocate(SELF, &part, 4 * PAGE, VM_FLAGS_FIXED | VM_FLAGS_OVERWRITE | VM_MAKE_TAG(100 + i)));
        fill(part, 4 * PAGE, 1);
    }
    OK(mach_make_memory_entry_64(SELF, &size, range, kind | VM_PROT_DEFAULT, &entry, MACH_PORT_NULL));
    EQUAL(size, 3 * 4 * PAGE);
    OK(mach_vm_map(SELF, &at, size, 0, VM_FLAGS_ANYWHERE | (own ? VM_MAKE_TAG(200) : 0), entry, 0, FALSE,
                   VM_PROT_DEFAULT, VM_PROT_DEFAULT, VM_INHERIT_DEFAULT));
    AT(range)[0] = 'X';
    CHECK((AT(at)[0] == 'X') == (kind == MAP_MEM_VM_SHARE));
    for (int i = 0; i < 3; i++) {
        mach_vm_address_t part = at + (mach_vm_size_t) i * 4 * PAGE, found = part;
        mach_vm_size_t bytes = 0;
        natural_t depth = 1;
        vm_region_submap_short_info_data_64_t info;
        mach_msg_type_number_t count = VM_REGION_SUBMAP_SHORT_INFO_COUNT_64;
        OK(mach_vm_region_recurse(SELF, &found, &bytes, &depth, (vm_region_recurse_info_t) &info, &count));
        EQUAL(found, part);
        EQUAL(bytes, 4 * PAGE);
        EQUAL(info.user_tag, own ? 200 : 100 + i);
    }
    OK(mach_vm_deallocate(SELF, at, size));
    OK(mach_vm_deallocate(SELF, range, size));
    OK(mach_port_deallocate(SELF, entry));
}

int main(void) {
    for (int own = 0; own < 2; own++) {
        u09_tags_go_along(MAP_MEM_VM_COPY, own);
        u09_tags_go_along(MAP_MEM_VM_SHARE, own);
    }
    OK(mach_vm_map(SELF, &memory, 12 * PAGE, 0xffff, VM_FLAGS_ANYWHERE, MACH_PORT_NULL, 0, TRUE, VM_PROT_DEFAULT,
                   VM_PROT_DEFAULT, VM_INHERIT_DEFAULT));
    EQUAL(memory & 0xffff, 0);
    for (uint32_t i = 0; i < 12 * PAGE / 4; i++) ((uint32_t *) AT(memory))[i] = i;
    for (size_t kind = 0; kind < COUNT_OF(KINDS); kind++) {
        mach_vm_size_t covers = BYTES;
        mem_entry_name_port_t entry;
        OK(mach_make_memory_entry_64(SELF, &covers, memory + DATA, VM_PROT_DEFAULT | KINDS[kind], &entry,
                                     MACH_PORT_NULL));
        /* From the data on to the end of its last page. */
        EQUAL(covers, END - (KINDS[kind] & MAP_MEM_USE_DATA_ADDR ? DATA : FIRST));
        for (size_t i = 0; i < COUNT_OF(EDGES); i++)
            for (size_t j = i + 1; j < COUNT_OF(EDGES); j++)
                for (int how = 0; how < 4; how++) {
                    mach_vm_size_t size = EDGES[j] - EDGES[i];
                    struct expected e = expect(KINDS[kind], how & 1, EDGES[i], size);
                    map_and_look(entry, &e, how & 1 ? VM_FLAGS_RETURN_DATA_ADDR : 0, EDGES[i], size, how >> 1);
                }
        OK(mach_port_deallocate(SELF, entry));
    }
    return 0;
}
