//! Instructions of the page-table pmap. `cargo xtask bench pmap` runs this and prints
//! the table; by itself (`cargo bench -p machvm-bench --bench pmap`) it compares with
//! its own last run.
#![expect(missing_docs, reason = "gungraun's macros")]

use gungraun::prelude::*;
use machvm_bench::pmap::{Op, Scene, Size, op};

/// Boxed: moving it would be counted, and how depends on the C library and the CPU.
fn ready(id: &str) -> (&'static Op, Box<Scene>) {
    let op = op(id);
    (op, Box::new((op.setup)(Size::Full)))
}

#[library_benchmark(setup = ready)]
#[bench::enter("enter")]
#[bench::enter_again("enter_again")]
#[bench::enter_16("enter_16")]
#[bench::enter_512("enter_512")]
#[bench::enter_object("enter_object")]
#[bench::remove_512("remove_512")]
#[bench::remove_flush("remove_flush")]
#[bench::protect_512("protect_512")]
#[bench::fork_pages("fork_pages")]
#[bench::fork_superpages("fork_superpages")]
#[bench::fork_fault("fork_fault")]
#[bench::promote("promote")]
#[bench::demote("demote")]
#[bench::page_protect("page_protect")]
#[bench::page_remove("page_remove")]
#[bench::page_refmod("page_refmod")]
#[bench::extract("extract")]
#[bench::activate("activate")]
fn pmap((op, mut scene): (&Op, Box<Scene>)) -> Box<Scene> {
    for n in 0..op.times {
        (op.run)(&mut scene, n);
    }
    scene
}

library_benchmark_group!(name = operations, benchmarks = [pmap]);
main!(library_benchmark_groups = [operations]);
