//! Denied faults, and other people's handlers. Each case runs in a process of its own.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::{PAGE, config, load, small_vm, store, vm};
use machvm_linux::Prot;

/// Runs the test `name` again in another process, where it does `body`.
fn apart(name: &str, body: fn()) -> Option<Output> {
    if std::env::var("MACHVM_APART").is_ok_and(|v| v == name) {
        body();
        return None;
    }
    let me = std::env::current_exe().expect("the test program");
    let path = format!("library::signals::{name}");
    let out = Command::new(me)
        .args(["--exact", &path, "--nocapture", "--test-threads=1"])
        .env("MACHVM_APART", name)
        .output()
        .expect("started");
    Some(out)
}

fn assert_good(out: Option<Output>) {
    if let Some(out) = out {
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(
            out.status.success() && text.contains("1 passed"),
            "{}: {text}{}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
    }
}

static SEEN: [AtomicI64; 3] = [const { AtomicI64::new(0) }; 3];
/// Where the handler below continues: it skips the access.
static FIXED: AtomicU64 = AtomicU64::new(0);

/// Takes down signal, code and address, and makes the access possible.
extern "C" fn take_down(sig: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: what the kernel, or whoever passed the signal on, gave.
    unsafe {
        SEEN[0].store(i64::from(sig) << 32 | i64::from((*info).si_signo), Relaxed);
        SEEN[1].store(i64::from((*info).si_code), Relaxed);
        SEEN[2].store((*info).si_addr() as i64, Relaxed);
        // The accesses below are made by `touch`, which has this length.
        let context = &mut *context.cast::<libc::ucontext_t>();
        let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
        *rip += FIXED.load(Relaxed) as i64;
    }
}

fn install(sig: i32, handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void)) {
    // SAFETY: a good action.
    unsafe {
        let mut act: libc::sigaction = core::mem::zeroed();
        act.sa_sigaction = handler as *const () as usize;
        act.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(sig, &raw const act, core::ptr::null_mut()), 0);
    }
}

/// Two bytes of instruction that store to `at`; a handler that adds 2 skips it.
fn touch(at: *mut u8) {
    FIXED.store(2, Relaxed);
    // SAFETY: the fault is what is tested; the instruction is skipped.
    unsafe { core::arch::asm!(".byte 0x88, 0x07", in("rdi") at, in("al") 1u8) };
}

fn seen() -> (i64, i64, i64) {
    let (s, c, a) = (&SEEN[0], &SEEN[1], &SEEN[2]);
    (s.swap(0, Relaxed), c.swap(0, Relaxed), a.swap(0, Relaxed))
}

#[test]
fn denied_faults_reach_the_programs_handler_with_code_and_address() {
    assert_good(apart("denied_faults_reach_the_programs_handler_with_code_and_address", || {
        install(libc::SIGSEGV, take_down);
        install(libc::SIGBUS, take_down);
        let vm = vm();
        let task = vm.task().expect("a task");
        let a = task.allocate(4 * PAGE).expect("memory");
        store(&task, a + PAGE, 1);
        task.protect(a, 2 * PAGE, Prot::R).expect("protected");
        let segv = |code: i64, at: *mut u8| ((11 << 32) | 11, code, at as i64);
        let p = |off: usize| task.as_ptr(a + off);
        touch(p(123)); // absent, read-only
        assert_eq!(seen(), segv(2, p(123)));
        touch(p(PAGE + 77)); // resident, read-only
        assert_eq!(seen(), segv(2, p(PAGE + 77)));
        touch(p(4 * PAGE + 1)); // never mapped
        assert_eq!(seen(), segv(1, p(4 * PAGE + 1)));
        task.deallocate(a + 2 * PAGE, PAGE).expect("freed");
        touch(p(2 * PAGE)); // not mapped any more
        assert_eq!(seen(), segv(1, p(2 * PAGE)));
        touch(task.as_ptr(5)); // the lowest addresses
        assert_eq!(seen(), segv(1, task.as_ptr(5)));
        // Not ours.
        let nothing = core::ptr::without_provenance_mut(0x123);
        touch(nothing);
        assert_eq!(seen(), segv(1, nothing));
        // And what is allowed is served as before.
        store(&task, a + 3 * PAGE, 5);
        assert_eq!((load(&task, a + PAGE), load(&task, a + 3 * PAGE)), (1, 5));
        assert_eq!(seen(), (0, 0, 0));
    }));
}

