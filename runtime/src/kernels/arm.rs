//! Inner loops for Cortex-M4F and M7 in assembly: what LLVM does not write by itself are loads of many words,
//! and the DSP instructions have no stable intrinsics.
//!
//! Each gives the bits of the portable function beside its caller: the same operations in the same
//! order, `VMUL` and `VADD` apart. (`VMLA` rounds between the two as well, but takes 3 cycles on a Cortex-M4F,
//! where the pair takes 2.) Control flow depends on lengths only. The safe functions check every length first.
//! Stack: what the first instructions of each push.
#![allow(unsafe_code, reason = "assembly; the only module of this crate that lifts `deny`")]

use crate::math;
use core::arch::naked_asm;

/// `s0..s3 += $w0..$w3 * $x`, four rows and one input. A product is used four instructions after it was made:
/// used at once it would cost a cycle.
macro_rules! multiply_add {
    ($x:literal, $w0:literal, $w1:literal, $w2:literal, $w3:literal) => {
        concat!(
            "vmul.f32 ", $w0, ", ", $w0, ", ", $x, "\n",
            "vmul.f32 ", $w1, ", ", $w1, ", ", $x, "\n",
            "vmul.f32 ", $w2, ", ", $w2, ", ", $x, "\n",
            "vmul.f32 ", $w3, ", ", $w3, ", ", $x, "\n",
            "vadd.f32 s0, s0, ", $w0, "\n",
            "vadd.f32 s1, s1, ", $w1, "\n",
            "vadd.f32 s2, s2, ", $w2, "\n",
            "vadd.f32 s3, s3, ", $w3, "\n",
        )
    };
}

/// Four inputs by four rows.
macro_rules! four_by_four {
    ($x0:literal, $x1:literal, $x2:literal, $x3:literal) => {
        concat!(
            "vldmia r0!, {{s16-s31}}\n",
            multiply_add!($x0, "s16", "s17", "s18", "s19"),
            multiply_add!($x1, "s20", "s21", "s22", "s23"),
            multiply_add!($x2, "s24", "s25", "s26", "s27"),
            multiply_add!($x3, "s28", "s29", "s30", "s31"),
        )
    };
}

