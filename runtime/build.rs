//! Names the targets that the kernels of `src/kernels/arm.rs` and `x86.rs` are written for: `arm_fpu_dsp`, Cortex-M4F,
//! M7, and M33 with the DSP extension (stable Rust does not show the features of Arm to `cfg`); `vectors`, x86-64 that
//! can be asked what it has.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(arm_fpu_dsp)");
    println!("cargo::rustc-check-cfg=cfg(vectors)");
    // Every M4F and M7 has the DSP extension. An M33 may lack it: docs/boards.md.
    let cpu = match std::env::var("TARGET").unwrap_or_default().as_str() {
        "thumbv7em-none-eabihf" => Some("cortex-m4"),
        "thumbv8m.main-none-eabihf" => Some("cortex-m33"),
        _ => None,
    };
    if let Some(cpu) = cpu {
        println!("cargo::rustc-cfg=arm_fpu_dsp");
        println!("cargo::rustc-env=TENDON_ARM_CPU={cpu}");
    }
    let x86 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    if x86 && std::env::var_os("CARGO_FEATURE_STD").is_some() {
        println!("cargo::rustc-cfg=vectors");
    }
}
