//! Images that another processor wrote: their golden vectors must come out with the same bits here.

use tendon_runtime::{AlignedBytes, Image};

/// `cargo xtask campaign aarch64` compiles the images on this computer and runs this test on an emulated one.
#[test]
fn images_of_another_processor_pass_their_golden_vectors() {
    let Some(folder) = std::env::var_os("TENDON_IMAGES") else {
        std::println!("SKIPPED: no TENDON_IMAGES; `cargo xtask campaign aarch64` makes them");
        return;
    };
    let (mut images, mut vectors) = (0, 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = AlignedBytes::new(&std::fs::read(&path).unwrap());
        let policy = Image::parse(&bytes).unwrap().policy(&bytes).unwrap();
        let mut arena = vec![0.0; policy.network.plan().arena_len as usize];
        assert_eq!(policy.self_test(&mut arena), Ok(()), "{}", path.display());
        images += 1;
        vectors += policy.network.plan().golden_count;
    }
    std::println!("{images} images, {vectors} golden vectors, the same bits on {}", std::env::consts::ARCH);
    assert!(images > 0, "no images");
}
