//! The controller that says how many pages the daemon frees (D02).
//!
//! ```text
//!  error  = target - free
//!  output = error / Kp  +  sum of errors / Ki  +  change of error / Kd,  never below zero
//! ```
//! The gains are divisors. The sum is kept between zero and a bound, so that after a long
//! shortage the daemon does not go on freeing far above the target (Z84).

/// What the terms are divided by, and the bound of the sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gains {
    /// Kp; zero counts as one, here and below.
    pub proportional: u32,
    /// Ki.
    pub integral: u32,
    /// Kd.
    pub derivative: u32,
    /// The sum is at most this times the target times Ki.
    pub bound: u32,
}

impl Default for Gains {
    fn default() -> Self {
        Gains { proportional: 3, integral: 4, derivative: 8, bound: 4 }
    }
}

/// Nanoseconds of an interval.
pub const INTERVAL: u64 = 100_000_000;

/// A controller; see the module text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pid {
    gains: Gains,
    interval: u64,
    setpoint: i64,
    /// When the interval began; none did yet.
    began: Option<u64>,
    /// The error of this interval: what was asked for in all of it.
    error: i64,
    /// That of the last interval.
    before: i64,
    sum: i64,
    /// What was put out in this interval.
    output: i64,
}

impl Pid {
    /// A controller that keeps its input at `setpoint`, in intervals of so many nanoseconds.
    pub const fn new(setpoint: u64, interval: u64, gains: Gains) -> Pid {
        let setpoint = clamp(setpoint);
        Pid { gains, interval, setpoint, began: None, error: 0, before: 0, sum: 0, output: 0 }
    }
    /// Another target; what was summed up stays.
    pub const fn aim(&mut self, setpoint: u64) {
        self.setpoint = clamp(setpoint);
    }
    /// The sum of errors, for who watches.
    pub const fn sum(&self) -> i64 {
        self.sum
    }
    /// Nothing is known of former errors.
    pub const fn reset(&mut self) {
        *self = Pid { began: None, error: 0, before: 0, sum: 0, output: 0, ..*self };
    }

    /// The output, where every call is an interval (`pidctrl_classic`).
    pub fn classic(&mut self, input: u64) -> u64 {
        self.before = self.error;
        self.error = self.setpoint - clamp(input);
        self.add(self.error);
        self.output = self.terms();
        self.output.unsigned_abs()
    }

    /// What is still to be done at `now` (`pidctrl_daemon`): within an interval, what was put
    /// out counts as done, and only what came in beside it is a new error.
    pub fn daemon(&mut self, now: u64, input: u64) -> u64 {
        let mut error = self.setpoint - clamp(input);
        match self.began {
            Some(began) if now.saturating_sub(began) < self.interval => {
                // Expected by now: what there was, less what was put out.
                error -= self.error - self.output;
            }
            _ => {
                self.began = Some(now);
                self.before = self.error;
                (self.error, self.output) = (0, 0);
            }
        }
        self.error += error;
        self.add(error);
        let (done, all) = (self.output, self.terms());
        self.output = all.max(done);
        (self.output - done).unsigned_abs()
    }

    fn add(&mut self, error: i64) {
        let g = self.gains;
        let bound = self.setpoint.saturating_mul(i64::from(g.bound)).saturating_mul(divisor(g.integral));
        self.sum = self.sum.saturating_add(error).clamp(0, bound.max(0));
    }

    fn terms(&self) -> i64 {
        let g = self.gains;
        let change = self.error - self.before;
        let output = self.error / divisor(g.proportional)
            + self.sum / divisor(g.integral)
            + change / divisor(g.derivative);
        output.max(0)
    }
}

const fn divisor(n: u32) -> i64 {
    if n == 0 { 1 } else { n as i64 }
}

/// Counts of pages, kept where no sum of a few overflows.
const fn clamp(pages: u64) -> i64 {
    const MOST: u64 = 1 << 48;
    (if pages > MOST { MOST } else { pages }) as i64
}
