//! Plays bytes as calls, and compares codes, regions and contents.

use machvm_capi::calls::allocate::{mach_vm_allocate, mach_vm_deallocate};
use machvm_capi::calls::behavior::mach_vm_behavior_set;
use machvm_capi::calls::copy::mach_vm_copy;
use machvm_capi::calls::entries::mach_make_memory_entry_64;
use machvm_capi::calls::inherit::mach_vm_inherit;
use machvm_capi::calls::map::mach_vm_map;
use machvm_capi::calls::names::mach_port_deallocate;
use machvm_capi::calls::protect::mach_vm_protect;
use machvm_capi::calls::read::{mach_vm_read, mach_vm_read_overwrite};
use machvm_capi::calls::region::mach_vm_region;
use machvm_capi::calls::remap::mach_vm_remap;
use machvm_capi::calls::tasks::{task_create, task_terminate};
use machvm_capi::calls::wire::mach_vm_wire;
use machvm_capi::calls::write::mach_vm_write;

use crate::model::{P, Space};

const SELF: u32 = 0x203;
const PRIVILEGED: u32 = 0x403;
/// Pages that calls are about.
const PAGES: usize = 48;
/// Where they are, in every task.
const AREA: u64 = (1 << 32) + (8 << 30);
const FIXED_OVERWRITE: i32 = 0x4000;

/// Bytes to be used up; zeroes when they are.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first)
    }
    /// A range of pages.
    fn pages(&mut self) -> (usize, usize) {
        let first = self.byte() % PAGES;
        (first, 1 + self.byte() % 9.min(PAGES - first))
    }
    /// A range of bytes, as often as not aligned.
    fn bytes(&mut self) -> (usize, usize) {
        let (first, n) = self.pages();
        let (how, a, b) = (self.byte(), self.byte() * 16, self.byte() * 16);
        match how % 4 {
            0 => (first * P, n * P),
            1 => (first * P + a, (b + 1).min(n * P - a)),
            _ => (first * P + a, (n * P - a).saturating_sub(b).max(1)),
        }
    }
}

/// A task and what it should be.
struct Task {
    name: u32,
    space: Space,
}

fn place(at: usize) -> u64 {
    AREA + at as u64
}

/// A value for a byte that tells where it came from.
fn pattern(stamp: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(7) ^ (i >> 8) ^ stamp) as u8).collect()
}

fn expect(what: &str, got: i32, codes: &[i32]) -> Result<bool, String> {
    if codes.contains(&got) {
        Ok(got == 0)
    } else {
        Err(format!("{what} gives {got:#x}, not one of {codes:?}"))
    }
}

/// Plays `input` in this process's task and a child of it.
///
/// # Errors
/// What differed, in words.
pub(crate) fn play(input: &[u8]) -> Result<(), String> {
    let mut game = Game::new();
    let mut input = Input(input);
    let mut step = 0;
    let mut result = Ok(());
    while !input.0.is_empty() && result.is_ok() {
        step += 1;
        result = game.step(&mut input, step).map_err(|why| format!("step {step}: {why}"));
        if result.is_ok() && (step % 16 == 0 || input.0.is_empty()) {
            result = game.compare().map_err(|why| format!("after step {step}: {why}"));
        }
    }
    game.end();
    result
}

struct Game {
    tasks: [Task; 2],
}

impl Game {
    fn new() -> Game {
        let child = child();
        Game {
            tasks: [(SELF, Space::default()), (child, Space::default())]
                .map(|(name, space)| Task { name, space }),
        }
    }

    fn end(self) {
        mach_vm_deallocate(SELF, AREA, (PAGES * P) as u64);
        end(self.tasks[1].name);
    }

