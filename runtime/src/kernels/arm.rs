//! Inner loops for Cortex-M4F, M7 and M33 (with DSP extension) in assembly: what LLVM does not write by itself are loads of many words,
//! and the DSP instructions have no stable intrinsics.
//!
//! Each gives the bits of the portable function beside its caller: the same operations in the same
//! order, `VMUL` and `VADD` apart. (`VMLA` rounds between the two as well, but takes 3 cycles on a Cortex-M4F,
//! where the pair takes 2.) Control flow depends on lengths only. The safe functions check every length first.
//! Stack: what the first instructions of each push.
#![allow(unsafe_code, reason = "assembly; the only module of this crate that lifts `deny`")]

use crate::math;
use core::arch::naked_asm;
use tendon_wire::image::{QUANTIZED_STEP as INPUT_STEP, quantized_block_words as block_words};

/// Tells the assembler of the FPU and the DSP extension, of which the target alone does not.
macro_rules! cpu {
    () => {
        concat!(".cpu ", env!("TENDON_ARM_CPU"))
    };
}

/// `s0..s3 += $w0..$w3 * $x`, four rows and one input. A product is used four instructions after it was made:
/// used at once it would cost a cycle.
#[rustfmt::skip]
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

/// Eight inputs by four rows.
macro_rules! eight_by_four {
    () => {
        concat!(
            "vldmia r4!, {{s4-s11}}\n",
            four_by_four!("s4", "s5", "s6", "s7"),
            four_by_four!("s8", "s9", "s10", "s11"),
        )
    };
}

/// A Gemm over blocks of four rows; `$store` writes the sums in `s0..s3` to `r3`. What 32 leave of the inputs follows by
/// the bits of its number, two at a time: `lsls` puts them into carry and sign, which no floating-point instruction
/// here changes.
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
                cpu!(),
                "push {{r4-r11, lr}}",
                "vpush {{d8-d15}}",
                "ldr r4, [sp, #100]",
                "ldr r9, [sp, #104]",
                "movw r10, #0xffff",
                "movt r10, #0x7f",
                "lsr r6, r4, #5",
                "lsl r7, r4, #27",
                "0:",
                "vldmia r1!, {{s0-s3}}",
                "mov r4, r2",
                "movs r5, r6",
                "beq 2f",
                "1:",
                eight_by_four!(),
                eight_by_four!(),
                eight_by_four!(),
                eight_by_four!(),
                "subs r5, r5, #1",
                "bne 1b",
                "2:",
                "cmp r7, #0",
                "beq 7f",
                "lsls r5, r7, #1",
                "bcc 3f",
                eight_by_four!(),
                eight_by_four!(),
                "3:",
                "bpl 4f",
                eight_by_four!(),
                "4:",
                "lsls r5, r5, #2",
                "bcc 5f",
                "vldmia r4!, {{s4-s7}}",
                four_by_four!("s4", "s5", "s6", "s7"),
                "5:",
                "bpl 6f",
                "vldmia r4!, {{s4, s5}}",
                "vldmia r0!, {{s16-s23}}",
                multiply_add!("s4", "s16", "s17", "s18", "s19"),
                multiply_add!("s5", "s20", "s21", "s22", "s23"),
                "6:",
                "lsls r5, r5, #2",
                "bcc 7f",
                "vldmia r4!, {{s4}}",
                "vldmia r0!, {{s16-s19}}",
                multiply_add!("s4", "s16", "s17", "s18", "s19"),
                "7:",
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
#[rustfmt::skip]
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
    unsafe { if RELU { gemm_relu(w, b, x, y, n_in, blocks) } else { gemm_none(w, b, x, y, n_in, blocks) } }
}

/// `clip` of `math.rs`: `s24` to `s25`, NaN stays.
#[rustfmt::skip]
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
#[rustfmt::skip]
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
        cpu!(),
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

