//! Fail at k: from random states, each operation is tried with its k-th request for
//! memory, number space or a region refused, for k from zero until it gets by with
//! none refused. Every failure must leave everything as it was.

use super::std;
use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::super::{Advise, Backing, Holes, Kind, Limits, Map, Place, Wiring};
use super::oracle::{Op, What, Where, ops, place};
use super::world::World;
use super::{Cell, cells, check, check_empty, map, may, peek, poke, range, sketch, va, vm};
use machvm_hal::{Pfn, Prot};

/// No operation of these tests makes this many requests.
const MOST: i64 = 400;

#[derive(PartialEq, Debug)]
pub(crate) struct State {
    cells: BTreeMap<u64, Cell>,
    regions: Vec<((u64, u64), (Pfn, Prot))>,
    entries: usize,
    objects: u64,
    pub(crate) values: BTreeMap<u64, u64>,
}

pub(crate) fn state(m: &Map<'_, World>) -> State {
    check(m);
    let cells = cells(m);
    let readable = |c: &Cell| c.kind == Kind::Object && !c.a.prot.is_empty();
    let regions = m.vm.plat.machine().regions.iter().map(|(k, r)| (*k, *r)).collect();
    State {
        regions,
        entries: super::infos(m).len(),
        objects: m.vm.live()[4],
        values: cells.iter().filter(|(_, c)| readable(c)).map(|(p, _)| (*p, peek(m, *p))).collect(),
        cells,
    }
}

/// Carries the operation out. `false`: it failed.
pub(super) fn exec(m: &Map<'_, World>, op: &Op) -> bool {
    let at = |w: Where| match place(m, w) {
        // A stack removes what is there before it can fail, and says so.
        Place::Over(va) => Place::At(va),
        other => other,
    };
    match op.clone() {
        Op::Find(w, n, what, a) => {
            let guard = matches!(what, What::Guard);
            let backing = if guard { Backing::Guard } else { Backing::Anonymous };
            m.find(place(m, w), n, backing, &a, &mut may()).is_ok()
        }
        Op::Delete(s, n) => m.delete(range(s, s + n), &mut may()).is_ok(),
        Op::Protect(s, n, set) => m.protect(range(s, s + n), &set, &mut may()).is_ok(),
        Op::Inherit(s, n, i) => m.inherit(range(s, s + n), i, &mut may()).is_ok(),
        Op::Advise(s, n, a) => m.madvise(range(s, s + n), a, &mut may()).is_ok(),
        Op::Stack(w, shape, a) => m.stack(at(w), shape, &a, &mut may()).is_ok(),
        Op::Grow(p) => m.growstack(va(p), &mut may()).is_ok(),
        Op::Fork(_) => m.fork(m.vm.plat.pmap(), &mut may()).is_ok(),
        Op::Move(s, n, d, leave) => m.move_range(range(s, s + n), va(d), leave, &mut may()).is_ok(),
        Op::Extend(end, n) => m.extend(va(end), n, &mut may()).is_ok(),
        Op::Copy(s, n, d) => m.copy_range(range(s, s + n), m, va(d), &mut may()).is_ok(),
        Op::Wire(s, n, true) => m.wire(range(s, s + n), Wiring::User, Holes::Skip, &mut may()).is_ok(),
        Op::Wire(s, n, false) => m.unwire(range(s, s + n), Wiring::User, Holes::Skip, &mut may()).is_ok(),
        Op::Write(..) | Op::Read(_) => true,
        Op::Simplify(p) => {
            m.simplify(va(p), &mut may());
            true
        }
    }
}

fn run(ops: &[Op]) -> usize {
    let vm = vm();
    let m = map(&vm);
    m.set_limits(Limits { stack_step: 2 << 12, ..Limits::default() }, &mut may());
    let mut refusals = 0;
    for op in ops {
        if let Op::Write(p, v) = *op {
            if cells(&m).get(&p).is_some_and(|c| c.kind == Kind::Object && c.a.prot.contains(Prot::W)) {
                poke(&m, p, v);
            }
            continue;
        }
        let mut before = state(&m);
        for k in 0.. {
            assert!(k < MOST, "never gets by: {op:?}");
            vm.plat.fuse.set(k);
            let done = exec(&m, op);
            let refused = vm.plat.fuse.blown();
            vm.plat.fuse.set(-2);
            if !refused || done {
                break;
            }
            refusals += 1;
            let mut after = state(&m);
            if matches!(op, Op::Advise(_, _, Advise::DontNeed | Advise::Free)) {
                // Parts below the failure are dropped, as documented.
                before.values.clear();
                after.values.clear();
            }
            assert!(before == after, "refusal {k} of {op:?} in {}", sketch(&m));
        }
        check(&m);
    }
    m.clear(&mut may());
    check_empty(&vm);
    refusals
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_refusal_leaves_everything_as_it_was(ops in prop::collection::vec(ops(), 1..40)) {
        run(&ops);
    }
}

/// The test above would pass if nothing were ever refused.
#[test]
fn refusals_happen() {
    let a = super::rw();
    let find = Op::Find(Where::At(20), 10, What::Anon, a);
    // An entry, an object, its extent, its region; then the cut.
    assert_eq!(run(core::slice::from_ref(&find)), 4);
    assert_eq!(run(&[find, Op::Delete(22, 2)]), 6);
}
