extern crate std;

use std::vec::Vec;

use crate::pageout::{Gains, Pid};

/// The formula, written down apart: output of each step.
fn reference(setpoint: i64, g: Gains, inputs: &[i64]) -> Vec<i64> {
    let (kp, ki, kd) = (g.proportional.max(1), g.integral.max(1), g.derivative.max(1));
    let bound = i64::from(g.bound) * setpoint * i64::from(ki);
    let (mut integral, mut before, mut out) = (0i64, 0i64, Vec::new());
    for input in inputs {
        let error = setpoint - input;
        integral = (integral + error).min(bound).max(0);
        let sum = error / i64::from(kp) + integral / i64::from(ki) + (error - before) / i64::from(kd);
        out.push(sum.max(0));
        before = error;
    }
    out
}

fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        s % below
    }
}

// pidctrl_classic(): D02.
#[test]
fn d02_classic_is_the_formula() {
    for seed in 1..200 {
        let mut r = numbers(seed);
        let setpoint = r(4000);
        let g = Gains {
            proportional: r(6) as u32,
            integral: r(6) as u32,
            derivative: r(12) as u32,
            bound: r(6) as u32,
        };
        let inputs: Vec<i64> = (0..60).map(|_| r(8000) as i64).collect();
        let mut pid = Pid::new(setpoint, 10, g);
        let got: Vec<i64> = inputs.iter().map(|i| pid.classic(*i as u64) as i64).collect();
        assert_eq!(got, reference(setpoint as i64, g, &inputs), "seed {seed} {g:?} of {setpoint}");
    }
}

// pidctrl_daemon(): asked once in each interval it is the same.
#[test]
fn d02_daemon_is_classic_from_interval_to_interval() {
    let mut r = numbers(7);
    let g = Gains::default();
    let (mut daemon, mut classic) = (Pid::new(500, 100, g), Pid::new(500, 100, g));
    for n in 0..500 {
        let input = r(1000);
        assert_eq!(daemon.daemon(n * 100, input), classic.classic(input), "interval {n}");
    }
}

// Within an interval what was put out counts as done.
#[test]
fn d02_daemon_asks_once_for_each_page() {
    let g = Gains { proportional: 1, integral: 1000, derivative: 1000, bound: 1 };
    let mut pid = Pid::new(100, 1000, g);
    assert_eq!(pid.daemon(0, 60), 40);
    assert_eq!(pid.daemon(1, 100), 0, "done");
    assert_eq!(pid.daemon(2, 90), 10, "ten were taken beside it");
    assert_eq!(pid.daemon(3, 100), 0);
    assert_eq!(pid.daemon(4, 130), 0, "never below zero");
    // Half of it could not be done: it is asked for again.
    let mut pid = Pid::new(100, 1000, g);
    assert_eq!(pid.daemon(0, 0), 100);
    assert_eq!(pid.daemon(1, 50), 50);
    // A new interval starts anew.
    assert_eq!(pid.daemon(1000, 90), 10);
}

// Z84: no windup.
#[test]
fn d02_z84_a_long_shortage_is_forgotten() {
    let g = Gains::default();
    let mut pid = Pid::new(100, 1, g);
    for t in 0..10_000 {
        pid.daemon(t, 0);
    }
    let bound = i64::from(g.bound) * 100 * i64::from(g.integral);
    assert_eq!(pid.sum(), bound);
    // Above the target it ends within as many intervals as the bound has targets.
    let mut free = 200u64;
    let mut t = 10_000;
    while pid.daemon(t, free) != 0 {
        t += 1;
        free = 200;
        assert!(t < 10_000 + u64::from(g.bound * g.integral) + 1, "still freeing");
    }
    for setpoint in [0, 1, u64::MAX] {
        let mut pid =
            Pid::new(setpoint, 0, Gains { proportional: 0, integral: 0, derivative: 0, bound: u32::MAX });
        for input in [0, 1, u64::MAX, 0, u64::MAX] {
            pid.classic(input);
            pid.daemon(input, input);
        }
    }
}