#[test]
fn out_of_memory_is_a_sigbus() {
    assert_good(apart("out_of_memory_is_a_sigbus", || {
        install(libc::SIGBUS, take_down);
        let config =
            machvm_linux::Config { memory: Some(1 << 20), swap: machvm_linux::Swap::None, ..config() };
        let vm = machvm_linux::Vm::new(config).expect("a VM");
        let task = vm.task().expect("a task");
        let a = task.allocate(4 << 20).expect("addresses");
        // Finding out that nothing can be paged out takes seconds: once is enough.
        let denied = (0..1024).find(|i| {
            touch(task.as_ptr(a + i * PAGE));
            let (sig, code, at) = seen();
            assert!(sig == 0 || (sig, code, at) == (7 << 32 | 7, 3, task.as_ptr(a + i * PAGE) as i64));
            sig != 0
        });
        assert_eq!(denied, Some(256));
    }));
}

#[test]
fn without_a_handler_the_process_ends_of_the_right_signal() {
    fn body() {
        let vm = vm();
        let task = vm.task().expect("a task");
        let a = task.allocate(PAGE).expect("memory");
        store(&task, a, 1);
        task.protect(a, PAGE, Prot::R).expect("protected");
        // SAFETY: what standard error is for; then the end of this process.
        unsafe { libc::signal(libc::SIGALRM, libc::SIG_DFL) };
        store(&task, a, 2);
    }
    if let Some(out) = apart("without_a_handler_the_process_ends_of_the_right_signal", body) {
        assert_eq!(out.status.signal(), Some(libc::SIGSEGV), "{:?}", out.status);
    }
}

#[test]
fn a_null_pointer_still_kills() {
    fn body() {
        let vm = vm();
        let _task = vm.task().expect("a task");
        touch(core::ptr::without_provenance_mut(8));
    }
    if let Some(out) = apart("a_null_pointer_still_kills", body) {
        assert_eq!(out.status.signal(), Some(libc::SIGSEGV), "{:?}", out.status);
    }
}

#[test]
fn a_sent_sigsegv_is_not_taken_for_a_fault() {
    assert_good(apart("a_sent_sigsegv_is_not_taken_for_a_fault", || {
        install(libc::SIGSEGV, take_down);
        let _vm = vm();
        FIXED.store(0, Relaxed);
        // SAFETY: the handler is installed.
        unsafe { libc::raise(libc::SIGSEGV) };
        let (sig, code, _) = seen();
        assert!(sig == (11 << 32 | 11) && code <= 0, "{sig:x} {code}");
    }));
}

