//! Every mapping of a page.

use machvm_hal::Prot;
use machvm_hal::pmap9::{Pmap9, PmapFlags, PmapMachine};

use super::{
    Fixture, Own, PmapOf, RX, Touch, end, enter, kernel, loads, may, new, pages, raw, stores, touch, wire,
};

type Three<F> = (Own<PmapOf<F>>, Own<PmapOf<F>>);

/// Page 0 at two addresses of one pmap and one of another, used through all on all CPUs.
fn three<F: Fixture>(f: &F, prot: Prot) -> Three<F> {
    let (a, b) = (new(f), new(f));
    enter::<F>(&a, f.at(0, 0), f.page(0), prot, Prot::R);
    enter::<F>(&a, f.at(1, 0), f.page(0), prot, Prot::R);
    wire::<F>(&b, f.at(0, 0), f.page(0), prot);
    let what = if prot.contains(Prot::W) { Touch::Store(6) } else { Touch::Load };
    for cpu in 0..f.facts().cpus {
        assert!(touch(f, cpu, &a, f.at(0, 0), what).is_some());
        assert!(touch(f, cpu, &a, f.at(1, 0), what).is_some());
    }
    assert!(touch(f, f.facts().cpus - 1, &b, f.at(0, 0), what).is_some());
    (a, b)
}
fn end_three<F: Fixture>(f: &F, (a, b): Three<F>) {
    end(f, a, &[pages(f.at(0, 0), 1), pages(f.at(1, 0), 1)]);
    end(f, b, &[pages(f.at(0, 0), 1)]);
}
/// May each of the three mappings store, on every CPU, without help?
fn any_store<F: Fixture>(f: &F, (a, b): &Three<F>) -> bool {
    (0..f.facts().cpus).any(|cpu| {
        [(a, f.at(0, 0)), (a, f.at(1, 0)), (b, f.at(0, 0))]
            .into_iter()
            .any(|(pm, va)| f.run(cpu, pm, raw(va), Touch::Store(9)).is_some())
    })
}

/// In every pmap, wired ones too, at once; its use is kept.
pub fn pm16_every_mapping_of_a_page_goes<F: Fixture>(f: &F) {
    let m = f.machine();
    let both = three(f, Prot::RW);
    enter::<F>(&both.0, f.at(0, 1), f.page(1), Prot::RW, Prot::R);
    m.remove_page_mappings(f.page(0), &mut may());
    assert!(!any_store(f, &both) && !loads(f, &both.0, f.at(1, 0)) && !loads(f, &both.1, f.at(0, 0)));
    assert!(!m.pmap_page_is_mapped(f.page(0)));
    assert_eq!((both.0.pmap_resident_count(), both.1.pmap_resident_count()), (1, 0));
    assert_eq!(both.1.pmap_wired_count(), 0);
    assert!(m.pmap_is_modified(f.page(0)) && m.pmap_is_referenced(f.page(0)));
    assert!(loads(f, &both.0, f.at(0, 1)));
    m.remove_page_mappings(f.page(0), &mut may());
    m.remove_page_mappings(f.page(1), &mut may());
    end_three(f, both);
}

/// The owner of an unmanaged mapping must know.
pub fn z137_unmanaged_mappings_stay<F: Fixture>(f: &F) {
    let m = f.machine();
    let (page, va) = (f.page(0), f.kernel(1));
    m.pmap_kenter_pa(va, page.into(), Prot::RW, PmapFlags::empty());
    assert!(kernel(f, 0, raw(va), Touch::Store(3)).is_some());
    assert!(!m.pmap_page_is_mapped(page) && !m.pmap_page_is_write_mapped(page));
    assert_eq!(m.pmap_page_wired_mappings(page), 0);
    assert!(!m.pmap_is_modified(page) && !m.pmap_is_referenced(page));
    m.remove_page_mappings(page, &mut may());
    m.pmap_page_protect(page, Prot::NONE, &mut may());
    m.pmap_remove_write(page, &mut may());
    assert!(kernel(f, 0, raw(va), Touch::Store(4)).is_some());
    assert_eq!(f.peek(page, 0), 4);
    m.pmap_kremove(pages(va, 1));
    m.pmap_kernel().pmap_update(&mut may());
}

/// None: nothing left. Read, or read and execute: no writing. All: nothing happens.
pub fn pm20_page_protect_takes_from_all<F: Fixture>(f: &F) {
    let m = f.machine();
    let both = three(f, Prot::RW);
    m.pmap_page_protect(f.page(0), Prot::ALL, &mut may());
    assert!(any_store(f, &both));
    m.pmap_page_protect(f.page(0), RX, &mut may());
    assert!(!any_store(f, &both) && loads(f, &both.0, f.at(1, 0)));
    assert!(m.pmap_is_modified(f.page(0)));
    m.pmap_page_protect(f.page(0), Prot::R, &mut may());
    assert_eq!(both.0.pmap_resident_count(), 2);
    m.pmap_page_protect(f.page(0), Prot::NONE, &mut may());
    assert_eq!((both.0.pmap_resident_count(), both.1.pmap_resident_count()), (0, 0));
    assert!(!loads(f, &both.1, f.at(0, 0)) && m.pmap_is_modified(f.page(0)));
    end_three(f, both);
}

