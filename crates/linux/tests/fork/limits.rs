//! Little memory, what is paged out, and children that fail.

use crate::{PAGE, fork, load, store, world};
use machvm_linux::{Config, Error, Inherit, Vm};

#[test]
fn paged_out_contents_are_inherited() {
    const PAGES: usize = 2000;
    let w = world(Some(1 << 20)); // 256 pages
    let t = &w.task;
    let a = t.allocate(PAGES * PAGE).expect("memory");
    (0..PAGES).for_each(|i| store(t, a + i * PAGE, i as u64 + 1));
    assert!(w.vm.statistics().expect("statistics").core.swapouts > 0);
    let child = fork(|| {
        assert!((0..PAGES).all(|i| load(t, a + i * PAGE) == i as u64 + 1));
        // Page-out works here too.
        let before = w.vm.statistics().expect("statistics");
        (0..PAGES).for_each(|i| store(t, a + i * PAGE, 2 * i as u64));
        assert!((0..PAGES).all(|i| load(t, a + i * PAGE) == 2 * i as u64));
        let after = w.vm.statistics().expect("statistics");
        assert!(after.core.swapouts > before.core.swapouts);
        assert!(after.frames <= 256 && before.frames <= 256, "{} {}", before.frames, after.frames);
    });
    child.well();
    assert!((0..PAGES).all(|i| load(t, a + i * PAGE) == i as u64 + 1));
}

/// Shared memory, partly on swap, that is larger than the limit.
#[test]
fn shared_memory_may_be_larger_than_the_limit() {
    const PAGES: usize = 1000;
    let w = world(Some(1 << 20));
    let t = &w.task;
    let a = t.allocate(PAGES * PAGE).expect("memory");
    t.inherit(a, PAGES * PAGE, Inherit::Share).expect("set");
    (0..PAGES).for_each(|i| store(t, a + i * PAGE, i as u64 + 1));
    for round in 1..4 {
        fork(|| {
            for i in 0..PAGES {
                let was = load(t, a + i * PAGE);
                store(t, a + i * PAGE, was + 1000);
            }
        })
        .well();
        for i in 0..PAGES {
            assert_eq!(load(t, a + i * PAGE), i as u64 + 1 + 1000 * round, "page {i}");
        }
    }
}

#[test]
fn without_follow_a_child_has_no_vm() {
    let _turn = world(None);
    let vm = Vm::new(Config { window: 1 << 30, ..Config::default() }).expect("a VM");
    let task = vm.task().expect("a task");
    let a = task.allocate(PAGE).expect("memory");
    store(&task, a, 1);
    fork(|| {
        assert!(matches!(task.allocate(PAGE), Err(Error::Forked)));
        assert!(matches!(task.read(a, &mut [0]), Err(Error::Forked)));
        assert!(matches!(vm.statistics(), Err(Error::Forked)));
    })
    .well();
    assert_eq!(load(&task, a), 1);
}

/// A child of the system call itself: no handler runs in it.
#[test]
fn a_child_that_nobody_told_refuses_calls() {
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(PAGE).expect("memory");
    store(t, a, 1);
    // SAFETY: the child makes calls that take no lock of the C library, and exits.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } as i32;
    assert!(pid >= 0);
    if pid == 0 {
        let refused = matches!(t.allocate(PAGE), Err(Error::Forked))
            && matches!(t.read(a, &mut [0]), Err(Error::Forked));
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!refused)) };
    }
    crate::Child(pid).well();
    assert_eq!(load(t, a), 1);
}

/// Without descriptors the child cannot have a VM; it says so, and the parent is as before.
#[test]
fn a_child_without_descriptors_has_no_vm_and_the_parent_is_well() {
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(20 * PAGE).expect("memory");
    t.inherit(a, PAGE, Inherit::Share).expect("set");
    (0..20).for_each(|i| store(t, a + i * PAGE, i as u64));
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: room for the limit.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    let set = |n| {
        let new = libc::rlimit { rlim_cur: n, rlim_max: limit.rlim_max };
        // SAFETY: a good limit.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const new) }, 0);
    };
    // From nothing at all to just enough.
    let mut refused = 0;
    for extra in 0..64 {
        set(extra);
        let child = fork(|| {
            set(limit.rlim_cur);
            match t.allocate(PAGE) {
                Err(Error::Forked) => {
                    // Nor has a child of it.
                    fork(|| assert!(matches!(t.allocate(PAGE), Err(Error::Forked)))).well();
                    panic!("refused")
                }
                r => {
                    r.expect("memory");
                    assert!((0..20).all(|i| load(t, a + i * PAGE) == i as u64));
                }
            }
        });
        set(limit.rlim_cur);
        refused += u64::from(child.status() != 0);
        (0..20).for_each(|i| store(t, a + i * PAGE, i as u64));
        assert!((0..20).all(|i| load(t, a + i * PAGE) == i as u64));
    }
    assert!(refused > 2 && refused < 60, "{refused} of 64 were refused");
    fork(|| assert_eq!(load(t, a + PAGE), 1)).well();
}

