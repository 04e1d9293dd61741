//! The ring of records: what it keeps, what freezes it, what a reset and damage leave of it.

use tendon_runtime::{BlackBox, Cause, State};
use tendon_wire::message::{BlackBoxRecord, Floats};

const JOINTS: usize = 3;
/// Bytes per record of a robot with three joints, and of the ring's header.
const STRIDE: usize = 12 + 77 + 6 * 4 * JOINTS + 3;
const HEADER: usize = 12;

fn record(tick: u32, state: State) -> BlackBoxRecord {
    let values = |x: f32| (0..JOINTS).map(|joint| x + joint as f32).collect::<Floats<_>>();
    BlackBoxRecord {
        boot: 1,
        tick,
        time_us: u64::from(tick) * 1000,
        state: state as u8,
        joint_position: values(0.5),
        joint_velocity: values(1.5),
        position: values(2.5),
        torque: values(3.5),
        kp: values(4.5),
        kd: values(5.5),
        ..BlackBoxRecord::default()
    }
}

fn memory(records: usize) -> Vec<u8> {
    vec![0xa5; HEADER + records * STRIDE]
}

/// A box that records, 1 ms per tick.
fn recording(memory: &mut [u8]) -> BlackBox<'_> {
    let mut black_box = BlackBox::open(memory);
    black_box.release(JOINTS, 1_000_000);
    black_box
}

fn ticks(black_box: &BlackBox<'_>) -> Vec<u32> {
    let read = |index| {
        let mut record = BlackBoxRecord::default();
        black_box.read(index, &mut record).then_some(record.tick)
    };
    (0..black_box.count()).filter_map(read).collect()
}

#[test]
fn keeps_the_newest_records_whole() {
    let mut memory = memory(5);
    let mut black_box = recording(&mut memory);
    for tick in 1..=12 {
        black_box.tick(&record(tick, State::Running));
    }
    assert_eq!(ticks(&black_box), [8, 9, 10, 11, 12]);
    let mut read = BlackBoxRecord::default();
    assert!(black_box.read(4, &mut read));
    assert_eq!(read, BlackBoxRecord { count: 5, index: 4, ..record(12, State::Running) });
    assert!(!black_box.read(5, &mut read));
}

#[test]
fn keeps_nothing_of_memory_that_holds_anything() {
    for fill in [0, 0x5a, 0xff] {
        let mut memory = vec![fill; 1000];
        let mut black_box = BlackBox::open(&mut memory);
        assert_eq!(black_box.count(), 0);
        black_box.tick(&record(1, State::Running));
        assert_eq!(black_box.count(), 0, "before it was armed");
    }
    let mut none = BlackBox::default();
    none.release(JOINTS, 1000);
    none.tick(&record(1, State::Running));
    assert_eq!(none.count(), 0);
}

#[test]
fn a_fault_freezes_it_until_it_is_released() {
    let mut memory = memory(5);
    let mut black_box = recording(&mut memory);
    black_box.tick(&record(1, State::Running));
    let fault = BlackBoxRecord { cause: Cause::Overrun as u8, ..record(2, State::Fault) };
    black_box.tick(&fault);
    black_box.tick(&record(3, State::Running));
    assert_eq!(ticks(&black_box), [1, 2]);
    black_box.release(JOINTS, 1_000_000);
    black_box.tick(&record(4, State::Running));
    assert_eq!(ticks(&black_box), [1, 2, 4], "what was there stays until it is overwritten");
}

#[test]
fn what_a_start_left_survives_and_is_frozen() {
    let mut memory = memory(5);
    let mut black_box = recording(&mut memory);
    (1..=7).for_each(|tick| black_box.tick(&record(tick, State::Running)));
    let mut black_box = BlackBox::open(&mut memory);
    assert_eq!(ticks(&black_box), [3, 4, 5, 6, 7]);
    black_box.tick(&record(1, State::Running));
    assert_eq!(black_box.count(), 5);
    black_box.release(JOINTS, 1_000_000);
    black_box.tick(&record(1, State::Running));
    assert_eq!(ticks(&black_box), [4, 5, 6, 7, 1]);
    black_box.release(JOINTS + 1, 1_000_000);
    assert_eq!(black_box.count(), 0, "records of another length");
}

#[test]
fn a_reset_at_any_byte_of_a_record_loses_that_record_alone() {
    let mut before = memory(4);
    let mut black_box = recording(&mut before);
    (1..=6).for_each(|tick| black_box.tick(&record(tick, State::Running)));
    let mut after = before.clone();
    let mut black_box = BlackBox::open(&mut after);
    black_box.release(JOINTS, 1_000_000);
    black_box.tick(&record(7, State::Running));
    // The seventh lies where the third was.
    let place = HEADER + 2 * STRIDE..HEADER + 3 * STRIDE;
    for at in 0..STRIDE {
        let mut torn = before.clone();
        torn[place.start..place.start + 4].fill(0);
        torn[place.start + 4..][..at.min(STRIDE - 4)]
            .copy_from_slice(&after[place.start + 4..][..at.min(STRIDE - 4)]);
        assert_eq!(ticks(&BlackBox::open(&mut torn)), [4, 5, 6], "byte {at}");
    }
    assert_eq!(ticks(&BlackBox::open(&mut after)), [4, 5, 6, 7]);
}

#[test]
fn damage_costs_a_record_and_never_more_than_what_is_older() {
    let mut good = memory(4);
    let mut black_box = recording(&mut good);
    (1..=4).for_each(|tick| black_box.tick(&record(tick, State::Running)));
    for bit in 0..good.len() * 8 {
        let mut damaged = good.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let found = ticks(&BlackBox::open(&mut damaged));
        assert!([1, 2, 3, 4].ends_with(&found) || [1, 2, 3].ends_with(&found), "bit {bit}: {found:?}");
    }
}

#[test]
fn without_torque_only_changes_are_kept() {
    let mut memory = memory(8);
    let mut black_box = recording(&mut memory);
    let states = [State::Idle, State::Idle, State::Ready, State::Damping, State::Idle, State::Idle];
    for (tick, state) in (1..).zip(states) {
        black_box.tick(&record(tick, state));
    }
    assert_eq!(ticks(&black_box), [1, 3, 4, 5]);
}

#[test]
fn a_small_ring_thins_out_to_cover_the_time_and_keeps_changes() {
    let mut memory = memory(10);
    let mut black_box = BlackBox::open(&mut memory);
    // 4 s of 1 ms ticks in ten records.
    black_box.release(JOINTS, 1000);
    (1..=4000).for_each(|tick| black_box.tick(&record(tick, State::Running)));
    black_box.tick(&BlackBoxRecord { late: true, ..record(4001, State::Damping) });
    assert_eq!(ticks(&black_box), [800, 1200, 1600, 2000, 2400, 2800, 3200, 3600, 4000, 4001]);
}
