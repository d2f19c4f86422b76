//! `selftest` on the command line: instead of running programs the kernel tests itself, on the MMU it runs on.
//!
//! First the conformance suite of `pmap(9)`, row by row, each on a system of pmaps of its own; loads and stores go through
//! the MMU, and what faults is fixed up. Then the core: spaces whose memory is touched the same way. Each test says that
//! it passed; the first that fails panics, which ends the machine with 127. Otherwise it ends with 0.
//!
//! Left out: rows that must panic (nothing unwinds here), and those about execution, shortage and several CPUs.

mod machine;
#[path = "../../../crates/model/src/conformance/rows/mod.rs"]
#[expect(dead_code, unused_imports, unreachable_pub, reason = "not every row runs here")]
mod rows;
mod space;

use alloc::string::String;

use crate::arch;
use machine::Machine;

/// Bytes of early memory that the tests take.
pub(crate) const MEMORY: u64 = machine::FRAMES * machvm_hal::PAGE_SIZE + (2 << 20);

/// Is it asked for?
pub(crate) fn is_wanted(command_line: &str) -> bool {
    command_line.split_ascii_whitespace().take_while(|w| *w != "--").any(|w| w == "selftest")
}

/// Where rows run what must panic: those rows are not in the list.
fn panics(_f: impl FnOnce()) -> String {
    unreachable!("nothing unwinds in the kernel")
}

macro_rules! list {
    ($($name:ident)*) => {
        &[$((stringify!($name), rows::$name::<Machine> as fn(&Machine))),*]
    };
}

/// A row, by its name.
type Row = (&'static str, fn(&Machine));

const ROWS: &[Row] = list![
    pm01_init_twice_changes_nothing
    pm05_a_new_pmap_is_empty
    pm07_a_reference_keeps_the_pmap
    pm08_destroy_waits_for_what_was_deferred
    pm10_the_kernel_pmap_is_one
    pm11_enter_gives_the_rights_and_no_more
    pm11_the_same_page_changes_rights_and_wiring
    z133_another_page_takes_the_place
    pm11_the_access_that_caused_it_is_noted
    z132_wired_mappings_never_fault
    pm11_unmanaged_frames_are_just_mapped
    pm11_psind_maps_a_superpage
    q11_superpage_enter_refuses_what_it_may_not
    q08_part_of_a_superpage_is_demoted
    q12_a_large_mapping_goes_whole
    pm12_enter_quick_never_replaces_and_notes_nothing
    pm13_enter_object_skips_holes
    pm13_enter_object_makes_superpages
    pm14_object_init_pt_maps_device_memory
    pm15_remove_skips_holes_and_takes_wired
    z131_use_survives_the_last_mapping
    z152_a_huge_sparse_range_is_removed_quickly
    pm42_update_makes_every_cpu_obey
    pm16_every_mapping_of_a_page_goes
    z137_unmanaged_mappings_stay
    pm17_the_hint_changes_nothing_that_matters
    pm18_remove_pages_leaves_wired_and_unmanaged
    pm19_protect_only_takes
    pm20_page_protect_takes_from_all
    pm21_remove_write_takes_from_all
    pm22_unwire_counts
    z150_unwire_of_nothing
    pm23_modified_is_exact
    pm24_clear_modify_gives_the_old_and_sees_the_next
    pm25_clear_reference_gives_the_old_and_sees_the_next
    pm26_ts_referenced_is_zero_only_if_none
    pm26_wired_uses_stay
    pm27_advise
    pm28_extract_has_the_offset
    pm29_hold_needs_the_rights
    pm29_a_hold_outlives_the_mapping
    pm30_kextract
    pm31_kenter_maps_at_once
    pm32_kremove_skips_holes
    pm34_qenter_and_qremove
    pm36_quick_enter_reaches_the_page
    pm37_quick_remove_is_a_drop
    pm41_copy_is_advice
    pm43_collect_keeps_wired
    pm44_every_cpu_may_run_it
    pm45_counts_are_exact
    pm46_questions_about_a_page
    pm47_memattr
    pm48_is_prefaultable
    pm49_mincore
    pm50_align_superpage
    pm53_fault_notes_and_refuses
];

/// Runs all, and ends the machine.
///
/// => at the start, before there are programs; `early`: [`MEMORY`] bytes.
pub(crate) fn run(early: u64, command_line: &str) -> ! {
    use rows::Fixture as _;
    crate::say!("machvm: selftest: the MMU notes {:?}", arch::hw_bits());
    for (name, row) in ROWS {
        let machine = Machine::new(early);
        row(&machine);
        machine.leave();
        crate::say!("machvm: selftest {name} ... ok");
    }
    let has_swap = command_line.split_ascii_whitespace().any(|w| w.starts_with("swap="));
    let of_core = space::run(has_swap);
    crate::say!("machvm: selftest: {} rows of pmap(9) and {of_core} tests of the core passed", ROWS.len());
    crate::say!("exit: 0");
    arch::exit(0)
}
