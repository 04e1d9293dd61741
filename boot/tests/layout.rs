//! Layouts against the flash they are for.

mod common;

use common::*;
use tendon_boot::sim::Flash;
use tendon_boot::{Boot, Layout, LayoutProblem, Region};
use tendon_runtime::store::Part;

#[test]
fn the_layouts_of_boards_and_processes_fit_their_flash() {
    assert_eq!(LAYOUT.check(&new_flash()), Ok(()));
    assert_eq!(Layout::QEMU.check(&Flash::<4, 4096>::new(16 << 20)), Ok(()));
    let small = Layout::policies(100, 4096);
    assert_eq!(small.check(&Flash::<4, 4096>::new(small.capacity())), Ok(()));
    let shared = Layout { keys: LAYOUT.log, ..LAYOUT };
    assert_eq!(shared.check(&new_flash()), Ok(()), "keys among the records");
}

#[test]
fn a_layout_that_does_not_fit_is_refused_and_nothing_boots_with_it() {
    let Region { start, len } = LAYOUT.policy[1];
    let unaligned = Region { start: start + 1, len };
    let outside = Region { start: LAYOUT.capacity(), len };
    let policy_0 = LAYOUT.policy[0];
    for (policy_1, problem) in [
        (unaligned, LayoutProblem::Bounds(unaligned)),
        (outside, LayoutProblem::Bounds(outside)),
        (policy_0, LayoutProblem::Overlap(policy_0, policy_0)),
    ] {
        let layout = Layout { policy: [policy_0, policy_1], ..LAYOUT };
        assert_eq!(layout.check(&new_flash()), Err(problem));
        assert_eq!(Boot::start(new_flash(), layout, BOARD).running(Part::Policy), None);
    }
    let log = Region { len: 2 * ERASE as u32, ..LAYOUT.log };
    assert_eq!(Layout { log, ..LAYOUT }.check(&new_flash()), Err(LayoutProblem::Short(log)));
}
