//! Names the targets that the kernels of `src/kernels/{arm,x86,neon}.rs` are written for: `arm_fpu_dsp`, Cortex-M4F,
//! M7, and M33 with the DSP extension (stable Rust does not show the features of Arm to `cfg`); `vectors`, x86-64 that
//! can be asked what it has; `neon`, little-endian AArch64.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(arm_fpu_dsp)");
    println!("cargo::rustc-check-cfg=cfg(vectors)");
    println!("cargo::rustc-check-cfg=cfg(neon)");
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
    let is = |key: &str, wanted: &str| std::env::var(key).is_ok_and(|value| value == wanted);
    if is("CARGO_CFG_TARGET_ARCH", "aarch64") && is("CARGO_CFG_TARGET_ENDIAN", "little") {
        println!("cargo::rustc-cfg=neon");
    }
    if is("CARGO_CFG_TARGET_ARCH", "x86_64") && std::env::var_os("CARGO_FEATURE_STD").is_some() {
        println!("cargo::rustc-cfg=vectors");
    }
}