    fn step(&mut self, input: &mut Input<'_>, stamp: usize) -> Result<(), String> {
        let (op, which) = (input.byte(), input.byte());
        let (me, other) = (which & 1, which >> 1 & 1);
        match op % 16 {
            0 | 1 => self.allocate(me, input),
            2 => self.deallocate(me, input),
            3 => self.protect(me, input),
            4 => {
                let ((first, n), how) = (input.pages(), (input.byte() % 3) as u32);
                self.tasks[me].space.inherit(first, n, how);
                let code = mach_vm_inherit(self.tasks[me].name, place(first * P), (n * P) as u64, how);
                expect("inherit", code, &[0]).map(drop)
            }
            5 | 6 => self.write(me, input, stamp),
            7 => self.read(me, input),
            8 => self.read_region(me, input),
            9 | 10 => self.copy(me, input),
            11 | 12 => self.remap(me, other, input),
            13 => self.entry(me, other, input),
            14 => self.fork(),
            _ => self.touch(me, input, stamp),
        }
    }

    fn allocate(&mut self, me: usize, input: &mut Input<'_>) -> Result<(), String> {
        let ((first, n), over) = (input.pages(), input.byte() & 1 != 0);
        let t = &mut self.tasks[me];
        let want = if over || t.space.is_free(first, n) { 0 } else { 3 };
        let mut at = place(first * P);
        // SAFETY: a variable of ours; pointers into the area are used by this thread only.
        let code = unsafe {
            mach_vm_allocate(t.name, &raw mut at, (n * P) as u64, if over { FIXED_OVERWRITE } else { 0 })
        };
        if expect("allocate", code, &[want])? {
            t.space.allocate(first, n);
        }
        Ok(())
    }

    fn deallocate(&mut self, me: usize, input: &mut Input<'_>) -> Result<(), String> {
        let (first, n) = input.pages();
        let t = &mut self.tasks[me];
        t.space.deallocate(first, n);
        expect("deallocate", mach_vm_deallocate(t.name, place(first * P), (n * P) as u64), &[0]).map(drop)
    }

    fn protect(&mut self, me: usize, input: &mut Input<'_>) -> Result<(), String> {
        let ((first, n), bits) = (input.pages(), input.byte());
        // Mostly readable and writable, or soon nothing is.
        let prot = [3, 3, 1, 3, 0, 3, 7, 2][bits & 7];
        let set_max = bits & 0xf0 == 0xf0;
        let t = &mut self.tasks[me];
        let codes = t.space.protect(first, n, set_max, prot);
        let code = mach_vm_protect(t.name, place(first * P), (n * P) as u64, set_max.into(), prot);
        expect("protect", code, &codes).map(drop)
    }

    fn write(&mut self, me: usize, input: &mut Input<'_>, stamp: usize) -> Result<(), String> {
        let (at, len) = input.bytes();
        let (t, data) = (&self.tasks[me], pattern(stamp, len));
        let codes = t.space.access(at, len, 2, len < 2 * P);
        let code = mach_vm_write(t.name, place(at), data.as_ptr().expose_provenance(), len as u32);
        if expect("write", code, &codes)? {
            t.space.write(at, &data);
        }
        Ok(())
    }

    fn read(&mut self, me: usize, input: &mut Input<'_>) -> Result<(), String> {
        let (at, len) = input.bytes();
        let t = &self.tasks[me];
        let (mut buffer, mut got) = (vec![0xee; len], 0);
        let to = buffer.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: a variable of ours.
        let code = unsafe { mach_vm_read_overwrite(t.name, place(at), len as u64, to, &raw mut got) };
        if expect("read_overwrite", code, &t.space.access(at, len, 1, len < 2 * P))?
            && buffer != t.space.read(at, len)
        {
            return Err(format!("{len} bytes at {at:#x} of task {me} read as something else"));
        }
        Ok(())
    }