/// A timer's handler touches managed memory a thousand times a second, while the thread
/// it interrupts works in the VM: a lock of the VM held there would be a deadlock.
#[test]
fn handlers_may_touch_managed_memory_at_any_time() {
    static AT: AtomicU64 = AtomicU64::new(0);
    static TICKS: AtomicU64 = AtomicU64::new(0);
    extern "C" fn tick(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        let n = TICKS.fetch_add(1, Relaxed);
        let at = core::ptr::with_exposed_provenance_mut::<u64>(AT.load(Relaxed) as usize);
        // SAFETY: 1024 pages of the task; this word of a page is the handler's.
        unsafe {
            let word = at.add((n as usize * 37 % 1024) * 512 + 1);
            word.write_volatile(word.read_volatile() + 1);
        }
    }
    assert_good(apart("handlers_may_touch_managed_memory_at_any_time", || {
        let vm = small_vm(1 << 20);
        let task = vm.task().expect("a task");
        let a = task.allocate(1024 * PAGE).expect("addresses");
        AT.store(task.as_ptr(a) as u64, Relaxed);
        install(libc::SIGALRM, tick);
        let every = libc::timeval { tv_sec: 0, tv_usec: 1000 };
        let timer = libc::itimerval { it_interval: every, it_value: every };
        // SAFETY: a good timer.
        assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, core::ptr::null_mut()) }, 0);
        let mut rounds = 0u64;
        while TICKS.load(Relaxed) < 2000 {
            rounds += 1;
            for i in 0..1024 {
                let at = a + i * PAGE;
                let was = load(&task, at);
                assert_eq!(was, rounds - 1, "page {i}");
                store(&task, at, rounds);
            }
            let b = task.allocate(64 * PAGE).expect("addresses");
            task.copy(a, 64 * PAGE, &task, b).expect("copied");
            task.protect(b, PAGE, Prot::R).expect("protected");
            let child = task.fork().expect("a child");
            assert_eq!(load(&child, a), rounds);
            drop(child);
            task.deallocate(b, 64 * PAGE).expect("freed");
        }
        let off = libc::timeval { tv_sec: 0, tv_usec: 0 };
        let timer = libc::itimerval { it_interval: off, it_value: off };
        // SAFETY: a good timer.
        unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, core::ptr::null_mut()) };
        let counted: u64 = (0..1024).map(|i| load(&task, a + i * PAGE + 8)).sum();
        assert_eq!(counted, TICKS.load(Relaxed), "a store was lost");
    }));
}

#[test]
fn errno_survives_faults() {
    let vm = small_vm(1 << 20);
    let task = vm.task().expect("a task");
    let a = task.allocate(4 << 20).expect("addresses");
    for i in 0..1024 {
        // SAFETY: the thread's own.
        unsafe { *libc::__errno_location() = 77 };
        store(&task, a + i * PAGE, 1);
        // SAFETY: as above.
        assert_eq!(unsafe { *libc::__errno_location() }, 77);
    }
}

/// fork(2): the child has none of the memory, and its end changes nothing here.
#[test]
fn a_forked_process_cannot_touch_it() {
    assert_good(apart("a_forked_process_cannot_touch_it", || {
        let vm = vm();
        let task = vm.task().expect("a task");
        let a = task.allocate(16 * PAGE).expect("memory");
        (0..16).for_each(|i| store(&task, a + i * PAGE, 3));
        for way in 0..3 {
            // SAFETY: the child uses calls that are safe after a fork, and ends.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let refused = matches!(task.deallocate(a, PAGE), Err(machvm_linux::Error::Forked))
                    && matches!(task.read(a, &mut [0]), Err(machvm_linux::Error::Forked));
                match way {
                    0 => store(&task, a, 4),
                    1 => drop((task, vm)),
                    _ => assert_eq!(load(&task, a + PAGE), 9),
                }
                // SAFETY: ends the child.
                unsafe { libc::_exit(if refused { 50 } else { 51 }) };
            }
            let mut status = 0;
            // SAFETY: our child.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            if way == 1 {
                assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 50));
            } else {
                assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "{status:x}");
            }
            assert!((0..16).all(|i| load(&task, a + i * PAGE) == 3));
        }
        store(&task, a, 4);
    }));
}

/// Code in managed memory runs.
#[test]
fn pages_can_be_executed() {
    let vm = small_vm(1 << 20);
    let task = vm.task().expect("a task");
    let a = task.allocate(PAGE).expect("memory");
    task.write(a, &[0xb8, 42, 0, 0, 0, 0xc3]).expect("written"); // mov eax, 42; ret
    task.protect(a, PAGE, Prot::R | Prot::X).expect("protected");
    vm.page_out(1).expect("paged out");
    // SAFETY: the function above.
    let f: extern "C" fn() -> i32 = unsafe { core::mem::transmute(task.as_ptr(a)) };
    assert_eq!(f(), 42);
}
