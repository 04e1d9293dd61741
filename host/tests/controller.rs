//! The same conversation with every controller: in this process, the stand-in process, the firmware in QEMU.

use tendon::link::*;
use std::time::{Duration, Instant};

#[test]
fn hello() {
    // SAFETY-free: set before any thread.
    let kind = ControllerKind::Qemu;
    let launched = launch(kind).unwrap();
    println!("{}", launched.port());
    let (mut session, identity) = Session::open(Serial::open(launched.port()).unwrap()).unwrap();
    println!("{identity:?}");
    let start = Instant::now();
    for _ in 0..1000 { session.identity().unwrap(); }
    println!("1000 hellos {:?}", start.elapsed());
    let t = session.observe().unwrap();
    println!("{t:?}");
    let start = Instant::now();
    println!("{:?}", session.upload(&vec![7; 200_000], |_| ()));
    println!("upload {:?}", start.elapsed());
    std::thread::sleep(Duration::from_millis(300));
    println!("{:?}", session.observe().unwrap());
}