    fn read_region(&mut self, me: usize, input: &mut Input<'_>) -> Result<(), String> {
        let (at, len) = input.bytes();
        let t = &self.tasks[me];
        let (mut data, mut count) = (0, 0);
        // SAFETY: variables of ours.
        let code = unsafe { mach_vm_read(t.name, place(at), len as u64, &raw mut data, &raw mut count) };
        if !expect("read", code, &t.space.access(at, len, 1, len < 2 * P))? {
            return Ok(());
        }
        // SAFETY: fresh memory of so many bytes.
        let got = unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(data), len) };
        let right = count as usize == len && got == t.space.read(at, len);
        mach_vm_deallocate(SELF, data as u64, len as u64);
        if right { Ok(()) } else { Err(format!("vm_read of {len} bytes at {at:#x} of task {me}")) }
    }

    fn copy(&mut self, me: usize, input: &mut Input<'_>) -> Result<(), String> {
        let ((from, len), (to, _)) = (input.bytes(), input.bytes());
        let len = len.min(PAGES * P - to);
        let t = &self.tasks[me];
        let mut codes = t.space.access(from, len, 1, len < 2 * P);
        if codes == [0] {
            codes = t.space.access(to, len, 2, len < 2 * P);
        }
        if expect("copy", mach_vm_copy(t.name, place(from), len as u64, place(to)), &codes)? {
            t.space.write(to, &t.space.read(from, len));
        }
        Ok(())
    }

    fn remap(&mut self, me: usize, other: usize, input: &mut Input<'_>) -> Result<(), String> {
        let ((from, n), to, copied) = (input.pages(), input.byte() % PAGES, input.byte() & 1);
        let n = n.min(PAGES - to);
        let (mut at, mut prot, mut max) = (place(to * P), 0, 0);
        let source = &self.tasks[other];
        // SAFETY: variables of ours; as for allocate.
        let code = unsafe {
            mach_vm_remap(
                self.tasks[me].name,
                &raw mut at,
                (n * P) as u64,
                0,
                FIXED_OVERWRITE,
                source.name,
                place(from * P),
                copied as u32,
                &raw mut prot,
                &raw mut max,
                1,
            )
        };
        let whole = source.space.is_mapped(from, n);
        // Without the right to read there is no copy.
        let codes = if whole { [0, 2] } else { [1, 1] };
        if expect("remap", code, &codes)? {
            let pages = source.space.take(from, n, copied != 0);
            self.tasks[me].space.put(to, pages);
            self.learn(me, to, n)?;
        }
        Ok(())
    }

    /// Memory by way of an entry: shared, or a copy.
    fn entry(&mut self, me: usize, other: usize, input: &mut Input<'_>) -> Result<(), String> {
        const SHARE: i32 = 0x40_0000;
        const COPY: i32 = 0x20_0000;
        let ((from, n), to, copied) = (input.pages(), input.byte() % PAGES, input.byte() & 1 != 0);
        let n = n.min(PAGES - to);
        let source = &self.tasks[other];
        let (mut size, mut entry) = ((n * P) as u64, 0);
        let flags = if copied { COPY | 1 } else { SHARE | 1 };
        // SAFETY: variables of ours.
        let code = unsafe {
            mach_make_memory_entry_64(source.name, &raw mut size, place(from * P), flags, &raw mut entry, 0)
        };
        if !expect("make_memory_entry", code, &source.space.access(from * P, n * P, 1, false))? {
            return Ok(());
        }
        let pages = source.space.take(from, n, copied);
        let mut at = place(to * P);
        // SAFETY: as above.
        let code = unsafe {
            mach_vm_map(self.tasks[me].name, &raw mut at, size, 0, FIXED_OVERWRITE, entry, 0, 0, 1, 1, 1)
        };
        mach_port_deallocate(SELF, entry);
        if size != (n * P) as u64 {
            return Err(format!("an entry of {size:#x} bytes for {n} pages"));
        }
        if expect("map of an entry", code, &[0])? {
            self.tasks[me].space.put(to, pages);
            self.learn(me, to, n)?;
        }
        Ok(())
    }

    fn fork(&mut self) -> Result<(), String> {
        let mut name = 0;
        // SAFETY: a variable of ours.
        let code = unsafe { task_create(SELF, std::ptr::null_mut(), 0, 1, &raw mut name) };
        if expect("task_create", code, &[0])? {
            end(self.tasks[1].name);
            self.tasks[1] = Task { name, space: self.tasks[0].space.fork() };
        }
        Ok(())
    }

    /// Stores of this process's own, wirings, and advice that changes nothing.
    fn touch(&mut self, me: usize, input: &mut Input<'_>, stamp: usize) -> Result<(), String> {
        let ((first, n), how) = (input.pages(), input.byte());
        let t = &self.tasks[me];
        if how & 3 == 0 && t.space.is_mapped(first, n) {
            mach_vm_wire(PRIVILEGED, t.name, place(first * P), (n * P) as u64, 1);
            mach_vm_wire(PRIVILEGED, t.name, place(first * P), (n * P) as u64, 0);
        } else if how & 3 == 1 {
            // DEFAULT, RANDOM, SEQUENTIAL, WILLNEED.
            mach_vm_behavior_set(t.name, place(first * P), (n * P) as u64, [0, 1, 2, 4][how >> 2 & 3]);
        } else if t.name == SELF {
            for (i, page) in t.space.0.range(first..first + n) {
                if page.prot & 3 == 3 {
                    let at = i * P + stamp % P;
                    // SAFETY: memory of the library that may be written.
                    unsafe {
                        std::ptr::with_exposed_provenance_mut::<u8>(place(at) as usize)
                            .write_volatile(stamp as u8)
                    };
                    page.cell.borrow_mut()[stamp % P] = stamp as u8;
                }
            }
        }
        Ok(())
    }

    /// The rights of mappings that were made from others are the library's to say.
    fn learn(&mut self, me: usize, first: usize, n: usize) -> Result<(), String> {
        for i in first..first + n {
            let found =
                region(self.tasks[me].name, i).ok_or(format!("page {i} of task {me} is not mapped"))?;
            let page = self.tasks[me].space.0.get_mut(&i).ok_or("a page that was just put there is gone")?;
            (page.prot, page.max, page.inherit) = found;
        }
        Ok(())
    }

    fn compare(&self) -> Result<(), String> {
        for (me, t) in self.tasks.iter().enumerate() {
            for i in 0..PAGES {
                let want = t.space.0.get(&i).map(|p| (p.prot, p.max, p.inherit));
                let got = region(t.name, i);
                if want != got {
                    return Err(format!("page {i} of task {me} is {got:?}, should be {want:?}"));
                }
                let Some(page) = t.space.0.get(&i).filter(|p| p.prot & 1 != 0) else { continue };
                let (mut buffer, mut count) = (vec![0; P], 0);
                let to = buffer.as_mut_ptr().expose_provenance() as u64;
                // SAFETY: a variable of ours.
                let code =
                    unsafe { mach_vm_read_overwrite(t.name, place(i * P), P as u64, to, &raw mut count) };
                expect("read of a readable page", code, &[0])?;
                let differs = buffer.iter().zip(page.cell.borrow().iter()).position(|(a, b)| a != b);
                if let Some(at) = differs {
                    let (is, should) = (buffer[at], page.cell.borrow()[at]);
                    return Err(format!(
                        "page {i} of task {me} has {is:#x} at {at:#x}, should have {should:#x}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Protection, maximum and inheritance of a page.
fn region(task: u32, page: usize) -> Option<(i32, i32, u32)> {
    let (mut at, mut size, mut info, mut count, mut name) = (place(page * P), 0, [0i32; 9], 9, 0);
    // SAFETY: variables of ours.
    let code = unsafe {
        mach_vm_region(task, &raw mut at, &raw mut size, 9, info.as_mut_ptr(), &raw mut count, &raw mut name)
    };
    (code == 0 && at <= place(page * P)).then_some((info[0], info[1], info[2].cast_unsigned()))
}

fn child() -> u32 {
    let mut name = 0;
    // SAFETY: a variable of ours.
    let code = unsafe { task_create(SELF, std::ptr::null_mut(), 0, 0, &raw mut name) };
    assert_eq!(code, 0, "task_create");
    name
}

fn end(name: u32) {
    task_terminate(name);
    mach_port_deallocate(SELF, name);
}
