//! `docs/protocol.md` is written from the code that it describes.

use std::fmt::Write;
use tendon_runtime::{Cause, Refusal, State};
use tendon_wire::frame::{self, Frame, MAX_CONTENT, MAX_FRAME, MAX_PAYLOAD};
use tendon_wire::image::{
    ALIGN, AbstentionHeader, ActionRecord, CRC_FROM, ContractHeader, FORMAT_VERSION, GEMM_ROWS, Header,
    JointRecord, MAX_IMAGE, Operator, Plan, ProfileRecord, SensorRecord, TERM_VALUES, TermRecord, binary,
    limit, mode, monitor, opcode, pool, reduce, signal, unary,
};
use tendon_wire::message::{
    BINS, Direction, Hello, MAX_CHUNK, MAX_COMMANDS, MAX_JOINTS, MAX_OBSERVATION, MAX_PREFERENCES,
    MAX_SENSORS, Message, PROTOCOL_VERSION, Reply, Row, TABLE, TABLE_HASH, Text,
};

/// Name of a type in the document, fewest and most bytes.
fn layout(ty: &str) -> (String, usize, usize) {
    let fixed = |name: &str, len| (name.to_owned(), len, len);
    // Up to 127 a count takes one byte, up to 16383 two.
    let counted =
        |name: String, most: usize, each: usize| (name, 1, if most < 128 { 1 } else { 2 } + most * each);
    match ty.replace(' ', "").as_str() {
        "u8" => fixed("u8", 1),
        "bool" => fixed("bool (0 or 1)", 1),
        "u16" => fixed("u16", 2),
        "u32" => fixed("u32", 4),
        "u64" => fixed("u64", 8),
        "[u8;8]" => fixed("u8 x 8", 8),
        "[u8;32]" => fixed("u8 x 32", 32),
        "f32" => fixed("f32", 4),
        "[f32;3]" => fixed("f32 x 3", 12),
        "[f32;4]" => fixed("f32 x 4", 16),
        "Text" => {
            counted(format!("text, at most {} bytes", Text::new().capacity()), Text::new().capacity(), 1)
        }
        "Counts" => counted(format!("count, then u32, at most {BINS}"), BINS, 4),
        "Bytes" => counted(format!("bytes, at most {MAX_CHUNK}"), MAX_CHUNK, 1),
        other => {
            let (_, most) = [
                ("Floats<MAX_JOINTS>", MAX_JOINTS),
                ("Floats<MAX_COMMANDS>", MAX_COMMANDS),
                ("Floats<MAX_PREFERENCES>", MAX_PREFERENCES),
                ("Floats<MAX_SENSORS>", MAX_SENSORS),
                ("Floats<MAX_OBSERVATION>", MAX_OBSERVATION),
            ]
            .into_iter()
            .find(|(name, _)| *name == other)
            .unwrap_or_else(|| {
                panic!("say in tests/tests/protocol.rs what a `{other}` looks like on the link")
            });
            counted(format!("count, then f32, at most {most}"), most, 4)
        }
    }
}

fn lengths(row: &Row) -> (usize, usize) {
    row.fields
        .iter()
        .map(|field| layout(field.1))
        .fold((0, 0), |sum, field| (sum.0 + field.1, sum.1 + field.2))
}

