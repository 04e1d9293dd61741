//! Finds packets in a stream of bytes that may be damaged anywhere.

/// Longest packet that a servo sends to us; a length beyond it is damage.
pub(crate) const MAX_PACKET: usize = 64;

/// What the front of a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// The beginning of a packet, so far.
    More,
    /// No packet begins here.
    No,
    /// A header that leads nowhere: bad length, CRC or checksum.
    Bad,
    /// A good packet of so many bytes.
    Packet(usize),
}

/// Bytes not yet understood. After damage it looks again from the next byte, so a good packet behind a bad
/// length is still found.
#[derive(Debug)]
pub(crate) struct Scanner {
    bytes: heapless::Vec<u8, MAX_PACKET>,
    look: fn(&[u8]) -> Look,
    packet: usize,
}

impl Scanner {
    pub(crate) fn new(look: fn(&[u8]) -> Look) -> Self {
        Self { bytes: heapless::Vec::new(), look, packet: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.packet = 0;
    }

    /// Takes one byte. Call [`Self::next`] until it gives nothing before the next.
    pub(crate) fn push(&mut self, byte: u8) {
        if self.bytes.push(byte).is_err() {
            // Cannot be: the longest packet fits, and what is longer was dropped.
            self.drop_front(1);
            let _ = self.bytes.push(byte);
        }
    }

    /// The next good packet. `corrupt` counts headers that led nowhere.
    pub(crate) fn next(&mut self, corrupt: &mut u32) -> Option<&[u8]> {
        let used = core::mem::take(&mut self.packet);
        self.drop_front(used);
        loop {
            match (self.look)(&self.bytes) {
                Look::More => return None,
                Look::No => self.drop_front(1),
                Look::Bad => {
                    *corrupt = corrupt.wrapping_add(1);
                    self.drop_front(1);
                }
                Look::Packet(length) => {
                    self.packet = length;
                    return self.bytes.get(..length);
                }
            }
        }
    }

    /// Nothing more will come: what waits is no packet. Look behind its first byte; false: nothing is left.
    pub(crate) fn give_up(&mut self) -> bool {
        self.drop_front(1);
        !self.bytes.is_empty()
    }

    fn drop_front(&mut self, count: usize) {
        let left = self.bytes.len().saturating_sub(count);
        if left == 0 {
            self.bytes.clear();
        } else if count > 0 {
            self.bytes.rotate_left(count);
            self.bytes.truncate(left);
        }
    }
}

/// Looks for `header`; `rest` judges what begins with it.
pub(crate) fn after_header(bytes: &[u8], header: &[u8], rest: impl FnOnce(&[u8]) -> Look) -> Look {
    if bytes.is_empty() {
        return Look::More;
    }
    let common = bytes.len().min(header.len());
    if bytes.get(..common) != header.get(..common) {
        return Look::No;
    }
    if bytes.len() < header.len() { Look::More } else { rest(bytes) }
}