/// `power` of `math.rs` for four lanes: `z` in `s0..s3` becomes `r`; `p` to `s4..s7`, `a` to `s8..s11`, `b` to `s12..s15`.
/// Constants in `s20..s22`, 1.0 in `r7`; overwrites `r3..r6`. `$bits`: those of the exponent, for limits of 32 and 64.
#[rustfmt::skip]
macro_rules! power {
    ($bits:literal) => {
        concat!(
            // To nearest, as FPSCR says; saturates, as the portable version's clip does behind it.
            "vcvtr.s32.f32 s4, s0\n",
            "vcvtr.s32.f32 s5, s1\n",
            "vcvtr.s32.f32 s6, s2\n",
            "vcvtr.s32.f32 s7, s3\n",
            "vmov r3, r4, s4, s5\n",
            "vmov r5, r6, s6, s7\n",
            "ssat r3, ", $bits, ", r3\n",
            "ssat r4, ", $bits, ", r4\n",
            "ssat r5, ", $bits, ", r5\n",
            "ssat r6, ", $bits, ", r6\n",
            "vmov s4, s5, r3, r4\n",
            "vmov s6, s7, r5, r6\n",
            "vcvt.f32.s32 s4, s4\n",
            "vcvt.f32.s32 s5, s5\n",
            "vcvt.f32.s32 s6, s6\n",
            "vcvt.f32.s32 s7, s7\n",
            "add r3, r7, r3, lsl #23\n",
            "add r4, r7, r4, lsl #23\n",
            "add r5, r7, r5, lsl #23\n",
            "add r6, r7, r6, lsl #23\n",
            four!("vsub", ["s0" "s1" "s2" "s3"], ["s0" "s1" "s2" "s3"], ["s4" "s5" "s6" "s7"]),
            "vmov s4, s5, r3, r4\n",
            "vmov s6, s7, r5, r6\n",
            four!("vmul", ["s8" "s9" "s10" "s11"], ["s0" "s1" "s2" "s3"], ["s0" "s1" "s2" "s3"]),
            four!("vadd", ["s12" "s13" "s14" "s15"], ["s8" "s9" "s10" "s11"], "s22"),
            four!("vmul", ["s8" "s9" "s10" "s11"], ["s8" "s9" "s10" "s11"], "s20"),
            four!("vmul", ["s12" "s13" "s14" "s15"], ["s12" "s13" "s14" "s15"], ["s0" "s1" "s2" "s3"]),
            four!("vadd", ["s8" "s9" "s10" "s11"], ["s8" "s9" "s10" "s11"], "s21"),
        )
    };
}

/// `gate` of `math.rs`: `x` in `s0..s3`; `a - b` to `s8..s11`, `p (a + b)` to `s0..s3`. The factor in `s23`.
#[rustfmt::skip]
macro_rules! gate {
    ($x:tt, $bits:literal) => {
        concat!(
            four!("vmul", ["s0" "s1" "s2" "s3"], $x, "s23"),
            power!($bits),
            four!("vadd", ["s0" "s1" "s2" "s3"], ["s8" "s9" "s10" "s11"], ["s12" "s13" "s14" "s15"]),
            four!("vsub", ["s8" "s9" "s10" "s11"], ["s8" "s9" "s10" "s11"], ["s12" "s13" "s14" "s15"]),
            four!("vmul", ["s0" "s1" "s2" "s3"], ["s0" "s1" "s2" "s3"], ["s4" "s5" "s6" "s7"]),
        )
    };
}

/// A function by [`gate`]; `$last`: what follows the quotient.
macro_rules! sigmoid {
    ($name:ident, $last:expr) => {
        /// # Safety
        /// `y`: `4 * groups` `f32`; `groups > 0`. `constants`: [`math::POWER`].
        #[unsafe(naked)]
        unsafe extern "C" fn $name(y: *mut f32, groups: usize, constants: *const f32) {
            naked_asm!(
                cpu!(),
                "push {{r4-r7, lr}}",
                "vpush {{d8-d11}}",
                "vldmia r2, {{s20-s23}}",
                "mov r7, #0x3f800000",
                "0:",
                "vldmia r0, {{s16-s19}}",
                gate!(["s16" "s17" "s18" "s19"], "#7"),
                four!("vadd", ["s0" "s1" "s2" "s3"], ["s8" "s9" "s10" "s11"], ["s0" "s1" "s2" "s3"]),
                four!("vdiv", ["s0" "s1" "s2" "s3"], ["s8" "s9" "s10" "s11"], ["s0" "s1" "s2" "s3"]),
                $last,
                "vstmia r0!, {{s0-s3}}",
                "subs r1, r1, #1",
                "bne 0b",
                "vpop {{d8-d11}}",
                "pop {{r4-r7, pc}}",
            )
        }
    };
}

sigmoid!(sigmoid_fours, "");
sigmoid!(swish_fours, four!("vmul", ["s0" "s1" "s2" "s3"], ["s0" "s1" "s2" "s3"], ["s16" "s17" "s18" "s19"]));