fn span((low, high): (usize, usize)) -> String {
    if low == high { low.to_string() } else { format!("{low} to {high}") }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn framed(message: &Message, sequence: u16) -> String {
    let (mut payload, mut out) = ([0; MAX_PAYLOAD], [0; MAX_FRAME]);
    let payload = message.encode(&mut payload).unwrap();
    hex(frame::encode(&Frame { kind: message.kind(), sequence, payload }, &mut out).unwrap())
}

fn table(text: &mut String, head: [&str; 2], rows: &[(u32, &str)]) {
    writeln!(text, "| {} | {} |\n|---|---|", head[0], head[1]).unwrap();
    for (number, meaning) in rows {
        writeln!(text, "| {number} | {meaning} |").unwrap();
    }
    text.push('\n');
}

/// What each code means; a code without a sentence here fails the test.
fn states() -> Vec<(u32, String)> {
    codes(State::from_code, |state| match state {
        State::Boot => "before anything was checked; no torque",
        State::SelfTest => "golden vectors run; no torque",
        State::Idle => "no torque; may be armed",
        State::Ready => "torque on, on the way to the default pose or there",
        State::Running => "the policy acts",
        State::Damping => "fallback: holds the last setpoint for a moment, then damps",
        State::Fault => "no torque, latched; may be armed after a healthy dwell",
    })
}

fn causes() -> Vec<(u32, String)> {
    codes(Cause::from_code, |cause| match cause {
        Cause::None => "did not fall back",
        Cause::Stop => "`Stop` was commanded; ends in Idle, every other cause in Fault",
        Cause::StaleState => "no raw state young enough; holds before it damps",
        Cause::HostSilent => "no message of the host; holds before it damps",
        Cause::InvalidState => "a raw state was not finite, had wrong counts or no unit quaternion",
        Cause::InvalidAction => "the network's output was not finite",
        Cause::Overrun => "the tick ended after its deadline",
        Cause::Internal => "image and memory do not fit together",
        Cause::SensorAge => "the sensors' clock stands still",
        Cause::SensorOff => "a sensor channel gives only zeros while the robot moves",
        Cause::SensorStuck => "a sensor channel stands still while the robot moves",
        Cause::SensorNoise => "sensors of one motion disagree, or one flickers",
        Cause::SensorJump => "a sensor channel changed further than the robot can move, or left its range",
        Cause::Response => "a joint does not follow its commands, or runs away",
        Cause::Abstention => "the observation is unlike the recorded ones",
    })
}

fn refusals() -> Vec<(u32, String)> {
    let mut rows = vec![(0, "done".to_owned())];
    rows.extend(codes(Refusal::from_code, |refusal| match refusal {
        Refusal::State => "not in this state; detail: the state",
        Refusal::NoContract => "no image, or one without contract",
        Refusal::Schema => "the schema hash differs; detail: low half of the controller's",
        Refusal::Dwell => "no healthy dwell yet; detail: missing us",
        Refusal::Pose => "too far from the default pose; detail: joint in the policy's order",
        Refusal::TooLarge => "the image is larger than the slot; detail: the slot's length",
        Refusal::Order => "a chunk is not the next one, or some are missing; detail: the offset expected",
        Refusal::Image => "the image does not hold",
        Refusal::SelfTest => "a golden vector differs; detail: its number",
        Refusal::Memory => "the image does not fit the controller's memory; detail: f32 needed",
        Refusal::Input => "the input has not the network's length; detail: that length",
        Refusal::Slow => {
            "by the response-time analysis a tick might miss its deadline; detail: the time reached, us"
        }
        Refusal::Unsupported => "this firmware does not do that",
        Refusal::Session => "the session is not the one of the last `Hello`: say hello again",
        Refusal::Profile => "the contract has no such profile; detail: how many it has",
        Refusal::Looser => "torque is on, and the profile would loosen a limit; detail: the profile in force",
        Refusal::Rollback => "the image's rollback counter is below the stored one; detail: the stored one",
        Refusal::Signature => "not signed as this controller wants it; detail: 0 unsigned, 1 unknown key, 2 wrong signature",
        Refusal::Robot => "for another robot (policy) or board (firmware)",
        Refusal::Keys => {
            "the key set cannot be taken; detail: 1 weak, 2 there are keys already, 3 there are none yet, 4 wrong generation, 5 signature, 6 what boots is not signed with one, 7 another robot, 8 damaged in flash"
        }
        Refusal::Flash => "flash could not be written, or there is no boot stage; detail: where",
        Refusal::Trial => "what runs is on trial and must be confirmed or reverted first, or nothing is on trial",
    }));
    rows
}

fn codes<T: std::fmt::Debug + Copy>(
    from_code: impl Fn(u8) -> Option<T>,
    meaning: impl Fn(T) -> &'static str,
) -> Vec<(u32, String)> {
    (0..=255)
        .filter_map(|code| {
            from_code(code).map(|value| (code.into(), format!("{value:?}: {}", meaning(value))))
        })
        .collect()
}

fn borrowed(rows: &[(u32, String)]) -> Vec<(u32, &str)> {
    rows.iter().map(|(number, text)| (*number, text.as_str())).collect()
}

fn link() -> String {
    let mut text = String::new();
    let hello = framed(&Hello {}.into(), 1);
    let reply = framed(&Reply { to: 0x20, code: Refusal::Dwell as u8, detail: 20_000 }.into(), 2);
    writeln!(
        text,
        "# The protocol\n\n\
         Written from `wire` and `runtime` by `tests/tests/protocol.rs`: change those, then run\n\
         `TENDON_UPDATE=1 cargo test -p tendon-tests`.\n\n\
         Protocol version {PROTOCOL_VERSION}, table hash `{TABLE_HASH:#018x}`. `Identity` carries both; hosts and \
         controllers with the same hash understand each other.\n\
         Messages that say so are frozen: any later host can update any controller (docs/flash.md).\n\n\
         ## Frames\n\n\
         ```text\n\
         COBS( kind u8 | sequence u16 | payload | CRC-32C u32 ) 00\n\
         ```\n\n\
         - Everything is little-endian. The CRC-32C (Castagnoli, reflected, as in iSCSI) covers kind, sequence and payload.\n\
         - At most {MAX_CONTENT} bytes before COBS, {MAX_PAYLOAD} of them payload; at most {MAX_FRAME} bytes on the link.\n\
         - The sequence counts frames per direction and wraps. A reply repeats the number of its request.\n\
         - The payload is the postcard encoding of the row's fields, one after the other. Integers wider than a byte\n  \
           have fixed width; `f32` is IEEE 754; a count is a varint in its shortest form (7 bits a byte, low first).\n\n\
         | bytes | meaning |\n|---|---|\n\
         | `{hello}` | `Hello`, sequence 1 |\n\
         | `{reply}` | `Reply` to `Arm`, sequence 2: Dwell, 20000 us missing |\n\n\
         ## Errors\n\n\
         - A frame with a bad COBS code, CRC, kind or length is dropped whole and counted (`rejected_frames`);\n  \
           nothing is answered and no actuator is touched.\n\
         - After any damage a receiver is in step at the next `00`: at most one more frame is lost.\n\
         - A length must be exactly what the counts say, in the shortest spelling; enumerations and `bool` take no other value.\n\
         - A raw state whose sequence is not newer than the last (modulo 2^32), or that is not finite, has wrong counts or\n  \
           no unit quaternion is refused whole and counted (`rejected_states`).\n\
         - Messages of the controller that come back to it are ignored and are no sign of life.\n\
         - A command that cannot be taken is answered with `Reply` and the code below; nothing has changed then.\n"
    )
    .unwrap();
    text
}

fn messages() -> String {
    let mut text =
        String::from("## Messages\n\n| kind | name | direction | payload bytes |\n|---|---|---|---|\n");
    let arrow = |direction| match direction {
        Direction::ToController => "host -> controller",
        Direction::ToHost => "controller -> host",
    };
    for row in TABLE {
        let name = row.name;
        let (arrow, bytes) = (arrow(row.direction), span(lengths(row)));
        writeln!(text, "| {:#04x} | [{name}](#{}) | {arrow} | {bytes} |", row.kind, name.to_lowercase())
            .unwrap();
    }
    for row in TABLE {
        let sentence = row.doc.trim();
        writeln!(text, "\n### {}\n\n`{:#04x}`, {}. {sentence}\n", row.name, row.kind, arrow(row.direction))
            .unwrap();
        if row.fields.is_empty() {
            writeln!(text, "No payload.").unwrap();
            continue;
        }
        writeln!(text, "| field | type | bytes | meaning |\n|---|---|---|---|").unwrap();
        for (field, ty, meaning) in row.fields {
            let (ty, low, high) = layout(ty);
            writeln!(text, "| `{field}` | {ty} | {} | {} |", span((low, high)), meaning.trim()).unwrap();
        }
    }
    text.push('\n');
    text
}

fn numbers() -> String {
    let mut text = String::from("## Numbers\n\n### States\n\n");
    table(&mut text, ["`state`", "meaning"], &borrowed(&states()));
    text.push_str("### Causes\n\n");
    table(&mut text, ["`cause`", "why the controller fell back"], &borrowed(&causes()));
    text.push_str("### Refusals\n\n");
    table(&mut text, ["`code` of `Reply`", "meaning"], &borrowed(&refusals()));
    text.push_str("### Monitors\n\n");
    let monitors: Vec<(u32, &str)> = (0..).zip(monitor::NAMES).collect();
    table(&mut text, ["bit of `alarms`, `last_alarm`", "monitor (docs/envelope.md)"], &monitors);
    text.push_str("### Limits\n\n");
    let limits = [
        (MAX_JOINTS as u32, "joints, and elements of the action"),
        (MAX_COMMANDS as u32, "elements of the command"),
        (MAX_PREFERENCES as u32, "preference inputs"),
        (MAX_SENSORS as u32, "sensors of the task"),
        (MAX_OBSERVATION as u32, "elements of an observation, terms of a contract, frames of a history"),
        (MAX_CHUNK as u32, "image bytes in a chunk"),
    ];
    table(&mut text, ["at most", "of"], &limits);
    text
}

fn image() -> String {
    let mut text = String::new();
    writeln!(
        text,
        "## The policy image\n\n\
         `policy.tnd`, format version {FORMAT_VERSION}: a header of {} bytes, then sections, each at a multiple of {ALIGN} \
         and in the order of their numbers; at most {MAX_IMAGE} bytes. The records are `#[repr(C)]` without padding \
         (`wire/src/image/`), little-endian, read in place.\n\n\
         | header bytes | field |\n|---|---|\n\
         | 0..4 | `TNDP` |\n\
         | 4..8 | CRC-32C of bytes {CRC_FROM}..total length |\n\
         | 8..12 | total length |\n\
         | 12..14 | format version |\n\
         | 14..16 | flags, 0 |\n\
         | 16..20 | rollback counter |\n\
         | 20..24 | reserved, 0 |\n\
         | 24..32 | schema hash: FNV-1a (64 bit) of the contract section, 0 without one |\n\
         | 32..64 | robot id, UTF-8, zero-padded |\n\
         | 64..128 | eight spans, offset u32 and length u32; length 0: absent |\n",
        size_of::<Header>()
    )
    .unwrap();
    let sections = [
        (
            0,
            format!(
                "Contract: header of {} bytes (thresholds of the monitors inside), joints of {}, terms of {}, actions of {}, profiles of {}, sensors of {}, then f32 values ({TERM_VALUES} per element of a term)",
                size_of::<ContractHeader>(),
                size_of::<JointRecord>(),
                size_of::<TermRecord>(),
                size_of::<ActionRecord>(),
                size_of::<ProfileRecord>(),
                size_of::<SensorRecord>()
            ),
        ),
        (1, format!("Operators of {} bytes, in order of execution", size_of::<Operator>())),
        (
            2,
            format!(
                "Weights, words of 4 bytes: f32, tables and records; a Gemm matrix in blocks of {GEMM_ROWS} interleaved rows"
            ),
        ),
        (3, format!("Plan, {} bytes: sizes and costs", size_of::<Plan>())),
        (4, "Golden vectors, f32: input, output, again and again".to_owned()),
        (5, "Manifest: the contract as JSON; controllers do not read it".to_owned()),
        (
            6,
            format!(
                "Abstention: header of {} bytes, then f32: low, high, mean, inverse scale of each input, gains, basis",
                size_of::<AbstentionHeader>()
            ),
        ),
        (7, "Signature, 80 bytes, the last of the image: docs/flash.md".to_owned()),
    ];
    table(&mut text, ["section", "content"], &borrowed(&sections));
    let named = |text: &mut String, title: &str, rows: &[(u8, &str)]| {
        let rows: Vec<String> = rows.iter().map(|(number, name)| format!("{number} {name}")).collect();
        writeln!(text, "- {title}: {}.", rows.join(", ")).unwrap();
    };
    let numbered = |text: &mut String, title: &str, first: u8, names: &[&'static str]| {
        let rows: Vec<(u8, &str)> = (first..).zip(names.iter().copied()).collect();
        named(text, title, &rows);
    };
    numbered(&mut text, "Opcodes", 1, &opcode::NAMES);
    numbered(&mut text, "Functions of one number (up to Elu also behind Gemm and Conv)", 0, &unary::NAMES);
    numbered(&mut text, "Functions of two numbers", 0, &binary::NAMES);
    numbered(&mut text, "Reductions", 0, &reduce::NAMES);
    numbered(&mut text, "Poolings", 0, &pool::NAMES);
    let signals = [
        (signal::BASE_LINEAR_VELOCITY, "base linear velocity"),
        (signal::BASE_ANGULAR_VELOCITY, "base angular velocity"),
        (signal::PROJECTED_GRAVITY, "projected gravity"),
        (signal::BASE_ORIENTATION, "base orientation (w x y z)"),
        (signal::JOINT_POSITION, "joint position"),
        (signal::JOINT_POSITION_RELATIVE, "joint position minus default"),
        (signal::JOINT_VELOCITY, "joint velocity"),
        (signal::LAST_ACTION, "last raw action"),
        (signal::COMMAND, "command"),
        (signal::PREFERENCE, "preference"),
        (signal::SENSOR, "sensor"),
        (signal::JOINT_SIN, "sine of joint position"),
        (signal::JOINT_COS, "cosine of joint position"),
    ];
    named(&mut text, "Signals of observation terms", &signals);
    let modes = [(mode::POSITION, "position"), (mode::VELOCITY, "velocity"), (mode::TORQUE, "torque")];
    named(&mut text, "Action modes", &modes);
    numbered(&mut text, "Limits of a profile", 0, &limit::NAMES);
    text
}

#[test]
fn protocol_md_says_what_the_code_says() {
    let text = [link(), messages(), numbers(), image()].concat();
    tendon_tests::assert_committed("docs/protocol.md", &text);
}

#[test]
fn the_longest_payload_of_every_message_fits_a_frame() {
    for row in TABLE {
        let (_, most) = lengths(row);
        assert!(most <= MAX_PAYLOAD, "{}: {most} bytes of at most {MAX_PAYLOAD}", row.name);
    }
}

#[test]
fn header_fields_lie_where_the_document_says() {
    use std::mem::offset_of;
    let found = [
        offset_of!(Header, magic),
        offset_of!(Header, crc32c),
        offset_of!(Header, total_len),
        offset_of!(Header, format_version),
        offset_of!(Header, flags),
        offset_of!(Header, rollback_counter),
        offset_of!(Header, reserved),
        offset_of!(Header, schema_hash),
        offset_of!(Header, robot_id),
        offset_of!(Header, sections),
    ];
    assert_eq!(found, [0, 4, 8, 12, 14, 16, 20, 24, 32, 64]);
}
