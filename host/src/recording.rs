//! Recordings: the link's own frames, one after the other, in a file.
//!
//! Append-only and self-delimiting: a crash loses at most the last frame, and a damaged frame costs itself
//! alone. Whoever reads the link can read a recording.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use tendon_runtime::{Contract, ObservationBuilder, check_state};
use tendon_runtime::{RawState, node};
use tendon_wire::codec::Encode;
use tendon_wire::frame::{Decoder, MAX_FRAME};
use tendon_wire::message::{Action, Message};
use tendon_wire::mutation::{Check, removed};

/// Writes raw states and actions as they happen.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    file: BufWriter<File>,
    sequence: u16,
}

impl Recorder {
    /// Starts a new recording; an older one at this place is replaced.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
        Ok(Self { path: path.to_path_buf(), file: BufWriter::new(file), sequence: 0 })
    }

    /// Where it goes.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one tick. When this returns, the tick survives the end of this process, however it ends.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn tick(&mut self, state: &RawState, action: &Action) -> io::Result<()> {
        self.message(state)?;
        self.message(action)?;
        if removed(Check::RecorderFlush) { Ok(()) } else { self.file.flush() }
    }

    fn message(&mut self, message: &impl Encode) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut out = [0; MAX_FRAME];
        let frame = node::write(message, self.sequence, &mut out)
            .ok_or_else(|| io::Error::other("message longer than a frame"))?;
        self.file.write_all(frame)
    }

    /// Writes out what is buffered and syncs the file.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()
    }
}

/// What a recording holds.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Good messages in order.
    pub messages: Vec<Message>,
    /// Frames that were damaged.
    pub damaged: usize,
}

impl Recording {
    /// Reads a recording to its end, past damaged frames.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        File::open(path)?.read_to_end(&mut bytes)?;
        Ok(Self::parse(&bytes))
    }

    /// What the bytes of a recording hold, past damaged frames.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let mut recording = Self::default();
        let mut decoder = Decoder::new();
        for &byte in bytes {
            let Some(frame) = decoder.push(byte) else { continue };
            let message = frame.ok().and_then(|frame| Message::decode(frame.kind, frame.payload).ok());
            match message {
                Some(message) => recording.messages.push(message),
                None => recording.damaged += 1,
            }
        }
        recording
    }
}

impl Recording {
    /// What the network saw: the observation of every tick at which it ran, built from the raw states as the
    /// controller builds it.
    #[must_use]
    pub fn observations(&self, contract: &Contract<'_>) -> Vec<Vec<f32>> {
        let mut builder = ObservationBuilder::default();
        let mut history = vec![0.0; contract.header.history_len as usize];
        let mut last_action = vec![0.0; contract.actions.len()];
        let (mut running, mut latest, mut rows) = (false, None, Vec::new());
        for message in &self.messages {
            match message {
                Message::RawState(state) => latest = Some(state),
                Message::Action(action) => {
                    let Some(state) = latest.take() else { continue };
                    // Without a proposed action the network did not run.
                    if action.proposed.is_empty() {
                        running = false;
                        continue;
                    }
                    if !running {
                        builder.reset();
                        last_action.fill(0.0);
                        running = true;
                    }
                    let mut row = vec![0.0; contract.header.n_observation as usize];
                    let built = builder.build(contract, state, &last_action, &mut history, &mut row);
                    // No network proposes NaN; a file may.
                    let is_finite = row.iter().all(|value| value.is_finite());
                    if check_state(contract, state).is_ok() && built.is_ok() && is_finite {
                        rows.push(row);
                    }
                    last_action.clear();
                    last_action.extend_from_slice(&action.proposed);
                }
                _ => {}
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_and_a_damaged_frame_costs_itself_alone() {
        let folder = std::env::temp_dir().join(format!("tendon-recording-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("recording.tnr");
        let mut recorder = Recorder::create(&path).unwrap();
        for sequence in 0..10 {
            let state = RawState { sequence, ..RawState::default() };
            recorder.tick(&state, &Action { sequence, ..Action::default() }).unwrap();
        }
        recorder.finish().unwrap();
        let whole = Recording::read(&path).unwrap();
        assert_eq!((whole.messages.len(), whole.damaged), (20, 0));

        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100] ^= 0x10;
        let cut = bytes.len() - 3;
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let hurt = Recording::read(&path).unwrap();
        assert_eq!((hurt.messages.len(), hurt.damaged), (18, 1));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