/// A Gemm over blocks of four rows; `$store` writes the sums in `s0..s3` to `r3`.
macro_rules! gemm {
    ($name:ident, $store:expr) => {
        /// # Safety
        /// `w`: `4 * n_in * blocks` readable `f32`; `b`: `4 * blocks`; `x`: `n_in`; `y`: `4 * blocks` writable, apart
        /// from the others; `blocks > 0`.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(
            w: *const f32,
            b: *const f32,
            x: *const f32,
            y: *mut f32,
            n_in: usize,
            blocks: usize,
        ) {
            naked_asm!(
                ".fpu fpv4-sp-d16",
                "push {{r4-r11, lr}}",
                "vpush {{d8-d15}}",
                "ldr r4, [sp, #100]",
                "ldr r9, [sp, #104]",
                "movw r10, #0xffff",
                "movt r10, #0x7f",
                "lsr r6, r4, #4",       // inputs, by sixteen,
                "ubfx r7, r4, #2, #2",  // four
                "and r8, r4, #3",       // and one
                "0:",
                "vldmia r1!, {{s0-s3}}",
                "mov r4, r2",
                "movs r5, r6",
                "beq 2f",
                "1:",
                "vldmia r4!, {{s4-s11}}",
                four_by_four!("s4", "s5", "s6", "s7"),
                four_by_four!("s8", "s9", "s10", "s11"),
                "vldmia r4!, {{s4-s11}}",
                four_by_four!("s4", "s5", "s6", "s7"),
                four_by_four!("s8", "s9", "s10", "s11"),
                "subs r5, r5, #1",
                "bne 1b",
                "2:",
                "movs r5, r7",
                "beq 4f",
                "3:",
                "vldmia r4!, {{s4-s7}}",
                four_by_four!("s4", "s5", "s6", "s7"),
                "subs r5, r5, #1",
                "bne 3b",
                "4:",
                "movs r5, r8",
                "beq 6f",
                "5:",
                "vldmia r4!, {{s4}}",
                "vldmia r0!, {{s16-s19}}",
                multiply_add!("s4", "s16", "s17", "s18", "s19"),
                "subs r5, r5, #1",
                "bne 5b",
                "6:",
                $store,
                "subs r9, r9, #1",
                "bne 0b",
                "vpop {{d8-d15}}",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

gemm!(gemm_none, "vstmia r3!, {{s0-s3}}");

/// `max(v, 0)` of the `f32` with these bits, for all values: adding 0x7f_ffff with saturation leaves the
/// sign bit set for -0 to -infinity alone, so NaN stays whatever its sign.
macro_rules! relu {
    ($v:literal) => {
        concat!("qadd lr, ", $v, ", r10\n", "bic ", $v, ", ", $v, ", lr, asr #31\n")
    };
}

gemm!(
    gemm_relu,
    concat!(
        "vmov r4, r5, s0, s1\n",
        "vmov r11, r12, s2, s3\n",
        relu!("r4"),
        relu!("r5"),
        relu!("r11"),
        relu!("r12"),
        "stmia r3!, {{r4, r5, r11, r12}}",
    )
);

/// `y = W x + b`, or `max(W x + b, 0)`, whole blocks of four rows.
#[inline(always)]
pub(super) fn gemm<const RELU: bool>(w: &[f32], b: &[[f32; 4]], x: &[f32], y: &mut [[f32; 4]]) {
    let blocks = y.len();
    if blocks == 0 || b.len() < blocks || w.len() / 4 < blocks.saturating_mul(x.len()) {
        return;
    }
    let (w, b, n_in, x, y) = (w.as_ptr(), b.as_ptr().cast(), x.len(), x.as_ptr(), y.as_mut_ptr().cast());
    // SAFETY: the lengths were compared above; `y` is borrowed alone, so it lies apart from the others.
    unsafe {
        if RELU { gemm_relu(w, b, x, y, n_in, blocks) } else { gemm_none(w, b, x, y, n_in, blocks) }
    }
}

/// `clip` of `math.rs`: `s24` to `s25`, NaN stays.
macro_rules! clip {
    ($x:literal) => {
        concat!(
            "vcmp.f32 ", $x, ", s24\n",
            "vmrs APSR_nzcv, fpscr\n",
            "it mi\n",
            "vmovmi.f32 ", $x, ", s24\n",
            "vcmp.f32 ", $x, ", s25\n",
            "vmrs APSR_nzcv, fpscr\n",
            "it gt\n",
            "vmovgt.f32 ", $x, ", s25\n",
        )
    };
}

/// The same operation on four elements: `$op $to, $a, $b` with the numbers of the registers.
macro_rules! four {
    ($op:literal, [$d0:literal $d1:literal $d2:literal $d3:literal], [$a0:literal $a1:literal $a2:literal $a3:literal], $b:literal) => {
        four!($op, [$d0 $d1 $d2 $d3], [$a0 $a1 $a2 $a3], [$b $b $b $b])
    };
    ($op:literal, [$d0:literal $d1:literal $d2:literal $d3:literal], [$a0:literal $a1:literal $a2:literal $a3:literal],
        [$b0:literal $b1:literal $b2:literal $b3:literal]) => {
        concat!(
            $op, ".f32 ", $d0, ", ", $a0, ", ", $b0, "\n",
            $op, ".f32 ", $d1, ", ", $a1, ", ", $b1, "\n",
            $op, ".f32 ", $d2, ", ", $a2, ", ", $b2, "\n",
            $op, ".f32 ", $d3, ", ", $a3, ", ", $b3, "\n",
        )
    };
}

/// # Safety
/// `y`: `4 * groups` `f32`; `groups > 0`. `constants`: the ten of [`math::TANH`].
#[unsafe(naked)]
unsafe extern "C" fn tanh_fours(y: *mut f32, groups: usize, constants: *const f32) {
    naked_asm!(
        ".fpu fpv4-sp-d16",
        "vpush {{d8-d12}}",
        "vldmia r2, {{s16-s25}}",
        "0:",
        "vldmia r0, {{s0-s3}}",
        clip!("s0"),
        clip!("s1"),
        clip!("s2"),
        clip!("s3"),
        // s4..s7: x * x; s8..s11: p; s12..s15: q
        four!("vmul", ["s4" "s5" "s6" "s7"], ["s0" "s1" "s2" "s3"], ["s0" "s1" "s2" "s3"]),
        four!("vmul", ["s8" "s9" "s10" "s11"], ["s4" "s5" "s6" "s7"], "s16"),
        four!("vadd", ["s8" "s9" "s10" "s11"], ["s8" "s9" "s10" "s11"], "s17"),
        four!("vmul", ["s8" "s9" "s10" "s11"], ["s8" "s9" "s10" "s11"], ["s4" "s5" "s6" "s7"]),
        four!("vadd", ["s8" "s9" "s10" "s11"], ["s8" "s9" "s10" "s11"], "s18"),
        four!("vmul", ["s8" "s9" "s10" "s11"], ["s8" "s9" "s10" "s11"], ["s4" "s5" "s6" "s7"]),
        four!("vadd", ["s8" "s9" "s10" "s11"], ["s8" "s9" "s10" "s11"], "s19"),
        four!("vadd", ["s12" "s13" "s14" "s15"], ["s4" "s5" "s6" "s7"], "s20"),
        four!("vmul", ["s12" "s13" "s14" "s15"], ["s12" "s13" "s14" "s15"], ["s4" "s5" "s6" "s7"]),
        four!("vadd", ["s12" "s13" "s14" "s15"], ["s12" "s13" "s14" "s15"], "s21"),
        four!("vmul", ["s12" "s13" "s14" "s15"], ["s12" "s13" "s14" "s15"], ["s4" "s5" "s6" "s7"]),
        four!("vadd", ["s12" "s13" "s14" "s15"], ["s12" "s13" "s14" "s15"], "s22"),
        four!("vmul", ["s12" "s13" "s14" "s15"], ["s12" "s13" "s14" "s15"], ["s4" "s5" "s6" "s7"]),
        four!("vadd", ["s12" "s13" "s14" "s15"], ["s12" "s13" "s14" "s15"], "s23"),
        four!("vmul", ["s0" "s1" "s2" "s3"], ["s0" "s1" "s2" "s3"], ["s8" "s9" "s10" "s11"]),
        four!("vdiv", ["s0" "s1" "s2" "s3"], ["s0" "s1" "s2" "s3"], ["s12" "s13" "s14" "s15"]),
        "vstmia r0!, {{s0-s3}}",
        "subs r1, r1, #1",
        "bne 0b",
        "vpop {{d8-d12}}",
        "bx lr",
    )
}

/// `y = tanh(y)`.
#[inline(always)]
pub(super) fn tanh(y: &mut [[f32; 4]]) {
    if !y.is_empty() {
        // SAFETY: as many groups as `y` has.
        unsafe { tanh_fours(y.as_mut_ptr().cast(), y.len(), math::TANH.as_ptr()) }
    }
}