/// A child that is killed while its parent waits.
#[test]
fn a_child_that_dies_at_once_harms_nobody() {
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(2000 * PAGE).expect("memory");
    (0..2000).for_each(|i| store(t, a + i * PAGE, 1));
    for _ in 0..5 {
        let child = fork(|| {
            // SAFETY: ends this process.
            unsafe { libc::raise(libc::SIGKILL) };
        });
        assert_eq!(child.status(), libc::SIGKILL);
        assert_eq!(load(t, a), 1);
    }
    // And one that execs.
    let child = fork(|| {
        let args = [c"/bin/true".as_ptr(), std::ptr::null()];
        // SAFETY: a path and a list of arguments.
        unsafe { libc::execv(c"/bin/true".as_ptr(), args.as_ptr()) };
        panic!("exec");
    });
    child.well();
    assert!(std::process::Command::new("/bin/true").status().expect("posix_spawn or vfork").success());
    assert_eq!(load(t, a + 1999 * PAGE), 1);
}

/// Linux refuses the fork (EAGAIN) after everything was prepared for it.
#[test]
fn a_fork_that_fails_changes_nothing() {
    let w = world(Some(1 << 20));
    let t = &w.task;
    let a = t.allocate(100 * PAGE).expect("memory");
    t.inherit(a, 10 * PAGE, Inherit::Share).expect("set");
    (0..100).for_each(|i| store(t, a + i * PAGE, i as u64));
    // In a child, since the filter stays.
    fork(|| {
        refuse_clone();
        for round in 1..4 {
            // SAFETY: it fails.
            assert_eq!(unsafe { libc::fork() }, -1);
            assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN));
            let b = t.allocate(300 * PAGE).expect("the gate is open");
            (0..300).for_each(|i| store(t, b + i * PAGE, 1));
            t.deallocate(b, 300 * PAGE).expect("deallocate");
            assert!((0..100).all(|i| load(t, a + i * PAGE) == i as u64 + 10 * (round - 1)));
            (0..100).for_each(|i| store(t, a + i * PAGE, i as u64 + 10 * round));
        }
    })
    .well();
    assert_eq!(load(t, a + 5 * PAGE), 35, "shared");
    assert_eq!(load(t, a + 50 * PAGE), 50);
}

/// From now on `clone(2)` fails with EAGAIN in this process.
fn refuse_clone() {
    let op = |code: u32, k: u32, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EAGAIN as u32;
    let mut program = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the number of the call
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_clone as u32, 0, 1),
        op(libc::BPF_RET | libc::BPF_K, refuse, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: numbers, and a good program that outlives the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}

/// What a pager that forks does: the thread is inside the VM, so the child has none.
#[test]
fn a_fork_inside_the_vm_is_not_followed() {
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(PAGE).expect("memory");
    store(t, a, 1);
    let inside = w.vm.inside().expect("inside");
    fork(|| assert!(matches!(t.allocate(PAGE), Err(Error::Forked)))).well();
    drop(inside);
    assert_eq!(load(t, a), 1);
    fork(|| assert_eq!(load(t, a), 1)).well();
}

/// Every system that follows does, with its own first task.
#[test]
fn two_systems_follow() {
    let w = world(Some(1 << 20));
    let config = Config {
        window: 1 << 30,
        faults: crate::faults(),
        fork: machvm_linux::library::Fork::Follow,
        ..Config::default()
    };
    let second = Vm::new(config).expect("a VM");
    let tasks = [&w.task, &second.task().expect("a task")];
    let at = tasks.map(|t| t.allocate(400 * PAGE).expect("memory"));
    for (n, t) in tasks.iter().enumerate() {
        t.inherit(at[n], PAGE, Inherit::Share).expect("set");
        (0..400).for_each(|i| store(t, at[n] + i * PAGE, (1000 * n + i) as u64));
    }
    fork(|| {
        for (n, t) in tasks.iter().enumerate() {
            assert!((0..400).all(|i| load(t, at[n] + i * PAGE) == (1000 * n + i) as u64));
            (0..400).for_each(|i| store(t, at[n] + i * PAGE, 7));
        }
    })
    .well();
    for (n, t) in tasks.iter().enumerate() {
        assert_eq!(load(t, at[n]), 7, "shared");
        assert!((1..400).all(|i| load(t, at[n] + i * PAGE) == (1000 * n + i) as u64));
    }
}
