//! The map is ours: what Linux maps for the program is what `--maps` says, and nothing
//! the program can write privately is anybody else's memory.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{build, machvm};

/// The report that is printed for a killed program may be this old.
const REPORT_AGE: Duration = Duration::from_millis(2500);
const PATIENCE: Duration = Duration::from_secs(60);
/// Programs are placed below this; the VM's own executable, libraries, threads and
/// heap, which Linux places, are above.
const PROGRAM_END: u64 = 0x5555_0000_0000;

/// A line of `/proc/PID/maps`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Linux {
    start: u64,
    end: u64,
    prot: String,
    shared: bool,
    name: String,
}

/// A line of `--maps`.
#[derive(Clone, Debug)]
struct Entry {
    start: u64,
    end: u64,
    prot: String,
    kind: String,
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn linux_maps(pid: u32) -> Vec<Linux> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the program lives");
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (start, end) = fields[0].split_once('-').unwrap();
        Linux {
            start: hex(start).unwrap(),
            end: hex(end).unwrap(),
            prot: fields[1][..3].into(),
            shared: fields[1].ends_with('s'),
            name: fields[5..].join(" "),
        }
    };
    text.lines().map(line).collect()
}

/// Entries of the report, which follows whatever else is in `text`.
fn our_map(text: &str) -> Vec<Entry> {
    let heading =
        text.find("           start              end prt").unwrap_or_else(|| panic!("no map in\n{text}"));
    let entry = |line: &str| {
        let f: Vec<&str> = line.split_whitespace().collect();
        let &[start, end, prot, _max, _inherit, kind, _wired, _kib] = f.as_slice() else { return None };
        Some(Entry { start: hex(start)?, end: hex(end)?, prot: prot.into(), kind: kind.into() })
    };
    text[heading..].lines().skip(1).map_while(entry).collect()
}

