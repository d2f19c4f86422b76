//! What is covered: `docs/rows.tsv` (the rows of the interface inventory and what we claim of
//! each) against the tests that are named after rows, into `docs/coverage.md`.
//!
//! A test shows a row when its name begins with the row's id: `u16_vm_copy_codes`,
//! `p10_p11_grab`, `r01_to_r07_random`. (Names that begin with `d` and a number are of design
//! decisions, not of rows D.) The data file may name further tests. Its columns,
//! separated by tabs:
//!
//! ```text
//! id   mark   manual names   status   further tests (space-separated, may end in *)   note
//! ```
//! Lines that begin with `#` are headings.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const ROWS: &str = "docs/rows.tsv";
const OUT: &str = "docs/coverage.md";

/// Families of which rows may be left for later: every row is decided.
const LATER: [&str; 0] = [];

/// Tests named in one line; the rest is counted.
const NAMED: usize = 6;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    Works,
    Differs,
    NotOurs,
    Later,
}

impl Status {
    fn parse(s: &str) -> Option<Self> {
        Some(match s {
            "works" => Status::Works,
            "differs" => Status::Differs,
            "not ours" => Status::NotOurs,
            "later" => Status::Later,
            _ => return None,
        })
    }
    fn name(self) -> &'static str {
        match self {
            Status::Works => "works",
            Status::Differs => "differs",
            Status::NotOurs => "not ours",
            Status::Later => "later",
        }
    }
}

#[derive(Debug)]
struct Row {
    id: String,
    mark: String,
    names: String,
    status: Status,
    also: Vec<String>,
    note: String,
}

impl Row {
    fn family(&self) -> &str {
        self.id.trim_end_matches(|c: char| c.is_ascii_digit())
    }
    fn parse(line: &str) -> Result<Self, String> {
        let f: Vec<&str> = line.split('\t').map(str::trim).collect();
        let [id, mark, names, status, also, note] = f[..] else {
            return Err(format!("{} columns, not 6: {line}", f.len()));
        };
        if !["S", "S*", "F"].contains(&mark) {
            return Err(format!("{id}: no such mark: {mark}"));
        }
        Ok(Row {
            id: id.into(),
            mark: mark.into(),
            names: names.into(),
            status: Status::parse(status).ok_or(format!("{id}: no such status: {status}"))?,
            also: also.split_whitespace().map(String::from).collect(),
            note: note.into(),
        })
    }
}

/// A part of the list: a heading and what follows it.
type Part = (String, Vec<Row>);

/// Writes the list, or with `check` compares it. False when something is claimed that no
/// test shows, or the list is stale.
pub(crate) fn run(check: bool) -> bool {
    println!("== coverage of the interface");
    let mut wrong = Vec::new();
    let tests = tests_in(Path::new("crates"));
    let parts = match fs::read_to_string(ROWS) {
        Ok(text) => parse(&text, &mut wrong),
        Err(e) => {
            eprintln!("xtask: cannot read {ROWS}: {e}");
            return false;
        }
    };
    let shown = match_up(&parts, &tests, &mut wrong);
    let text = render(&parts, &shown);
    for w in &wrong {
        eprintln!("xtask: {w}");
    }
    if check {
        if fs::read_to_string(OUT).is_ok_and(|old| old == text) {
            return wrong.is_empty();
        }
        eprintln!("xtask: {OUT} is stale: run `cargo xtask coverage`");
        return false;
    }
    if let Err(e) = fs::write(OUT, text) {
        eprintln!("xtask: cannot write {OUT}: {e}");
        return false;
    }
    wrong.is_empty()
}

fn parse(text: &str, wrong: &mut Vec<String>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        if let Some(title) = line.strip_prefix("# ") {
            parts.push((title.trim().into(), Vec::new()));
            continue;
        }
        match (Row::parse(line), parts.last_mut()) {
            (Ok(row), Some(part)) => {
                if !seen.insert(row.id.clone()) {
                    wrong.push(format!("{ROWS}: {} twice", row.id));
                }
                part.1.push(row);
            }
            (Ok(row), None) => wrong.push(format!("{ROWS}: {} comes before any heading", row.id)),
            (Err(e), _) => wrong.push(format!("{ROWS}: {e}")),
        }
    }
    parts
}

