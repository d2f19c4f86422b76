use super::*;

const MIB2: u32 = 21;

fn va(at: u64) -> Va {
    Va::aligned(RawAddr(at)).expect("aligned")
}

#[test]
fn pm50_moves_up_to_the_phase_of_the_offset() {
    let span = 1 << MIB2;
    // Below the phase, above it, and on it.
    assert_eq!(pmap_align_superpage(0x5000, va(0x1000), 4 * span, MIB2), va(0x5000));
    assert_eq!(pmap_align_superpage(0x5000, va(0x6000), 4 * span, MIB2), va(span + 0x5000));
    assert_eq!(pmap_align_superpage(0x5000, va(3 * span + 0x5000), 4 * span, MIB2), va(3 * span + 0x5000));
    assert_eq!(pmap_align_superpage(span, va(0x1000), span, MIB2), va(span));
}

#[test]
fn pm50_leaves_what_holds_no_whole_superpage() {
    let span = 1 << MIB2;
    assert_eq!(pmap_align_superpage(0, va(0x1000), span - 0x1000, MIB2), va(0x1000));
    // The size is enough, but not after the way to the first whole superpage.
    assert_eq!(pmap_align_superpage(0x1000, va(0x7000), span + 0x1000, MIB2), va(0x7000));
    assert_eq!(pmap_align_superpage(0x1000, va(0x7000), 2 * span - 0x1000, MIB2), va(span + 0x1000));
    // The top of the address space.
    let top = va(0u64.wrapping_sub(span));
    assert_eq!(pmap_align_superpage(0, va(top.get() + 0x1000), span, MIB2), va(top.get() + 0x1000));
}

#[test]
fn flags_carry_the_access_and_the_mode() {
    let f = PmapFlags::PMAP_WIRED.accessed_by(Prot::RW);
    assert_eq!((f.access(), f.attr()), (Prot::RW, MemAttr::WriteBack));
    assert_eq!((f | PmapFlags::PMAP_NOCACHE).attr(), MemAttr::Device);
    assert_eq!((f | PmapFlags::PMAP_WRITE_COMBINE).attr(), MemAttr::WriteCombining);
    assert_eq!(f.bits(), 0x13);
}

#[test]
fn z149_a_segment_gives_a_frame_once() {
    let mut s = PhysSegment::new(Pfn(10), Pfn(14));
    assert_eq!(s.take(3), Some(Pfn(10)));
    assert_eq!((s.take(2), s.available()), (None, 1));
    assert_eq!(s.take(1), Some(Pfn(13)));
    assert_eq!(s.take(1), None);
}

#[test]
fn a_physical_address_keeps_the_offset() {
    let pa = PhysAddr::new(Pfn(0x12), RawAddr(0x7fff_f345));
    assert_eq!((pa, pa.pfn()), (PhysAddr(0x12345), Pfn(0x12)));
}
