//! One message of each row of the table, and its frame: for the tests of this folder and the campaigns of
//! `tests/`, which include this file.

use tendon_wire::frame::{Frame, MAX_FRAME, MAX_PAYLOAD, encode};
use tendon_wire::message::{
    Action, Arm, BlackBoxRecord, Bytes, Confirm, Counts, Floats, Heartbeat, Hello, Identity, ImageAbort,
    ImageBegin, ImageChunk, ImageCommit, Infer, InferGolden, Inferred, Inject, Message, Observe, Pace,
    ProvisionKeys, QuerySlots, RawState, ReadBlackBox, ReadTiming, Reply, Restart, Revert, RotateKeys, Run,
    SetProfile, Slots, Stop, TABLE, Telemetry, Text, Timing, UpdateBegin,
};

fn floats<const N: usize>(n: usize) -> Floats<N> {
    (0..n).map(|i| i as f32 * 0.37 - 1.0).collect()
}

/// One of each row of the table, with every field filled.
pub(crate) fn one_of_each() -> Vec<Message> {
    let text = |text: &str| Text::try_from(text).unwrap();
    let messages: Vec<Message> = vec![
        Hello {}.into(),
        ImageBegin { total_len: 70_000 }.into(),
        ImageChunk { offset: 256, data: Bytes::from_slice(&[0, 1, 2, 0xff, 0]).unwrap() }.into(),
        ImageCommit {}.into(),
        ImageAbort {}.into(),
        UpdateBegin { part: 1, total_len: 70_000, offset: 4096, crc32c: 0xdead_beef }.into(),
        Confirm { part: 0 }.into(),
        Revert { part: 1 }.into(),
        Restart {}.into(),
        QuerySlots {}.into(),
        ProvisionKeys { key_a: [1; 32], key_b: [2; 32], robot: text("arm") }.into(),
        RotateKeys {
            generation: 2,
            key_a: [3; 32],
            key_b: [0; 32],
            key_id: [1; 8],
            signature_r: [4; 32],
            signature_s: [5; 32],
        }
        .into(),
        Arm { schema_hash: 0x0123_4567_89ab_cdef, session: 8 }.into(),
        Run { session: 8 }.into(),
        Stop {}.into(),
        Pace { lockstep: true }.into(),
        SetProfile { profile: 2 }.into(),
        Heartbeat { count: 9 }.into(),
        RawState {
            sequence: 5,
            time_us: 1 << 40,
            base_orientation: [1.0, 0.0, 0.0, 0.0],
            base_angular_velocity: [0.1, 0.2, 0.3],
            base_linear_velocity: [0.4, 0.5, 0.6],
            joint_position: floats(3),
            joint_velocity: floats(3),
            command: floats(2),
            preference: floats(1),
            sensors: floats(1),
        }
        .into(),
        Infer { reset: 1, input: floats(4) }.into(),
        Observe {}.into(),
        InferGolden { vector: 1 }.into(),
        ReadTiming {}.into(),
        ReadBlackBox { index: 3 }.into(),
        Inject { after: 1, ticks: 2, delay_us: 3000 }.into(),
        Identity {
            protocol: 1,
            table_hash: 2,
            board: text("qemu"),
            firmware: text("1.0"),
            robot: text("arm"),
            schema_hash: 3,
            image_crc32c: 4,
            slot_len: 5,
            state: 6,
            profile: 1,
            profiles: 3,
            profile_name: text("bench"),
            session: 7,
            flags: 1,
        }
        .into(),
        Reply { to: 0x20, code: 4, detail: 20_000 }.into(),
        Action {
            sequence: 5,
            time_us: 6,
            state: 4,
            cause: 0,
            profile: 1,
            alarms: 0x21,
            limited: 3,
            tick_us: 40,
            proposed: floats(2),
            position: floats(2),
            velocity: floats(2),
            torque: floats(2),
            kp: floats(2),
            kd: floats(2),
            torque_limit: floats(2),
        }
        .into(),
        Inferred { counts: 77, output: floats(3) }.into(),
        Telemetry { state: 2, ticks: 1000, observation: floats(4), ..Telemetry::default() }.into(),
        Slots { generation: 1, key_a: [1; 8], robot: text("arm"), policy_crc_1: 9, ..Slots::default() }
            .into(),
        Timing {
            reset_cause: 2,
            boots: 3,
            period_us: 20_000,
            deadline_us: 17_500,
            response_us: 900,
            misses: 1,
            latches: 2,
            early_feeds: 3,
            release_max_ns: 400,
            execution_max_ns: 80_000,
            blocked_max_ns: 9000,
            fallback_max_ns: 7000,
            release_from: 0,
            release: Counts::default(),
            execution_from: 30,
            execution: Counts([7, 70_000, 1].into_iter().collect()),
        }
        .into(),
        BlackBoxRecord {
            count: 9,
            index: 8,
            boot: 1,
            tick: 1000,
            time_us: 1 << 40,
            sequence: 5,
            state: 4,
            cause: 6,
            late: true,
            limited: 3,
            release_ns: 400,
            execution_ns: 80_000,
            base_orientation: [1.0, 0.0, 0.0, 0.0],
            base_angular_velocity: [0.1, 0.2, 0.3],
            joint_position: floats(2),
            joint_velocity: floats(2),
            position: floats(2),
            torque: floats(2),
            kp: floats(2),
            kd: floats(2),
        }
        .into(),
    ];
    let kinds: Vec<u8> = messages.iter().map(Message::kind).collect();
    assert_eq!(kinds, TABLE.iter().map(|row| row.kind).collect::<Vec<_>>(), "a row is missing here");
    messages
}

/// The bytes of its frame, delimiter included.
pub(crate) fn frame(message: &Message, sequence: u16) -> Vec<u8> {
    let mut payload = [0; MAX_PAYLOAD];
    let payload = message.encode(&mut payload).unwrap();
    let mut out = [0; MAX_FRAME];
    encode(&Frame { kind: message.kind(), sequence, payload }, &mut out).unwrap().to_vec()
}