/// The names of all test functions below `dir`.
fn tests_in(dir: &Path) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let mut list: Vec<_> =
        fs::read_dir(dir).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    list.sort();
    for path in list {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if name != "target" {
                out.append(&mut tests_in(&path));
            }
        } else if let Ok(text) = fs::read_to_string(&path) {
            // A suite of which a macro makes the tests for each machine.
            let suite = path.components().any(|c| c.as_os_str() == "conformance");
            if name.ends_with(".rs") {
                out.extend(rust_tests(&text, suite));
            } else if name.ends_with(".c") && path.components().any(|c| c.as_os_str() == "tests") {
                out.extend(c_tests(&name, &text));
            }
        }
    }
    out
}

fn rust_tests(text: &str, suite: bool) -> Vec<String> {
    let mut out = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[") {
            is_test |= line.contains("test]");
        } else if let Some(name) = function_name(line) {
            if is_test || (suite && line.starts_with("pub fn")) {
                out.push(name.into());
            }
            is_test = false;
        } else if !line.starts_with("//") {
            is_test = false;
        }
    }
    out
}

fn function_name(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub ").unwrap_or(line).strip_prefix("fn ")?;
    rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().filter(|n| !n.is_empty())
}

/// A C program is a test, and each of its functions that takes nothing.
fn c_tests(file: &str, text: &str) -> Vec<String> {
    let mut out = vec![file.trim_end_matches(".c").to_string()];
    for line in text.lines() {
        let line = line.strip_prefix("static ").unwrap_or(line);
        let line = line.strip_prefix("void ").or_else(|| line.strip_prefix("int "));
        if let Some((name, _)) = line.and_then(|l| l.split_once("(void)")) {
            out.push(name.trim().into());
        }
    }
    out
}

/// The row ids that a test's name begins with.
fn ids_of(test: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut through = false;
    for word in test.split('_') {
        if word == "to" && !out.is_empty() && !through {
            through = true;
            continue;
        }
        let digits = word.trim_start_matches(|c: char| c.is_ascii_lowercase());
        let letters = &word[..word.len() - digits.len()];
        let is_id = (1..=2).contains(&letters.len())
            && (2..=3).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit());
        if !is_id {
            break;
        }
        if through {
            let first =
                out.last().and_then(|o| o.trim_start_matches(char::is_alphabetic).parse::<u32>().ok());
            if let (Some(first), Ok(last)) = (first, digits.parse::<u32>()) {
                out.extend((first + 1..last).map(|n| format!("{}{n:02}", letters.to_uppercase())));
            }
            through = false;
        }
        out.push(word.to_uppercase());
    }
    out
}

/// Which tests show which row.
type Shown = BTreeMap<String, BTreeSet<String>>;

fn match_up(parts: &[Part], tests: &BTreeSet<String>, wrong: &mut Vec<String>) -> Shown {
    let rows: BTreeMap<&str, &Row> =
        parts.iter().flat_map(|p| &p.1).map(|row| (row.id.as_str(), row)).collect();
    let families: BTreeSet<&str> = rows.values().map(|r| r.family()).collect();
    let mut shown = Shown::new();
    for test in tests {
        for id in ids_of(test).into_iter().filter(|id| !id.starts_with('D')) {
            let family = id.trim_end_matches(|c: char| c.is_ascii_digit());
            if rows.contains_key(id.as_str()) {
                shown.entry(id).or_default().insert(test.clone());
            } else if families.contains(family) {
                wrong.push(format!("test {test} is named after {id}, which is no row"));
            }
        }
    }
    for row in rows.values() {
        for also in &row.also {
            let found: Vec<&String> = match also.strip_suffix('*') {
                Some(start) => tests.iter().filter(|t| t.starts_with(start)).collect(),
                None => tests.get(also).into_iter().collect(),
            };
            if found.is_empty() {
                wrong.push(format!("{}: there is no test {also}", row.id));
            }
            shown.entry(row.id.clone()).or_default().extend(found.into_iter().cloned());
        }
        wrong.extend(judge(row, shown.get(&row.id).map_or(0, BTreeSet::len)));
    }
    shown
}

/// What is wrong with the claim of a row that has so many tests.
fn judge(row: &Row, tests: usize) -> Option<String> {
    let id = &row.id;
    match row.status {
        Status::Works | Status::Differs if tests == 0 => {
            Some(format!("{id} is said to be there, and no test shows it"))
        }
        Status::Differs | Status::NotOurs | Status::Later if row.note.is_empty() => {
            Some(format!("{id}: {} without a note", row.status.name()))
        }
        Status::NotOurs if row.mark != "F" => {
            Some(format!("{id} is marked {} and may not be left out", row.mark))
        }
        Status::NotOurs if tests != 0 => Some(format!("{id} is not ours, and tests are named after it")),
        Status::Later if !LATER.contains(&row.family()) => Some(format!("{id} may not be left for later")),
        _ => None,
    }
}

