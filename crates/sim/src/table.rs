//! Curves as text: a table for people, and CSV.

use std::fmt::Write;

use crate::curve::Curve;
use crate::stream::Stream;

/// Bytes as people write them: a number of at most four digits and a unit.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let whole = (value - value.round()).abs() < 0.005 || value >= 100.0;
    let places = if whole { 0 } else { usize::from(value < 10.0) };
    format!("{value:.places$} {}", UNITS[unit])
}

/// One line for each size: misses of each curve in percent of the references, and page-ins.
#[must_use]
pub fn table(stream: &Stream, curves: &[Curve], page_size: u64) -> String {
    let names: String = curves.iter().map(|c| format!(" {:>20}", c.engine.name())).collect();
    let units = format!(" {:>11} {:>8}", "page-ins", "misses").repeat(curves.len());
    let mut t = format!("{:>9}{names}\n{:>9}{units}\n", "memory", "");
    for i in 0..curves.first().map_or(0, |c| c.points.len()) {
        let _ = write!(t, "{:>9}", size_text(curves[0].points[i].frames * page_size));
        for point in curves.iter().map(|c| c.points[i]) {
            let percent = 100.0 * ratio(point.outcome.misses, stream.references);
            let _ = write!(t, " {:>11} {percent:>6.2} %", point.outcome.page_ins);
        }
        t.push('\n');
    }
    t
}

/// One line for each curve and size, under a line of names.
#[must_use]
pub fn csv(stream: &Stream, curves: &[Curve], page_size: u64) -> String {
    let mut t = String::from("policy,memory_bytes,references,misses,miss_ratio,page_ins,page_outs\n");
    for curve in curves {
        for p in &curve.points {
            let _ = writeln!(
                t,
                "{},{},{},{},{:.6},{},{}",
                curve.engine.name(),
                p.frames * page_size,
                stream.references,
                p.outcome.misses,
                ratio(p.outcome.misses, stream.references),
                p.outcome.page_ins,
                p.outcome.page_outs,
            );
        }
    }
    t
}

pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let texts = [4 << 10, 1 << 20, 1_153_434, 20_971_520, 52_000_000, 1 << 30, 3 << 29].map(size_text);
        assert_eq!(texts, ["4 KiB", "1 MiB", "1.1 MiB", "20 MiB", "50 MiB", "1 GiB", "1.5 GiB"]);
    }
}
