//! Fields of messages to bytes and back, in place: no message is moved, so that a controller needs stack for
//! one and not for its copies.
//!
//! The bytes are those of postcard with integers of fixed width; a test of `message` compares the two.

use crate::message::{Counts, MessageError};

/// Takes the bytes of a message, one after the other.
pub trait Sink {
    /// Takes bytes; false: there is no room.
    #[must_use]
    fn put(&mut self, bytes: &[u8]) -> bool;
}

/// What can be sent: any message, known by its type or not.
pub trait Encode {
    /// Kind byte of its frame.
    fn kind(&self) -> u8;

    /// Writes the fields in order; false: the sink is full.
    #[must_use]
    fn put(&self, sink: &mut impl Sink) -> bool;
}

/// A row of the message table.
pub trait Payload: Encode + Clone + Default + Into<crate::message::Message> {
    /// Reads all of `payload` into a message just made; what is in it after an error is of no use.
    ///
    /// # Errors
    /// A malformed payload, or a length that its counts do not give.
    fn take(&mut self, payload: &[u8]) -> Result<(), MessageError>;
}

/// The front of a buffer.
pub(crate) struct Buffer<'o> {
    pub(crate) out: &'o mut [u8],
    pub(crate) length: usize,
}

impl Sink for Buffer<'_> {
    fn put(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            let Some(place) = self.out.get_mut(self.length) else { return false };
            *place = byte;
            self.length += 1;
        }
        true
    }
}

/// What is left of a payload.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// Counts were spelled in their shortest form.
    canonical: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload, canonical: true }
    }

    /// Nothing is left, and nothing was spelled in a longer way than needed.
    pub(crate) fn is_exact(&self) -> bool {
        self.rest.is_empty() && self.canonical
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*array)
    }

    /// A count: 7 bits per byte, low bits first, the top bit says that more follow.
    fn count(&mut self) -> Option<usize> {
        let mut count = 0;
        for shift in [0, 7, 14, 21] {
            let [byte] = self.array()?;
            count |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                self.canonical &= byte != 0 || shift == 0;
                return Some(count);
            }
        }
        None
    }
}

fn put_count(count: usize, sink: &mut impl Sink) -> bool {
    let low = (count & 0x7f) as u8;
    match count >> 7 {
        0 => sink.put(&[low]),
        high @ 1..0x80 => sink.put(&[low | 0x80, high as u8]),
        // No field holds so many.
        _ => false,
    }
}

/// A type of a field.
pub(crate) trait Field {
    fn put(&self, sink: &mut impl Sink) -> bool;
    /// Reads into an empty value.
    fn take(&mut self, reader: &mut Reader<'_>) -> Option<()>;
}

macro_rules! little_endian {
    ($($ty:ty)*) => { $(
        impl Field for $ty {
            fn put(&self, sink: &mut impl Sink) -> bool {
                sink.put(&self.to_le_bytes())
            }

            fn take(&mut self, reader: &mut Reader<'_>) -> Option<()> {
                *self = <$ty>::from_le_bytes(reader.array()?);
                Some(())
            }
        }
    )* };
}

little_endian!(u8 u16 u32 u64 f32);

impl Field for bool {
    fn put(&self, sink: &mut impl Sink) -> bool {
        sink.put(&[u8::from(*self)])
    }

    fn take(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        *self = match reader.array()? {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        Some(())
    }
}

impl<const N: usize> Field for [f32; N] {
    fn put(&self, sink: &mut impl Sink) -> bool {
        self.iter().all(|value| value.put(sink))
    }

    fn take(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.iter_mut().try_for_each(|place| place.take(reader))
    }
}

impl Field for Counts {
    fn put(&self, sink: &mut impl Sink) -> bool {
        put_count(self.0.len(), sink) && self.0.iter().all(|count| count.put(sink))
    }

    fn take(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        for _ in 0..reader.count()? {
            self.0.push(u32::from_le_bytes(reader.array()?)).ok()?;
        }
        Some(())
    }
}

impl<const N: usize> Field for [u8; N] {
    fn put(&self, sink: &mut impl Sink) -> bool {
        sink.put(self)
    }

    fn take(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        *self = reader.array()?;
        Some(())
    }
}

impl<const N: usize> Field for heapless::Vec<f32, N> {
    fn put(&self, sink: &mut impl Sink) -> bool {
        put_count(self.len(), sink) && self.iter().all(|value| value.put(sink))
    }

    fn take(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        for _ in 0..reader.count()? {
            self.push(f32::from_le_bytes(reader.array()?)).ok()?;
        }
        Some(())
    }
}

impl<const N: usize> Field for heapless::Vec<u8, N> {
    fn put(&self, sink: &mut impl Sink) -> bool {
        put_count(self.len(), sink) && sink.put(self)
    }

    fn take(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let count = reader.count()?;
        self.extend_from_slice(reader.bytes(count)?).ok()
    }
}

impl<const N: usize> Field for heapless::String<N> {
    fn put(&self, sink: &mut impl Sink) -> bool {
        put_count(self.len(), sink) && sink.put(self.as_bytes())
    }

    fn take(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let count = reader.count()?;
        self.push_str(core::str::from_utf8(reader.bytes(count)?).ok()?).ok()
    }
}
