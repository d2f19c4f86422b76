//! Interrupts that are late, out of order, held off, or never taken.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use machvm_hal::CpuSet;

use super::{A, Kind, Rig};
use crate::hw::walk::Arch;
use crate::hw::{Access, Config, Delivery};

fn rig(delivery: Delivery, seed: u64) -> (Rig, Arc<Mutex<Vec<u16>>>) {
    let config = Config { delivery, patience: 2000, ..Config::new(Arch::Sv39, seed) };
    let rig = Rig::with(config);
    let taken = Arc::new(Mutex::new(Vec::new()));
    let list = taken.clone();
    let hw = Arc::downgrade(&rig.hw);
    rig.hw.set_ipi_handler(move |cpu| {
        assert_eq!(hw.upgrade().map(|hw| hw.cpu()), Some(cpu.0), "the handler runs on its CPU");
        list.lock().unwrap().push(cpu.0);
    });
    (rig, taken)
}

#[test]
fn they_come_late_and_in_any_order() {
    let mut orders = std::collections::BTreeSet::new();
    let mut at_once = 0;
    for seed in 0..60 {
        let (rig, taken) = rig(Delivery::Anyone, seed);
        rig.hw.send_ipi(CpuSet(0b1110));
        at_once += taken.lock().unwrap().len();
        while taken.lock().unwrap().len() < 3 {
            rig.hw.relax();
        }
        orders.insert(taken.lock().unwrap().clone());
        rig.hw.assert_clean();
    }
    assert_eq!(orders.len(), 6, "{orders:?}");
    assert_eq!(at_once, 0);
}

#[test]
fn one_comes_in_the_middle_of_something_else() {
    let (rig, taken) = rig(Delivery::Anyone, 3);
    let root = rig.table();
    rig.run(0, root, 1);
    rig.hw.send_ipi(CpuSet(0b10));
    for _ in 0..10_000 {
        let _ = rig.touch(0, A, Access::Read);
    }
    assert_eq!(*taken.lock().unwrap(), [1]);
}

#[test]
fn where_interrupts_are_off_none_is_taken() {
    let (rig, taken) = rig(Delivery::Anyone, 5);
    let off = rig.hw.irqs_off(2);
    rig.hw.send_ipi(CpuSet(0b1100));
    for _ in 0..1000 {
        rig.hw.relax();
    }
    assert_eq!(*taken.lock().unwrap(), [3]);
    drop(off);
    for _ in 0..1000 {
        rig.hw.relax();
    }
    assert_eq!(*taken.lock().unwrap(), [3, 2]);
}

#[test]
fn a_wait_that_cannot_end_says_who_waits_for_whom() {
    let (rig, _taken) = rig(Delivery::Anyone, 7);
    let hw = rig.hw.clone();
    let text = std::thread::spawn(move || {
        let _off = hw.irqs_off(3);
        hw.send_ipi(CpuSet(0b1000));
        loop {
            hw.relax();
        }
    })
    .join()
    .map(|_: ()| ())
    .expect_err("it waits for ever");
    let text = text.downcast_ref::<String>().expect("a text");
    assert!(
        text.contains("CPU 0 waits") && text.contains("CPU 3") && text.contains("off there, 1 deep"),
        "{text}"
    );
    assert_eq!(rig.kinds(), [Kind::Deadlock]);
}

#[test]
fn the_owner_takes_its_own_and_the_waiter_those_of_empty_and_idle_cpus() {
    let (rig, taken) = rig(Delivery::Owner, 9);
    let stop = Arc::new(AtomicU64::new(0));
    let hw = rig.hw.clone();
    std::thread::scope(|s| {
        let (stop, taken, hw) = (&stop, &taken, &hw);
        let busy = s.spawn(move || {
            hw.on_cpu(1, || {
                while stop.load(SeqCst) == 0 {
                    // A program that faults for ever.
                    let _ = hw.access(A, Access::Read, crate::hw::Mode::User);
                    std::thread::yield_now();
                }
                hw.idle(|| {
                    while stop.load(SeqCst) == 1 {
                        std::thread::yield_now();
                    }
                });
            });
        });
        hw.send_ipi(CpuSet(0b0110));
        while taken.lock().unwrap().len() < 2 {
            hw.relax();
        }
        stop.store(1, SeqCst);
        hw.send_ipi(CpuSet(0b0010));
        while taken.lock().unwrap().len() < 3 {
            hw.relax();
        }
        stop.store(2, SeqCst);
        busy.join().unwrap();
    });
    rig.hw.assert_clean();
}

#[test]
fn nobody_interrupts_itself() {
    let (rig, _) = rig(Delivery::Anyone, 1);
    rig.hw.send_ipi(CpuSet(1));
    assert_eq!(rig.kinds(), [Kind::BadInterrupt]);
}
