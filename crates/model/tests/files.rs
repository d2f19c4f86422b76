//! Pagers of files, of devices, of memory that is never paged, of nothing (rows G02 to G17).
//! Semantics: FreeBSD's vm_pager(9), vnode_pager_setsize(9), cdev_pager(9); ftruncate(2), msync(2).

#[path = "files/beyond.rs"]
mod beyond;
#[path = "files/device.rs"]
mod device;
#[path = "files/pagers.rs"]
mod pagers;
#[path = "files/random.rs"]
mod random;
#[path = "files/size.rs"]
mod size;
#[path = "files/unpaged.rs"]
mod unpaged;

use machvm::map::{Attributes, Backing};
use machvm::{PagerId, Vm};
use machvm_arena::Handle;
use machvm_hal::{MaySleep, PAGE_SIZE, Pindex, Prot, Va, VaRange};
use machvm_model::{Config, Machine, MemPager, Task, check_quiet};

type Object = Handle<machvm::object::Object>;
const PAGE: usize = PAGE_SIZE as usize;
/// Where tests map: a multiple of 2 MiB.
const BASE: u64 = 0x400;

fn may() -> MaySleep {
    MaySleep::claim()
}
fn va(page: u64) -> Va {
    Va::from_page(BASE + page)
}
fn at(page: u64) -> u64 {
    va(page).get()
}
fn pages(first: u64, n: u64) -> VaRange {
    VaRange::of_pages(va(first), n).expect("fits")
}
/// A page's bytes.
fn page(t: &Task<'_>, n: u64) -> Vec<u8> {
    let mut b = vec![0; PAGE];
    t.load(at(n), &mut b).unwrap_or_else(|e| panic!("page {n}: {e:?}"));
    b
}
/// Bytes of a file: none is zero.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256) as u8 | 1).collect()
}

/// Runs `test` on every kind of machine; nothing may be left over.
fn machines(frames: u32, test: impl Fn(&Vm<Machine>)) {
    for c in (Config { frames, ..Config::default() }).every_kind() {
        let vm = Vm::new(Machine::new(c)).expect("memory");
        test(&vm);
        check_quiet(&vm, []);
        assert_eq!(vm.live(), [0; 6], "left over, {c:?}");
        assert_eq!(vm.platform().pager_users(), 0);
    }
}

/// A file that tasks map, and its memory object.
struct Mapped<'a> {
    vm: &'a Vm<Machine>,
    id: PagerId,
    file: &'static MemPager,
}

impl<'a> Mapped<'a> {
    fn new(vm: &'a Vm<Machine>, data: &[u8]) -> Self {
        let (id, file) = vm.platform().add_pager(data.to_vec());
        Mapped { vm, id, file }
    }
    /// With a reference.
    fn object(&self) -> Object {
        self.vm.memory_object(self.id, 1 << 20, &mut may()).expect("memory")
    }
    /// A task that maps `n` pages of the file.
    fn task(&self, n: u64) -> Task<'a> {
        let t = Task::new(self.vm);
        let backing = Backing::Shared(self.object(), Pindex(0));
        t.map.insert(pages(0, n), backing, &Attributes::new(Prot::RW), &mut may()).expect("insert");
        t
    }
    /// As ftruncate: the file first, then what is in memory of it.
    fn set_size(&self, bytes: u64) -> u64 {
        self.file.set_len(bytes);
        self.set_object_size(bytes)
    }
    fn set_object_size(&self, bytes: u64) -> u64 {
        let o = self.object();
        let kept = self.vm.vm_object_set_size(o, bytes, &mut may()).expect("memory");
        self.vm.object_deallocate(o, &mut may());
        kept
    }
}

/// Runs `test` on every kind of machine with a file of `len` bytes.
fn with_file(frames: u32, len: usize, test: impl Fn(&Mapped<'_>, &[u8])) {
    machines(frames, |vm| {
        let data = content(len);
        test(&Mapped::new(vm, &data), &data);
    });
}