/// What was seen of a program at one moment.
struct Seen {
    linux: Vec<Linux>,
    ours: Vec<Entry>,
    out: Vec<String>,
}

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program until it has said `ready` and come to rest, and kills it.
fn at_rest(argv: &[&str], input: &str) -> Seen {
    let mut child = Reaped(
        Command::new(machvm())
            .args(["run", "--maps", "--"])
            .args(argv)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("machvm starts"),
    );
    // Stays open: at its end an interpreter would end as well.
    let mut stdin = child.0.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    stdin.flush().unwrap();
    let stdout = BufReader::new(child.0.stdout.take().unwrap());
    let (said, hear) = std::sync::mpsc::channel();
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| drop(said.send(line))));
    let mut stderr = child.0.stderr.take().unwrap();
    let report = std::thread::spawn(move || {
        let mut text = Vec::new();
        drop(stderr.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut out = Vec::new();
    loop {
        match hear.recv_timeout(PATIENCE) {
            Ok(line) if line == "ready" => break,
            Ok(line) => out.push(line),
            Err(_) => {
                drop(child);
                panic!("{argv:?} is not ready: {out:?}\n{}", report.join().unwrap());
            }
        }
    }
    let began = Instant::now();
    let mut linux = linux_maps(child.0.id());
    loop {
        std::thread::sleep(REPORT_AGE);
        let now = linux_maps(child.0.id());
        let rests = programs(&now).eq(programs(&linux));
        linux = now;
        if rests {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{argv:?} does not come to rest");
    }
    drop(child);
    drop(stdin);
    let ours = our_map(&report.join().unwrap());
    assert!(ours.len() > 4, "{ours:?}");
    Seen { linux, ours, out }
}

/// Linux's mappings that can only be the program's.
fn programs(maps: &[Linux]) -> impl Iterator<Item = &Linux> {
    maps.iter().filter(|m| m.end <= PROGRAM_END || m.name.starts_with("/memfd:machvm"))
}

/// Linux's own pages, which every process has.
fn kernels(m: &Linux) -> bool {
    ["[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"].contains(&m.name.as_str())
}

/// Everything that is wrong.
fn differences(seen: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    for m in &seen.linux {
        let frames = m.name.starts_with("/memfd:machvm");
        let mut covered = m.start;
        for e in seen.ours.iter().filter(|e| e.start < m.end && m.start < e.end) {
            let mut bad = |why: &str| wrong.push(format!("{why}\n  {m:x?}\n  {e:x?}"));
            if m.start.max(e.start) > covered && m.end <= PROGRAM_END {
                bad("a part is not in our map");
            }
            covered = m.end.min(e.end);
            if m.prot.contains('w') && !m.shared {
                bad("private and writable");
            }
            match e.kind.as_str() {
                "ours" if !frames => bad("ours, but not on our memory"),
                "ours" if !m.shared => bad("ours, but private"),
                "ours" if m.prot != e.prot => bad("another protection"),
                "foreign" if frames => bad("foreign, but on our memory"),
                "foreign" if m.prot != e.prot => bad("another protection"),
                "guard" if m.prot != "---" => bad("a guard that gives access"),
                "ours" | "foreign" | "guard" | "gap" => {}
                _ => bad("an unknown kind"),
            }
        }
        let whole = covered == m.end;
        if !whole && !kernels(m) && (frames || m.start < PROGRAM_END) {
            wrong.push(format!("not in our map from {covered:#x}: {m:x?}"));
        }
    }
    // What is not private and writable may be Linux's; our own must be mapped from
    // our memory or not at all (a page that nobody has touched).
    for e in seen.ours.iter().filter(|e| e.kind == "foreign") {
        let bytes: u64 = seen
            .linux
            .iter()
            .filter(|m| m.start < e.end && e.start < m.end)
            .map(|m| m.end.min(e.end) - m.start.max(e.start))
            .sum();
        if bytes != e.end - e.start {
            wrong.push(format!("foreign, but Linux maps {bytes} bytes of it: {e:x?}"));
        }
    }
    wrong
}

#[track_caller]
fn assert_ours(seen: &Seen) {
    let wrong = differences(seen);
    assert!(wrong.is_empty(), "{}\n{:#x?}", wrong.join("\n"), seen.ours);
    let on_frames = seen.linux.iter().filter(|m| m.name.starts_with("/memfd:machvm")).count();
    assert!(on_frames >= 3, "only {on_frames} mappings of our memory");
}

#[test]
fn memory_had_in_every_way_is_in_our_map() {
    for (name, flags) in [
        ("everyway", &["-ldl"][..]),
        ("everyway-no-pie", &["-no-pie", "-ldl"]),
        ("everyway-static", &["-static"]),
    ] {
        let program = build("everyway.c", name, flags);
        let seen = at_rest(&[program.to_str().unwrap()], "");
        assert_ours(&seen);
        assert!(seen.out.len() > 35, "{:?}", seen.out);
        for line in &seen.out {
            let mut words = line.split(' ');
            let (kind, at) = (words.next().unwrap(), hex(words.next().unwrap()).unwrap());
            let entry = seen.ours.iter().find(|e| e.start <= at && at < e.end);
            let entry = entry.unwrap_or_else(|| panic!("{name}: not in our map: {line}\n{:#x?}", seen.ours));
            assert!(kind == "any" || entry.kind == kind, "{name}: {line}: {entry:x?}");
            assert!(["ours", "foreign"].contains(&entry.kind.as_str()), "{name}: {line}: {entry:x?}");
        }
    }
}

#[test]
fn a_program_of_three_kinds_of_mapping_it_did_not_ask_for_is_told_apart() {
    // The comparison itself must be able to fail.
    let linux = |start, end, prot: &str, shared, name: &str| Linux {
        start,
        end,
        prot: prot.into(),
        shared,
        name: name.into(),
    };
    let ours =
        |kind: &str| vec![Entry { start: 0x40_0000, end: 0x40_2000, prot: "rw-".into(), kind: kind.into() }];
    let frames = "/memfd:machvm (deleted)";
    let check = |map, ours| differences(&Seen { linux: vec![map], ours, out: Vec::new() });
    assert!(check(linux(0x40_0000, 0x40_2000, "rw-", true, frames), ours("ours")).is_empty());
    for (map, ours) in [
        (linux(0x40_0000, 0x40_2000, "rw-", false, ""), ours("ours")),
        (linux(0x40_0000, 0x40_2000, "rw-", false, "/lib/x"), ours("foreign")),
        (linux(0x40_0000, 0x40_2000, "r--", true, frames), ours("ours")),
        (linux(0x40_0000, 0x40_3000, "rw-", true, frames), ours("ours")),
        (linux(0x50_0000, 0x50_3000, "rw-", false, ""), ours("ours")),
        (linux(0x7f00_0000_0000, 0x7f00_0000_1000, "rw-", true, frames), ours("ours")),
        (linux(0x40_0000, 0x40_1000, "rw-", true, frames), ours("guard")),
        (linux(0x40_0000, 0x40_1000, "rw-", true, "/x"), ours("foreign")),
    ] {
        assert!(!check(map.clone(), ours).is_empty(), "{map:x?}");
    }
}

#[test]
fn pythons_map_is_ours() {
    let program = "import sqlite3,threading,mmap,time,ctypes,json,decimal\n\
         a=bytearray(32<<20)\n\
         m=mmap.mmap(-1,1<<20,flags=mmap.MAP_PRIVATE|mmap.MAP_ANONYMOUS)\n\
         m[:]=b'x'*(1<<20)\n\
         [threading.Thread(target=time.sleep,args=(1000,),daemon=True).start() for _ in range(4)]\n\
         c=sqlite3.connect(':memory:');c.execute('create table t(a)')\n\
         c.executemany('insert into t values(?)',((str(i)*20,) for i in range(20000)))\n\
         print('ready',flush=True)\n\
         time.sleep(1000)\n";
    assert_ours(&at_rest(&["/usr/bin/python3", "-c", program], ""));
}

#[test]
fn nodes_map_is_ours() {
    let program = "let s=0;function f(x){return (x*31+7)|0}\n\
         for(let i=0;i<3e6;i++)s=f(s+i);\n\
         const keep=[];for(let i=0;i<200000;i++)keep.push({i,t:'x'+i});\n\
         const big=Buffer.alloc(16<<20,1);\n\
         setTimeout(()=>console.log(big.length+keep.length),1e6);\n\
         console.log(s);console.log('ready');\n";
    assert_ours(&at_rest(&["/usr/bin/node", "-e", program], ""));
}

#[test]
fn sqlites_map_is_ours() {
    let input = "create table t(a,b);with recursive n(i) as (select 1 union all select i+1 from n where i<50000) \
         insert into t select i,hex(randomblob(40)) from n;select count(*) from t;\n.print ready\n";
    assert_ours(&at_rest(&["/usr/bin/sqlite3", "-interactive", ":memory:"], input));
}

#[test]
fn busyboxs_map_is_ours() {
    let input = "i=0; while [ $i -lt 200 ]; do x=\"$x $i\"; i=$((i+1)); done; echo $x | wc -c; echo ready\n";
    assert_ours(&at_rest(&["/bin/busybox", "sh"], input));
}