/// `y = sigmoid(y)`.
#[inline(always)]
pub(super) fn sigmoid(y: &mut [[f32; 4]]) {
    if !y.is_empty() {
        // SAFETY: as many groups as `y` has.
        unsafe { sigmoid_fours(y.as_mut_ptr().cast(), y.len(), math::POWER.as_ptr()) }
    }
}

/// `y = y sigmoid(y)`.
#[inline(always)]
pub(super) fn swish(y: &mut [[f32; 4]]) {
    if !y.is_empty() {
        // SAFETY: as many groups as `y` has.
        unsafe { swish_fours(y.as_mut_ptr().cast(), y.len(), math::POWER.as_ptr()) }
    }
}

/// # Safety
/// `y`: `4 * groups` `f32`; `groups > 0`. `constants`: [`math::POWER`].
#[unsafe(naked)]
unsafe extern "C" fn elu_fours(y: *mut f32, groups: usize, constants: *const f32, alpha: f32) {
    naked_asm!(
        cpu!(),
        "push {{r4-r7, lr}}",
        "vpush {{d8-d15}}",
        "vldmia r2, {{s20-s23}}",
        "mov r7, #0x3f800000",
        "vmov s28, r7",
        "vmov.f32 s29, s0",
        "0:",
        "vldmia r0, {{s16-s19}}",
        "vmov r3, r4, s16, s17",
        "vmov r5, r6, s18, s19",
        // What is below 0: its sign, over all bits, keeps it.
        "and r3, r3, r3, asr #31",
        "and r4, r4, r4, asr #31",
        "and r5, r5, r5, asr #31",
        "and r6, r6, r6, asr #31",
        "vmov s0, s1, r3, r4",
        "vmov s2, s3, r5, r6",
        four!("vsub", ["s16" "s17" "s18" "s19"], ["s16" "s17" "s18" "s19"], ["s0" "s1" "s2" "s3"]),
        four!("vnmul", ["s0" "s1" "s2" "s3"], ["s0" "s1" "s2" "s3"], "s23"),
        power!("#7"),
        four!("vsub", ["s24" "s25" "s26" "s27"], ["s4" "s5" "s6" "s7"], "s28"),
        four!("vadd", ["s4" "s5" "s6" "s7"], ["s4" "s5" "s6" "s7"], "s28"),
        four!("vmul", ["s24" "s25" "s26" "s27"], ["s24" "s25" "s26" "s27"], ["s8" "s9" "s10" "s11"]),
        four!("vmul", ["s4" "s5" "s6" "s7"], ["s4" "s5" "s6" "s7"], ["s12" "s13" "s14" "s15"]),
        four!("vsub", ["s8" "s9" "s10" "s11"], ["s8" "s9" "s10" "s11"], ["s12" "s13" "s14" "s15"]),
        four!("vadd", ["s4" "s5" "s6" "s7"], ["s24" "s25" "s26" "s27"], ["s4" "s5" "s6" "s7"]),
        four!("vdiv", ["s4" "s5" "s6" "s7"], ["s4" "s5" "s6" "s7"], ["s8" "s9" "s10" "s11"]),
        four!("vmul", ["s4" "s5" "s6" "s7"], ["s4" "s5" "s6" "s7"], "s29"),
        four!("vadd", ["s0" "s1" "s2" "s3"], ["s16" "s17" "s18" "s19"], ["s4" "s5" "s6" "s7"]),
        "vstmia r0!, {{s0-s3}}",
        "subs r1, r1, #1",
        "bne 0b",
        "vpop {{d8-d15}}",
        "pop {{r4-r7, pc}}",
    )
}

/// `y = elu(y)`.
#[inline(always)]
pub(super) fn elu(y: &mut [[f32; 4]], alpha: f32) {
    if !y.is_empty() {
        // SAFETY: as many groups as `y` has.
        unsafe { elu_fours(y.as_mut_ptr().cast(), y.len(), math::POWER.as_ptr(), alpha) }
    }
}

