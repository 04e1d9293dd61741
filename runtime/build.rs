//! Names the targets that the kernels of `src/kernels/arm.rs` are written for: stable Rust does not
//! show the DSP and FPU features of Arm to `cfg`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(armv7em_fpu)");
    if std::env::var("TARGET").is_ok_and(|target| target == "thumbv7em-none-eabihf") {
        println!("cargo::rustc-cfg=armv7em_fpu");
    }
}