/// At once on every CPU; what was written is known, reading goes on.
pub fn pm21_remove_write_takes_from_all<F: Fixture>(f: &F) {
    let m = f.machine();
    let both = three(f, Prot::RW);
    assert!(m.pmap_page_is_write_mapped(f.page(0)));
    m.pmap_remove_write(f.page(0), &mut may());
    assert!(!any_store(f, &both) && !stores(f, &both.0, f.at(0, 0)));
    assert!(!m.pmap_page_is_write_mapped(f.page(0)) && m.pmap_is_modified(f.page(0)));
    assert!(loads(f, &both.0, f.at(0, 0)) && loads(f, &both.1, f.at(0, 0)));
    assert_eq!(both.1.pmap_wired_count(), 1);
    m.pmap_clear_modify(f.page(0), &mut may());
    // Nobody can write, so it stays clean.
    assert!(!any_store(f, &both) && !m.pmap_is_modified(f.page(0)));
    end_three(f, both);
}

/// Before any write no; after one through any mapping, on any CPU, yes.
pub fn pm23_modified_is_exact<F: Fixture>(f: &F) {
    let m = f.machine();
    for cpu in 0..f.facts().cpus {
        for alias in 0..2 {
            let pm = new(f);
            (0..2).for_each(|k| enter::<F>(&pm, f.at(k, 0), f.page(0), Prot::RW, Prot::R));
            (0..2).for_each(|k| assert!(touch(f, cpu, &pm, f.at(k, 0), Touch::Load).is_some()));
            assert!(!m.pmap_is_modified(f.page(0)));
            assert!(touch(f, cpu, &pm, f.at(alias, 0), Touch::Store(1)).is_some());
            assert!(m.pmap_is_modified(f.page(0)), "a store on CPU {cpu} through alias {alias}");
            assert!(!m.pmap_is_modified(f.page(1)));
            end(f, pm, &[pages(f.at(0, 0), 1), pages(f.at(1, 0), 1)]);
            assert!(m.pmap_clear_modify(f.page(0), &mut may()));
        }
    }
}

/// And the CPU that remembers the page as written notes the next write again.
pub fn pm24_clear_modify_gives_the_old_and_sees_the_next<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    enter::<F>(&pm, f.at(0, 0), f.page(0), Prot::RW, Prot::R);
    assert!(!m.pmap_clear_modify(f.page(0), &mut may()));
    for _ in 0..8 {
        for cpu in 0..f.facts().cpus {
            assert!(touch(f, cpu, &pm, f.at(0, 0), Touch::Store(8)).is_some());
            assert!(m.pmap_is_modified(f.page(0)), "CPU {cpu} wrote and nobody noted it");
            assert!(m.pmap_clear_modify(f.page(0), &mut may()));
            assert!(!m.pmap_clear_modify(f.page(0), &mut may()));
            assert!(!m.pmap_is_modified(f.page(0)));
        }
    }
    // The mapping is as it was.
    assert!(stores(f, &pm, f.at(0, 0)));
    end(f, pm, &[pages(f.at(0, 0), 1)]);
}

/// The same for use.
pub fn pm25_clear_reference_gives_the_old_and_sees_the_next<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    enter::<F>(&pm, f.at(0, 0), f.page(0), Prot::R, Prot::R);
    for _ in 0..8 {
        for cpu in 0..f.facts().cpus {
            assert!(touch(f, cpu, &pm, f.at(0, 0), Touch::Load).is_some());
            assert!(m.pmap_is_referenced(f.page(0)), "CPU {cpu} read and nobody noted it");
            assert!(m.pmap_clear_reference(f.page(0), &mut may()));
        }
    }
    // Clearing one leaves the other.
    pm.pmap_remove(pages(f.at(0, 0), 1));
    enter::<F>(&pm, f.at(0, 1), f.page(1), Prot::RW, Prot::W);
    assert!(stores(f, &pm, f.at(0, 1)));
    assert!(m.pmap_clear_reference(f.page(1), &mut may()) && m.pmap_is_modified(f.page(1)));
    end(f, pm, &[pages(f.at(0, 0), 2)]);
}

/// Heuristics that are right here: few mappings, nobody changes them.
pub fn pm46_questions_about_a_page<F: Fixture>(f: &F) {
    let m = f.machine();
    assert!(!m.pmap_page_is_mapped(f.page(0)) && !m.pmap_page_is_write_mapped(f.page(0)));
    let both = three(f, Prot::RW);
    assert!(m.pmap_page_is_mapped(f.page(0)) && m.pmap_page_is_write_mapped(f.page(0)));
    assert_eq!(m.pmap_page_wired_mappings(f.page(0)), 1);
    assert!(both.0.pmap_page_exists_quick(f.page(0)) && both.1.pmap_page_exists_quick(f.page(0)));
    assert!(!both.0.pmap_page_exists_quick(f.page(1)));
    both.1.pmap_unwire(pages(f.at(0, 0), 1));
    assert_eq!(m.pmap_page_wired_mappings(f.page(0)), 0);
    both.1.pmap_remove(pages(f.at(0, 0), 1));
    both.1.pmap_update(&mut may());
    assert!(!both.1.pmap_page_exists_quick(f.page(0)) && both.0.pmap_page_exists_quick(f.page(0)));
    let other = new(f);
    enter::<F>(&other, f.at(0, 2), f.page(2), Prot::R, Prot::R);
    assert!(m.pmap_page_is_mapped(f.page(2)) && !m.pmap_page_is_write_mapped(f.page(2)));
    end(f, other, &[pages(f.at(0, 2), 1)]);
    end_three(f, both);
    assert!(!m.pmap_page_is_mapped(f.page(0)));
}