/// # Safety
/// `gates`: four runs of readable `f32`, `stride` bytes apart, `4 * groups` each; `cell` and `hidden`: `4 * groups`, writable,
/// apart from each other and from the gates; `groups > 0`. `constants`: [`math::POWER`].
#[unsafe(naked)]
unsafe extern "C" fn lstm_fours(
    gates: *const f32,
    stride: usize,
    cell: *mut f32,
    hidden: *mut f32,
    groups: usize,
    constants: *const f32,
) {
    naked_asm!(
        cpu!(),
        "push {{r4-r11, lr}}",
        "vpush {{d8-d15}}",
        "ldr r11, [sp, #100]",
        "ldr r12, [sp, #104]",
        "mov r9, r2",
        "mov r10, r3",
        "mov r8, r1",
        "add r1, r0, r8", // r0, r1, r2, r8: the gates i, o, f, g
        "add r2, r1, r8",
        "add r8, r2, r8",
        "vldmia r12, {{s20-s23}}",
        "mov r7, #0x3f800000",
        "0:",
        "vldmia r2!, {{s0-s3}}",
        gate!(["s0" "s1" "s2" "s3"], "#6"),
        "vldmia r9, {{s16-s19}}",
        four!("vmul", ["s16" "s17" "s18" "s19"], ["s16" "s17" "s18" "s19"], ["s8" "s9" "s10" "s11"]),
        four!("vadd", ["s0" "s1" "s2" "s3"], ["s8" "s9" "s10" "s11"], ["s0" "s1" "s2" "s3"]),
        four!("vdiv", ["s16" "s17" "s18" "s19"], ["s16" "s17" "s18" "s19"], ["s0" "s1" "s2" "s3"]),
        "vldmia r0!, {{s0-s3}}",
        gate!(["s0" "s1" "s2" "s3"], "#6"),
        four!("vadd", ["s24" "s25" "s26" "s27"], ["s8" "s9" "s10" "s11"], ["s0" "s1" "s2" "s3"]),
        "vmov.f32 s28, s8",
        "vmov.f32 s29, s9",
        "vmov.f32 s30, s10",
        "vmov.f32 s31, s11",
        "vldmia r8!, {{s0-s3}}",
        "vldr s23, [r12, #16]",
        gate!(["s0" "s1" "s2" "s3"], "#6"),
        four!("vsub", ["s4" "s5" "s6" "s7"], ["s8" "s9" "s10" "s11"], ["s0" "s1" "s2" "s3"]),
        four!("vadd", ["s0" "s1" "s2" "s3"], ["s8" "s9" "s10" "s11"], ["s0" "s1" "s2" "s3"]),
        four!("vmul", ["s4" "s5" "s6" "s7"], ["s4" "s5" "s6" "s7"], ["s28" "s29" "s30" "s31"]),
        four!("vmul", ["s0" "s1" "s2" "s3"], ["s0" "s1" "s2" "s3"], ["s24" "s25" "s26" "s27"]),
        four!("vdiv", ["s4" "s5" "s6" "s7"], ["s4" "s5" "s6" "s7"], ["s0" "s1" "s2" "s3"]),
        four!("vadd", ["s16" "s17" "s18" "s19"], ["s4" "s5" "s6" "s7"], ["s16" "s17" "s18" "s19"]),
        "vstmia r9!, {{s16-s19}}",
        "vldmia r1!, {{s0-s3}}",
        "vldr s23, [r12, #12]",
        gate!(["s0" "s1" "s2" "s3"], "#6"),
        four!("vadd", ["s24" "s25" "s26" "s27"], ["s8" "s9" "s10" "s11"], ["s0" "s1" "s2" "s3"]),
        "vmov.f32 s28, s8",
        "vmov.f32 s29, s9",
        "vmov.f32 s30, s10",
        "vmov.f32 s31, s11",
        "vldr s23, [r12, #16]",
        gate!(["s16" "s17" "s18" "s19"], "#6"),
        "vldr s23, [r12, #12]",
        four!("vsub", ["s4" "s5" "s6" "s7"], ["s8" "s9" "s10" "s11"], ["s0" "s1" "s2" "s3"]),
        four!("vadd", ["s0" "s1" "s2" "s3"], ["s8" "s9" "s10" "s11"], ["s0" "s1" "s2" "s3"]),
        four!("vmul", ["s4" "s5" "s6" "s7"], ["s4" "s5" "s6" "s7"], ["s28" "s29" "s30" "s31"]),
        four!("vmul", ["s0" "s1" "s2" "s3"], ["s0" "s1" "s2" "s3"], ["s24" "s25" "s26" "s27"]),
        four!("vdiv", ["s0" "s1" "s2" "s3"], ["s4" "s5" "s6" "s7"], ["s0" "s1" "s2" "s3"]),
        "vstmia r10!, {{s0-s3}}",
        "subs r11, r11, #1",
        "bne 0b",
        "vpop {{d8-d15}}",
        "pop {{r4-r11, pc}}",
    )
}

