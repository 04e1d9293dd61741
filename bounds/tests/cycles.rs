//! The timing models against Arm's tables: encodings are those of GNU as for the text beside them.

use tendon_bounds::cycles::{CortexM4, CortexM7, Kind, Operation, operation};

const ADDS: (u16, u16) = (0x1888, 0); // adds r0, r1, r2
const LDR: (u16, u16) = (0x6808, 0); // ldr r0, [r1]
const VLDR: (u16, u16) = (0xed91, 0x0a00); // vldr s0, [r1]
const VMUL: (u16, u16) = (0xee20, 0x0a81); // vmul.f32 s0, s1, s2
const VADD: (u16, u16) = (0xee70, 0x1a20); // vadd.f32 s3, s0, s1
const VFMA: (u16, u16) = (0xeea0, 0x0a81); // vfma.f32 s0, s1, s2
const VDIV: (u16, u16) = (0xee80, 0x0a81); // vdiv.f32 s0, s1, s2
const BNE: (u16, u16) = (0xd1fe, 0); // bne .

fn decode((first, second): (u16, u16)) -> Operation {
    operation(0, first, second)
}

fn m4(program: &[(u16, u16)]) -> u64 {
    let mut model = CortexM4::default();
    program.iter().for_each(|&code| model.step(&decode(code), false));
    model.cycles()
}

fn m7(program: &[(u16, u16)]) -> u64 {
    let mut model = CortexM7::default();
    program.iter().for_each(|&code| model.step(&decode(code), false));
    model.cycles()
}

#[test]
fn instructions_are_of_the_kind_that_their_timing_goes_by() {
    for (code, kind) in [
        (ADDS, Kind::Integer),
        (LDR, Kind::Load),
        ((0x6008, 0), Kind::Store), // str r0, [r1]
        (VLDR, Kind::Load),
        (VMUL, Kind::Float),
        (VADD, Kind::Float),
        (VFMA, Kind::FloatMultiplyAdd),
        (VDIV, Kind::FloatDivide),
        ((0xeeb1, 0x0ae0), Kind::FloatDivide),  // vsqrt.f32 s0, s1
        ((0xeeb8, 0x0ae0), Kind::Float),        // vcvt.f32.s32 s0, s1
        ((0xeeb4, 0x0a60), Kind::FloatMove),    // vcmp.f32 s0, s1
        ((0xeef1, 0xfa10), Kind::FloatMove),    // vmrs APSR_nzcv, fpscr
        ((0xee00, 0x1a10), Kind::FloatMove),    // vmov s0, r1
        ((0xec51, 0x0a10), Kind::FloatMoveTwo), // vmov r0, r1, s0, s1
        ((0xfb21, 0x3002), Kind::Multiply),     // smlad r0, r1, r2, r3
        ((0xfb01, 0x3002), Kind::MultiplyAdd),  // mla r0, r1, r2, r3
        ((0xfb91, 0xf0f2), Kind::Divide),       // sdiv r0, r1, r2
        ((0xecb0, 0x0a08), Kind::LoadMany(8)),  // vldmia r0!, {s0-s7}
        ((0xeca0, 0x0a04), Kind::StoreMany(4)), // vstmia r0!, {s0-s3}
        ((0xc80e, 0), Kind::LoadMany(3)),       // ldmia r0!, {r1, r2, r3}
        ((0xe9d2, 0x0100), Kind::LoadMany(2)),  // ldrd r0, r1, [r2]
        (BNE, Kind::Branch),
    ] {
        assert_eq!(decode(code).kind, kind, "{:04x} {:04x}", code.0, code.1);
    }
}

/// DDI 0439, 3.3.1 and 7.2.3.
#[test]
fn the_m4_takes_the_cycles_of_arms_table() {
    for (code, cycles) in [
        (ADDS, 1),
        (LDR, 2),
        (VMUL, 1),
        (VADD, 1),
        (VFMA, 3),
        (VDIV, 14),
        ((0xfb21, 0x3002), 1), // smlad
        ((0xfb01, 0x3002), 2), // mla
        ((0xecb0, 0x0a08), 9), // vldmia of eight: 1 + N
        ((0xc80e, 0), 4),      // ldmia of three: 1 + N
    ] {
        assert_eq!(m4(&[code]), cycles, "{:04x} {:04x}", code.0, code.1);
    }
}

#[test]
fn the_m4_overlaps_loads_and_waits_for_the_result_of_arithmetic() {
    assert_eq!(m4(&[LDR, LDR, LDR]), 2 + 1 + 1);
    assert_eq!(m4(&[LDR, ADDS, LDR]), 2 + 1 + 2);
    // VADD reads s0, which VMUL writes: one more.
    assert_eq!(m4(&[VMUL, VADD]), 1 + 1 + 1);
    assert_eq!(m4(&[VMUL, ADDS, VADD]), 3);
    // A fused product costs more than its two halves, one apart from the other.
    assert!(m4(&[VFMA]) > m4(&[VMUL, ADDS]));
}

#[test]
fn a_taken_branch_of_the_m4_refills_the_pipeline() {
    let (mut taken, mut not) = (CortexM4::default(), CortexM4::default());
    taken.step(&decode(BNE), true);
    not.step(&decode(BNE), false);
    assert_eq!((taken.cycles(), not.cycles()), (3, 1));
}

#[test]
fn the_m7_pairs_what_needs_nothing_of_each_other_and_waits_for_what_does() {
    // A load and an addition that do not touch each other share a cycle; two loads do not.
    let other_adds = (0x191b, 0); // adds r3, r3, r4
    assert_eq!(m7(&[LDR, other_adds]), 1);
    assert_eq!(m7(&[LDR, (0x6813, 0)]), 2); // ldr r3, [r2]
    // VADD reads s0 as soon as VMUL has it, three cycles later.
    assert_eq!(m7(&[VMUL, VADD]), 3 + 1);
    // The same additions, one after the other or apart: the chain is what costs.
    let chain = [(0xee30, 0x0a20); 4]; // vadd.f32 s0, s0, s1
    let apart = [(0xee30, 0x0a20), (0xee71, 0x1a21), (0xee32, 0x2a22), (0xee73, 0x3a23)];
    assert!(m7(&chain) > m7(&apart));
}
