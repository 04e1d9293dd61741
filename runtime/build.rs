//! Names the targets that the kernels of `src/kernels/arm.rs` and `x86.rs` are written for: `armv7em_fpu`, since stable
//! Rust does not show the DSP and FPU features of Arm to `cfg`, and `vectors`, x86-64 that can be asked what it has.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(armv7em_fpu)");
    println!("cargo::rustc-check-cfg=cfg(vectors)");
    if std::env::var("TARGET").is_ok_and(|target| target == "thumbv7em-none-eabihf") {
        println!("cargo::rustc-cfg=armv7em_fpu");
    }
    let x86 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    if x86 && std::env::var_os("CARGO_FEATURE_STD").is_some() {
        println!("cargo::rustc-cfg=vectors");
    }
}