/// As many units as fill groups of four; returns how many those are.
#[inline(always)]
pub(super) fn lstm([i, o, f, g]: [&[f32]; 4], cell: &mut [f32], hidden: &mut [f32]) -> usize {
    let n = cell.len();
    // The four lie one behind the other.
    let apart = [o, f, g].iter().zip([i, o, f]).all(|(b, a)| b.as_ptr() == a.as_ptr().wrapping_add(n));
    let groups = n / 4;
    if groups == 0
        || hidden.len() != n
        || [i, o, f].iter().any(|gate| gate.len() != n)
        || g.len() < n
        || !apart
    {
        return 0;
    }
    let stride = n.wrapping_mul(size_of::<f32>());
    let (gates, cell, hidden) = (i.as_ptr(), cell.as_mut_ptr(), hidden.as_mut_ptr());
    // SAFETY: every run has `n` elements and the distance was checked; cell and hidden are borrowed alone.
    unsafe { lstm_fours(gates, stride, cell, hidden, groups, math::POWER.as_ptr()) }
    groups.wrapping_mul(4)
}

/// Four inputs by four rows of `i8`: activations in `r7` and `r8`, weights in `r9..r12`, sums in `r3..r6`.
macro_rules! four_by_four_i8 {
    () => {
        "ldmia r1!, {{r7, r8}}
        ldmia r0!, {{r9-r12}}
        sxtb16 lr, r9
        sxtb16 r9, r9, ror #8
        smlad r3, lr, r7, r3
        sxtb16 lr, r10
        smlad r3, r9, r8, r3
        sxtb16 r10, r10, ror #8
        smlad r4, lr, r7, r4
        sxtb16 lr, r11
        smlad r4, r10, r8, r4
        sxtb16 r11, r11, ror #8
        smlad r5, lr, r7, r5
        sxtb16 lr, r12
        smlad r5, r11, r8, r5
        sxtb16 r12, r12, ror #8
        smlad r6, lr, r7, r6
        smlad r6, r12, r8, r6\n"
    };
}

