//! Linux's calls for memory on managed memory, and copies that stop at a bad address.

use crate::{PAGE, load, store, vm};
use machvm_linux::Prot;
use machvm_linux::library::copy_some;

#[test]
fn copies_end_at_bad_addresses_of_any_kind() {
    let vm = vm();
    let task = vm.task().expect("a task");
    let a = task.allocate(3 * PAGE).expect("memory");
    task.protect(a + PAGE, PAGE, Prot::R).expect("protected");
    task.protect(a + 2 * PAGE, PAGE, Prot::NONE).expect("protected");
    let mut buf = vec![7u8; 4 * PAGE];
    let (at, mine) = (task.as_ptr(a), buf.as_mut_ptr());
    // SAFETY: the task's memory and a buffer of this size; the rest is refused.
    let copy = |to, from, n| unsafe { copy_some(to, from, n) };
    assert_eq!(copy(at, mine, 4 * PAGE), PAGE, "as far as it may be written");
    assert_eq!(copy(mine, at, 4 * PAGE), 2 * PAGE, "as far as it may be read");
    assert_eq!((buf[PAGE - 1], buf[PAGE], buf[2 * PAGE]), (7, 0, 7));
    let mine = buf.as_mut_ptr();
    for bad in [0, 8, 0x7fff_ffff_f000, 1 << 47, usize::MAX - 100] {
        let bad = core::ptr::without_provenance_mut(bad);
        assert_eq!(copy(mine, bad, 10), 0, "{bad:?}");
        assert_eq!(copy(bad, mine, 10), 0, "{bad:?}");
    }
    assert_eq!(copy(at.wrapping_add(PAGE - 3), mine, 10), 3);
}

#[test]
fn what_may_be_accessed_is_known_beforehand() {
    let vm = vm();
    let task = vm.task().expect("a task");
    let a = task.allocate(3 * PAGE).expect("memory");
    task.protect(a + 2 * PAGE, PAGE, Prot::R).expect("protected");
    assert_eq!(task.accessible(a + 5, 3 * PAGE - 5, Prot::W), 2 * PAGE - 5);
    assert_eq!(task.accessible(a + 5, 4 * PAGE, Prot::R), 3 * PAGE - 5);
    assert_eq!(task.accessible(a + 5, 100, Prot::W), 100);
    assert_eq!(task.accessible(a + 2 * PAGE, 1, Prot::W), 0);
    assert_eq!(task.accessible(a, usize::MAX, Prot::R), 0);
    assert_eq!(vm.live()[0], 0, "and nothing was touched for it");
}

#[test]
fn errors_of_the_memory_calls_are_linuxs() {
    let vm = vm();
    let task = vm.task().expect("a task");
    let a = task.allocate(4 * PAGE).expect("memory");
    store(&task, a, 5);
    assert_eq!(task.mlock(a + 1, PAGE), Ok(()), "two pages");
    let mut vec = [9; 4];
    assert_eq!(task.mincore(a, &mut vec), Ok(()));
    assert_eq!(&vec[..2], [1, 1]);
    assert_eq!(task.madvise(a, PAGE, libc::MADV_DONTNEED), Err(libc::EINVAL), "locked");
    assert_eq!(task.munlock(a, 2 * PAGE), Ok(()));
    assert_eq!(task.madvise(a, 4 * PAGE, libc::MADV_DONTNEED), Ok(()));
    assert_eq!(load(&task, a), 0);
    assert_eq!(task.mlock(a, 5 * PAGE), Err(libc::ENOMEM));
    assert_eq!(task.mlock(a + 1, usize::MAX), Err(libc::ENOMEM));
    assert_eq!(task.mincore(a, &mut [0; 5]), Err(libc::ENOMEM));
    assert_eq!(task.mincore(a + 1, &mut [0; 1]), Err(libc::EINVAL));
    assert_eq!(task.madvise(a, 5 * PAGE, libc::MADV_WILLNEED), Err(libc::ENOMEM));
    assert_eq!(task.madvise(a, PAGE, -1), Err(libc::EINVAL));
    assert_eq!(task.msync(a, PAGE, libc::MS_SYNC | libc::MS_ASYNC), Err(libc::EINVAL));
    assert_eq!(task.mprotect(a, PAGE, 1 << 20), Err(libc::EINVAL));
    assert_eq!(task.mprotect(a, 5 * PAGE, libc::PROT_READ), Err(libc::ENOMEM));
    store(&task, a, 6); // nothing changed
    assert_eq!(task.munmap(a, 0), Err(libc::EINVAL));
    assert_eq!(task.munmap(a + 1, PAGE), Err(libc::EINVAL));
    assert_eq!(task.munmap(a, 4 * PAGE), Ok(()));
    assert!(task.regions().expect("regions").is_empty());
}
