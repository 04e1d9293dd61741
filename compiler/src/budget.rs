//! How much memory a protobuf may unfold to, judged before it is decoded: two bytes of an ONNX file
//! can become an attribute of half a kilobyte.

use crate::error::ImportError;

/// Most bytes that decoding may need beyond the tensor data itself.
const LIMIT: usize = 256 << 20;
/// Deepest nesting of graphs.
const MAX_DEPTH: u32 = 16;

/// Messages that hold many others; the rest is charged by its length.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
}

/// Refuses files that unfold to too much, and parts that no policy needs.
pub(crate) fn check(bytes: &[u8]) -> Result<(), ImportError> {
    let mut spent = 0;
    walk(bytes, Kind::Model, 0, &mut spent)
}

fn walk(bytes: &[u8], kind: Kind, depth: u32, spent: &mut usize) -> Result<(), ImportError> {
    let broken = || ImportError::Protobuf("it ends in the middle of a field: the file is truncated".into());
    if depth > MAX_DEPTH {
        return Err(ImportError::TooLarge {
            what: "nesting of graphs",
            value: depth as usize,
            limit: MAX_DEPTH as usize,
        });
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        let key = varint(&mut rest).ok_or_else(broken)?;
        let body = match key & 7 {
            0 => varint(&mut rest).map(|_| &[][..]),
            1 => take(&mut rest, 8),
            2 => varint(&mut rest).and_then(|length| take(&mut rest, usize::try_from(length).ok()?)),
            5 => take(&mut rest, 4),
            other => return Err(ImportError::Protobuf(format!("wire type {other} is no ONNX"))),
        }
        .ok_or_else(broken)?;
        let (charge, inner) = match (kind, key >> 3) {
            (Kind::Model, 20) => return Err(refused("training_info")),
            (Kind::Model, 25) => return Err(refused("functions")),
            (Kind::Model, 7) | (Kind::Attribute, 6 | 11) => (512, Some(Kind::Graph)),
            (Kind::Graph, 1) => (256, Some(Kind::Node)),
            (Kind::Graph, 5) | (Kind::Attribute, 5 | 10) => (512, Some(Kind::Tensor)),
            (Kind::Node, 5) => (1024, Some(Kind::Attribute)),
            // Numbers and text unfold to a few times their length, bounded by the file's.
            (Kind::Tensor, 4 | 5 | 7 | 9 | 10) | (Kind::Attribute, 4 | 7 | 8) | (Kind::Model, 6) => (0, None),
            _ => (48 + 24 * body.len(), None),
        };
        *spent += charge;
        if *spent > LIMIT {
            return Err(ImportError::TooLarge { what: "decoded size", value: *spent, limit: LIMIT });
        }
        if let Some(inner) = inner {
            walk(body, inner, depth + 1, spent)?;
        }
    }
    Ok(())
}

fn refused(field: &'static str) -> ImportError {
    ImportError::Model { field, problem: "is not read: export the plain inference graph".into() }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for place in 0..10 {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_small_messages_that_unfold_to_gigabytes() {
        // A graph that is nothing but empty nodes, 2 bytes each.
        let nodes = [0x0a, 0].repeat(2 << 20);
        let mut file = vec![0x3a];
        let mut length = nodes.len();
        while length >= 0x80 {
            file.push(length as u8 | 0x80);
            length >>= 7;
        }
        file.push(length as u8);
        file.extend(nodes);
        assert!(matches!(check(&file), Err(ImportError::TooLarge { what: "decoded size", .. })));
    }

    #[test]
    fn refuses_graphs_within_graphs_without_end() {
        let mut file: Vec<u8> = Vec::new();
        for _ in 0..30 {
            for key in [0x32, 0x2a, 0x0a] {
                let mut outer = vec![key, file.len() as u8 | 0x80, (file.len() >> 7) as u8];
                outer.extend(&file);
                file = outer;
            }
        }
        let mut model = vec![0x3a, file.len() as u8 | 0x80, (file.len() >> 7) as u8];
        model.extend(&file);
        assert!(matches!(check(&model), Err(ImportError::TooLarge { what: "nesting of graphs", .. })));
    }
}