/// A Gemm over blocks of `quantized.rs`; `$store` turns the sums in `r3..r6` into results and writes them to
/// `r7`, which it moves on.
macro_rules! quantized_gemm {
    ($name:ident, $out:ty, $store:expr) => {
        /// # Safety
        /// `x` to `x_end`: readable, not empty, whole steps of eight inputs; `w`: readable, the blocks that `y` to `y_end`
        /// need; `y` to `y_end`: writable, whole blocks, not empty, apart from the others.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(
            w: *const u32,
            x: *const u32,
            y: *mut $out,
            x_end: *const u32,
            y_end: *mut $out,
        ) {
            naked_asm!(
                cpu!(),
                "push {{r4-r11, lr}}",
                "ldr r12, [sp, #36]",
                // The inner loop takes every core register: what it does not need waits in s0..s2.
                "vmov s0, r1",
                "vmov s1, s2, r2, r12",
                "mov r2, r3",
                "0:",
                "ldmia r0!, {{r3-r6}}",
                "vmov r1, s0",
                "1:",
                four_by_four_i8!(),
                four_by_four_i8!(),
                "cmp r1, r2",
                "bne 1b",
                $store,
                "vmov s1, r7",
                "cmp r7, r8",
                "bne 0b",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

/// Sums to `i16`; `$saturate` and `$range`: `ssat` to 16 bits or, with a ReLU, `usat` to 15.
#[rustfmt::skip]
macro_rules! store_i16 {
    ($saturate:literal, $range:literal) => {
        concat!(
            "ldmia r0!, {{r9-r12}}\n",
            "vmov r7, r8, s1, s2\n",
            "smmulr r3, r3, r9\n",
            "smmulr r4, r4, r10\n",
            "smmulr r5, r5, r11\n",
            "smmulr r6, r6, r12\n",
            $saturate, " r3, ", $range, ", r3\n",
            $saturate, " r4, ", $range, ", r4\n",
            $saturate, " r5, ", $range, ", r5\n",
            $saturate, " r6, ", $range, ", r6\n",
            "pkhbt r3, r3, r4, lsl #16\n",
            "pkhbt r4, r5, r6, lsl #16\n",
            "stmia r7!, {{r3, r4}}",
        )
    };
}

quantized_gemm!(quantized_none, u32, store_i16!("ssat", "#16"));
quantized_gemm!(quantized_relu, u32, store_i16!("usat", "#15"));
quantized_gemm!(
    quantized_numbers,
    f32,
    "vmov s4, s5, r3, r4
    vmov s6, s7, r5, r6
    vldmia r0!, {{s8-s11}}
    vcvt.f32.s32 s4, s4
    vcvt.f32.s32 s5, s5
    vcvt.f32.s32 s6, s6
    vcvt.f32.s32 s7, s7
    vmov r7, r8, s1, s2
    vmul.f32 s4, s4, s8
    vmul.f32 s5, s5, s9
    vmul.f32 s6, s6, s10
    vmul.f32 s7, s7, s11
    vstmia r7!, {{s4-s7}}"
);

/// Whether `w` holds the blocks of so many outputs, and there is something to do.
#[inline(always)]
fn blocks_are_there(w: &[u32], x: &[[u32; 4]], blocks: usize) -> bool {
    let len = block_words(x.len().saturating_mul(INPUT_STEP));
    blocks > 0 && !x.is_empty() && w.len() >= blocks.saturating_mul(len)
}

/// As `quantized::portable::to_i16`.
#[inline(always)]
pub(super) fn quantized_to_i16<const RELU: bool>(w: &[u32], x: &[[u32; 4]], y: &mut [[u32; 2]]) {
    if blocks_are_there(w, x, y.len()) {
        let (x, y) = (x.as_ptr_range(), y.as_mut_ptr_range());
        let (w, from, to) = (w.as_ptr(), x.start.cast(), y.start.cast());
        // SAFETY: the lengths were compared above; `y` is borrowed alone, so it lies apart from the others.
        unsafe {
            if RELU {
                quantized_relu(w, from, to, x.end.cast(), y.end.cast());
            } else {
                quantized_none(w, from, to, x.end.cast(), y.end.cast());
            }
        }
    }
}

/// As `quantized::portable::to_f32`.
#[inline(always)]
pub(super) fn quantized_to_f32(w: &[u32], x: &[[u32; 4]], y: &mut [[f32; 4]]) {
    if blocks_are_there(w, x, y.len()) {
        let (x, y) = (x.as_ptr_range(), y.as_mut_ptr_range());
        // SAFETY: as in `quantized_to_i16`.
        unsafe {
            quantized_numbers(w.as_ptr(), x.start.cast(), y.start.cast(), x.end.cast(), y.end.cast());
        }
    }
}

/// # Safety
/// `x`: `4 * groups` readable `f32`; `y`: `2 * groups` writable words apart from it; `groups > 0`.
#[unsafe(naked)]
unsafe extern "C" fn quantize_fours(x: *const f32, y: *mut u32, groups: usize, inverse_scale: f32) {
    naked_asm!(
        cpu!(),
        "push {{r4-r6, lr}}",
        "0:",
        "vldmia r0!, {{s4-s7}}",
        "vmul.f32 s4, s4, s0",
        "vmul.f32 s5, s5, s0",
        "vmul.f32 s6, s6, s0",
        "vmul.f32 s7, s7, s0",
        // Rounds as FPSCR says: to nearest, halves to even, which nothing changes. Saturates; NaN is 0.
        "vcvtr.s32.f32 s4, s4",
        "vcvtr.s32.f32 s5, s5",
        "vcvtr.s32.f32 s6, s6",
        "vcvtr.s32.f32 s7, s7",
        "vmov r3, r4, s4, s5",
        "vmov r5, r6, s6, s7",
        "ssat r3, #16, r3",
        "ssat r4, #16, r4",
        "ssat r5, #16, r5",
        "ssat r6, #16, r6",
        "pkhbt r3, r3, r4, lsl #16",
        "pkhbt r5, r5, r6, lsl #16",
        "stmia r1!, {{r3, r5}}",
        "subs r2, r2, #1",
        "bne 0b",
        "pop {{r4-r6, pc}}",
    )
}

/// As `quantized::portable::fours`.
#[inline(always)]
pub(super) fn quantize(x: &[[f32; 4]], inverse_scale: f32, y: &mut [[u32; 2]]) {
    let groups = x.len().min(y.len());
    if groups > 0 {
        // SAFETY: as many groups as both have; `y` is borrowed alone, so it lies apart from `x`.
        unsafe { quantize_fours(x.as_ptr().cast(), y.as_mut_ptr().cast(), groups, inverse_scale) }
    }
}
