//! The conformance suite of `pmap(9)`: what the manuals demand, for any implementation of
//! [`machvm_hal::pmap9`].
//!
//! A [`Fixture`] is a machine with pages and programs on it. Each test is a function of
//! one, named after the row of the interface inventory that it checks; the macro
//! [`pmap9_conformance`](crate::pmap9_conformance) makes a test of each. What a machine
//! cannot do ([`Facts`]) is left out of the tests, not of the list.
//!
//! The tests themselves (`rows`) use no standard library, so that a kernel can run them on a real MMU.

mod hw;
mod rows;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use hw::{HwFixture, HwPages, HwPhys};
pub use rows::*;

/// What a call that must panic says.
pub(crate) fn panics(f: impl FnOnce()) -> String {
    let e = catch_unwind(AssertUnwindSafe(f)).expect_err("did not panic");
    let text = e.downcast_ref::<String>().cloned();
    text.or_else(|| e.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}

/// Says which machine a test failed on.
#[derive(Debug)]
pub struct Round(pub u64);

impl Drop for Round {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("machine {}", self.0);
        }
    }
}

/// Makes a test of every function of the suite. `$make` gives the `i`-th [`Fixture`], a
/// fresh one each, of `$times`.
#[macro_export]
macro_rules! pmap9_conformance {
    ($times:expr, $make:expr) => {
        $crate::pmap9_conformance! { @ $times, $make;
            pm01_init_twice_changes_nothing
            pm05_a_new_pmap_is_empty
            pm05_create_fails_without_memory_and_leaves_nothing
            pm07_a_reference_keeps_the_pmap
            pm08_destroy_waits_for_what_was_deferred
            z135_destroy_with_mappings_is_refused
            pm10_the_kernel_pmap_is_one
            pm11_enter_gives_the_rights_and_no_more
            pm11_the_same_page_changes_rights_and_wiring
            z133_another_page_takes_the_place
            pm11_the_access_that_caused_it_is_noted
            z132_wired_mappings_never_fault
            pm11_canfail_says_what_was_short
            z134_a_failed_enter_is_never_half_done
            z134_whatever_fails_page_and_table_agree
            pm11_without_canfail_it_panics_and_names_everything
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
            z130_a_missing_update_shows
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
            z136_kremove_of_a_managed_mapping
            pm34_qenter_and_qremove
            pm36_quick_enter_reaches_the_page
            z138_quick_enter_does_not_nest
            pm37_quick_remove_is_a_drop
            pm38_zero_page_and_area
            pm39_copy_page_and_pages
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
        }
    };
    (@ $times:expr, $make:expr; $($name:ident)*) => {$(
        #[test]
        fn $name() {
            for i in 0..$times {
                let _round = $crate::conformance::Round(i);
                let fixture = $make(i);
                $crate::conformance::$name(&fixture);
                $crate::conformance::Fixture::finish(&fixture);
            }
        }
    )*};
}

/// The same for what has a meaning only where a kernel boots.
#[macro_export]
macro_rules! pmap9_bootstrap_conformance {
    ($times:expr, $make:expr) => {
        $crate::pmap9_conformance! { @ $times, $make;
            pm02_virtual_space_is_the_kernels
            pm03_stolen_memory_is_zero_and_nobody_elses
            z149_nothing_is_stolen_after_init
            pm04_growkernel_only_grows
            z148_every_pmap_sees_what_grew
        }
    };
}
