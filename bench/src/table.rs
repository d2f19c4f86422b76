//! Medians, and tables with goals.

/// The middle value.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// Repetitions of several variants, taken in turn.
#[derive(Default)]
pub(crate) struct Samples(Vec<(&'static str, Vec<f64>)>);

impl Samples {
    /// Adds a figure of a variant.
    pub(crate) fn add(&mut self, name: &'static str, value: f64) {
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, v)) => v.push(value),
            None => self.0.push((name, vec![value])),
        }
    }
    /// The median of a variant.
    pub(crate) fn median(&self, name: &str) -> f64 {
        self.0.iter().find(|(n, _)| *n == name).map_or(f64::NAN, |(_, v)| median(&mut v.clone()))
    }
    /// The median of `a / b`, pair by pair: drift of the machine cancels.
    pub(crate) fn ratio(&self, a: &str, b: &str) -> f64 {
        let of = |name: &str| self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_slice());
        let (Some(a), Some(b)) = (of(a), of(b)) else { return f64::NAN };
        median(&mut a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>())
    }
}

/// A figure and what it should be.
pub(crate) fn goal(value: f64, at_most: f64) -> String {
    let verdict = if value <= at_most { "met" } else { "MISSED" };
    format!("{value:.2} (goal <= {at_most}) {verdict}")
}

/// As [`goal`], the other way round.
pub(crate) fn goal_least(value: f64, at_least: f64) -> String {
    let verdict = if value >= at_least { "met" } else { "MISSED" };
    format!("{value:.2} (goal >= {at_least}) {verdict}")
}

/// How often something long is run: `MACHVM_ROUNDS`, or as given.
pub(crate) fn rounds(usual: usize) -> usize {
    std::env::var("MACHVM_ROUNDS").ok().and_then(|n| n.parse().ok()).filter(|n| *n != 0).unwrap_or(usual)
}

/// Prints rows in columns as wide as they need.
pub(crate) fn print(title: &str, rows: &[Vec<String>]) {
    println!("{title}");
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(c, (cell, w))| if c == 0 { format!("{cell:<w$}") } else { format!("{cell:>w$}") })
            .collect();
        println!("  {}", line.join("  ").trim_end());
    }
}

/// A row of text.
#[macro_export]
macro_rules! row {
    ($($cell:expr),* $(,)?) => { vec![$($cell.to_string()),*] };
}