fn render(parts: &[Part], shown: &Shown) -> String {
    let mut out = String::from(
        "# What is covered\n\n\
         Made by `cargo xtask coverage` out of `docs/rows.tsv` and the names of the tests; `cargo xtask test` fails when it is\n\
         stale, when a row is claimed that no test shows, or when a row that the manuals name is left out. Row ids are those of\n\
         the interface inventory; marks: S named by the defining manual pages, S\\* named there in passing, F of the same family.\n\n\
         - works: what the row says, shown by the tests named.\n\
         - differs: the note says how; shown by the tests named.\n\
         - not ours: the note says why.\n\
         - later: not written yet; tests named show what of it there is.\n\n",
    );
    summary(parts, &mut out);
    for (title, rows) in parts {
        let _ =
            write!(out, "\n## {title}\n\n| row | | manual | | note | tests |\n|---|---|---|---|---|---|\n");
        for r in rows {
            let tests = shown.get(&r.id).map_or(String::new(), name_tests);
            let (mark, status) = (r.mark.replace('*', "\\*"), r.status.name());
            let _ = writeln!(out, "| {} | {mark} | {} | {status} | {} | {tests} |", r.id, r.names, r.note);
        }
    }
    out
}

fn summary(parts: &[Part], out: &mut String) {
    out.push_str("| part | rows | works | differs | not ours | later |\n|---|---|---|---|---|---|\n");
    let mut all = [0; 5];
    for (title, rows) in parts {
        let of = |s| rows.iter().filter(|r| r.status == s).count();
        let n = [rows.len(), of(Status::Works), of(Status::Differs), of(Status::NotOurs), of(Status::Later)];
        all.iter_mut().zip(n).for_each(|(a, n)| *a += n);
        let _ = writeln!(out, "| {title} | {} | {} | {} | {} | {} |", n[0], n[1], n[2], n[3], n[4]);
    }
    let _ = writeln!(out, "| all | {} | {} | {} | {} | {} |", all[0], all[1], all[2], all[3], all[4]);
}

fn name_tests(tests: &BTreeSet<String>) -> String {
    let names: Vec<String> = tests.iter().take(NAMED).map(|t| format!("`{t}`")).collect();
    match tests.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        n => format!("{} and {n} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_with_rows() {
        assert_eq!(ids_of("u16_vm_copy_codes"), ["U16"]);
        assert_eq!(ids_of("p10_p11_grab_finds"), ["P10", "P11"]);
        assert_eq!(ids_of("r01_to_r04_random"), ["R01", "R02", "R03", "R04"]);
        assert_eq!(ids_of("u12_write_to_u64"), ["U12"]);
        assert!(ids_of("clusters_double").is_empty() && ids_of("x_1").is_empty());
    }

    #[test]
    fn only_tests_count() {
        let text = "#[test]\n#[ignore]\nfn a01_x() {\n}\nfn a02_y() {}\n#[test]\n/// Text.\nfn a03_z() {}\n";
        assert_eq!(rust_tests(text, false), ["a01_x", "a03_z"]);
        assert_eq!(rust_tests("pub fn pm01_x<F>(f: &F) {", true), ["pm01_x"]);
        assert_eq!(
            c_tests("u16.c", "static void u16_x(void)\n{\nint main(void)\n"),
            ["u16", "u16_x", "main"]
        );
    }

    #[test]
    fn claims_are_judged() {
        let row = |mark: &str, status: &str, note: &str| {
            Row::parse(&format!("U01\t{mark}\tn\t{status}\t\t{note}")).expect("six columns")
        };
        assert!(judge(&row("F", "works", ""), 0).is_some());
        assert!(judge(&row("F", "works", ""), 1).is_none());
        assert!(judge(&row("F", "differs", ""), 1).is_some(), "how?");
        assert!(judge(&row("S*", "not ours", "why"), 0).is_some());
        assert!(judge(&row("F", "not ours", "why"), 0).is_none());
        assert!(judge(&row("F", "not ours", "why"), 1).is_some());
        let later = Row::parse("X01\tF\tn\tlater\t\twhat").expect("six columns");
        assert!(judge(&later, 0).is_some(), "not of this family");
        assert!(Row::parse("U01\tF\tn\tdone\t\t").is_err());
    }
}
