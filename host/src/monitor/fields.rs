//! Fields of any message by the table that defines it: a counter added there is shown without a line here.

use tendon_runtime::{Cause, State, timing::ResetCause};
use tendon_wire::frame::MAX_PAYLOAD;
use tendon_wire::message::{Message, TABLE};

/// Name and value of each field; lists are left out.
#[must_use]
pub fn fields(message: &Message) -> Vec<(&'static str, String)> {
    let mut buffer = [0; MAX_PAYLOAD];
    let Some(row) = TABLE.iter().find(|row| row.kind == message.kind()) else { return Vec::new() };
    let mut rest = message.encode(&mut buffer).unwrap_or(&[]);
    let mut found = Vec::new();
    for (name, ty, _) in row.fields {
        match take(name, &ty.replace(' ', ""), &mut rest) {
            Taken::Value(value) => found.push((*name, value)),
            Taken::List => {}
            Taken::Unknown => break,
        }
    }
    found
}

enum Taken {
    Value(String),
    List,
    Unknown,
}

fn take(name: &str, ty: &str, rest: &mut &[u8]) -> Taken {
    let value = match ty {
        "u8" => bytes(rest).map(|[byte]: [u8; 1]| code(name, byte)),
        "bool" => bytes(rest).map(|[byte]: [u8; 1]| (byte != 0).to_string()),
        "u16" => bytes(rest).map(|bytes| u16::from_le_bytes(bytes).to_string()),
        "u32" => bytes(rest).map(|bytes| u32::from_le_bytes(bytes).to_string()),
        "u64" => bytes(rest).map(|bytes| u64::from_le_bytes(bytes).to_string()),
        "f32" => bytes(rest).map(|bytes| format!("{:.3}", f32::from_le_bytes(bytes))),
        "Text" => text(rest),
        _ => {
            let fixed = |prefix: &str| ty.strip_prefix(prefix)?.strip_suffix(']')?.parse::<usize>().ok();
            let (each, list) = match (fixed("[f32;"), fixed("[u8;")) {
                (Some(count), _) => (4, Some(count)),
                (_, Some(count)) => (1, Some(count)),
                _ if ty == "Bytes" => (1, count(rest)),
                _ if ty == "Counts" || ty.starts_with("Floats<") => (4, count(rest)),
                _ => return Taken::Unknown,
            };
            let skipped = list.and_then(|n| rest.get(n * each..));
            return match skipped {
                Some(after) => {
                    *rest = after;
                    Taken::List
                }
                None => Taken::Unknown,
            };
        }
    };
    value.map_or(Taken::Unknown, Taken::Value)
}

fn bytes<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*first)
}

/// Seven bits per byte, low bits first.
fn count(rest: &mut &[u8]) -> Option<usize> {
    let mut count = 0;
    for shift in [0, 7] {
        let [byte] = bytes(rest)?;
        count |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(count);
        }
    }
    None
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = count(rest)?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Codes by their names, where they have one.
fn code(name: &str, value: u8) -> String {
    let named = match name {
        "state" => State::from_code(value).map(|state| format!("{state:?}")),
        "cause" | "last_fault" => Cause::from_code(value).map(|cause| format!("{cause:?}")),
        "reset_cause" => ResetCause::from_code(value).map(|cause| format!("{cause:?}")),
        _ => None,
    };
    named.unwrap_or_else(|| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tendon_wire::message::{Identity, RawState, Telemetry};

    #[test]
    fn names_every_field_that_is_no_list() {
        let telemetry = Telemetry {
            state: State::Fault as u8,
            cause: Cause::Overrun as u8,
            ticks: 70_000,
            stack_bytes: 9,
            observation: [1.0; 300].into_iter().collect(),
            ..Telemetry::default()
        };
        let found = fields(&telemetry.into());
        let value = |name: &str| found.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str());
        assert_eq!(value("state"), Some("Fault"));
        assert_eq!(value("cause"), Some("Overrun"));
        assert_eq!((value("ticks"), value("stack_bytes")), (Some("70000"), Some("9")));
        assert_eq!(value("observation"), None);
    }

    #[test]
    fn reads_past_lists_and_text() {
        let board = "qemu".try_into().unwrap();
        let found = fields(&Identity { board, state: 2, ..Identity::default() }.into());
        assert!(found.contains(&("board", "qemu".into())) && found.contains(&("state", "Idle".into())));
        let state = RawState { joint_position: [1.0; 3].into_iter().collect(), ..RawState::default() };
        assert_eq!(fields(&state.into()).len(), 2, "sequence and time");
    }

    #[test]
    fn knows_the_types_of_every_message() {
        for row in TABLE {
            let message = Message::decode(row.kind, &[]);
            let Ok(message) = message else { continue };
            assert_eq!(fields(&message).len(), row.fields.len());
        }
        for row in TABLE.iter().filter(|row| ["Telemetry", "Timing", "BlackBoxRecord"].contains(&row.name)) {
            let mut empty = vec![0; 200];
            let message = loop {
                match Message::decode(row.kind, &empty) {
                    Ok(message) => break message,
                    Err(_) => _ = empty.pop().expect("some length decodes"),
                }
            };
            let lists = |ty: &str| ty.contains('[') || ty.contains("Floats") || ty.contains("Counts");
            let scalars = row.fields.iter().filter(|field| !lists(field.1)).count();
            assert_eq!(fields(&message).len(), scalars, "{}", row.name);
        }
    }
}
