//! The controller in this process: the same node, without bytes in between.

use super::flash::HostFlash;
use super::{LinkError, Transport};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tendon_boot::{Boot, Layout};
use tendon_runtime::node::{self, BoardInfo, Clock, Control, Loader};
use tendon_runtime::store::{Store, places};
use tendon_runtime::{Memory, Refusal, State};
use tendon_wire::frame::{Decoder, MAX_FRAME};
use tendon_wire::message::{Action, Message, Reply, Telemetry};

/// `f32` of activations; as in the firmware.
pub(super) const ARENA: usize = 32 << 10;
pub(super) const HISTORY: usize = 1024;
pub(super) const OBSERVATION: usize = 512;

/// A controller that answers at once.
pub struct InProcess<'m> {
    control: Control<'m>,
    loader: Loader<'m, Boot<HostFlash>>,
    answers: VecDeque<(u16, Message)>,
    clock: HostClock,
    decoder: Decoder,
}

impl InProcess<'_> {
    /// Bytes of the link in, those of the answers out: the way a serial port would bring them.
    pub fn bytes(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = [0; MAX_FRAME];
        let mut answers = Vec::new();
        for &byte in bytes {
            let (decoder, loader, control) = (&mut self.decoder, &mut self.loader, &mut self.control);
            let answer = node::receive(byte, decoder, loader, control, &INFO, &self.clock, &mut out);
            answers.extend_from_slice(answer.unwrap_or(&[]));
        }
        answers
    }

    /// Counters, without asking over the link.
    #[must_use]
    pub fn telemetry(&self) -> Telemetry {
        self.control.telemetry()
    }
}

/// Time since the process asked first.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostClock(pub(super) Instant);

impl Clock for HostClock {
    fn now_us(&self) -> u64 {
        self.0.elapsed().as_micros().min(u64::MAX.into()) as u64
    }

    fn counts(&self) -> u32 {
        self.0.elapsed().as_nanos() as u32
    }

    fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos().min(u64::MAX.into()) as u64
    }
}

const INFO: BoardInfo = BoardInfo { name: "in-process", firmware: env!("CARGO_PKG_VERSION") };

/// Lends memory for two slots of `slot_len` bytes, and a fresh flash, to a controller while `f` runs.
pub fn with_in_process<R>(slot_len: usize, f: impl FnOnce(InProcess<'_>) -> R) -> R {
    let layout = Layout::policies(slot_len.max(1) as u32, 4096);
    let mut store = Boot::start(HostFlash::memory(layout.capacity()), layout, INFO.name);
    let words = slot_len.div_ceil(16);
    let (mut one, mut other) = (vec![0u128; words], vec![0u128; words]);
    let views = [bytemuck::cast_slice_mut(&mut one), bytemuck::cast_slice_mut(&mut other)];
    let [active, inactive] = places(&store.slots(), views);
    let mut floats = vec![0.0f32; 2 * ARENA + HISTORY + OBSERVATION];
    let (arena, rest) = floats.split_at_mut(ARENA);
    let (self_test, rest) = rest.split_at_mut(ARENA);
    let (history, observation) = rest.split_at_mut(HISTORY);
    let control = Control::new(active, Memory { arena, history, observation });
    let loader = Loader::new(inactive, self_test, store, &control);
    f(InProcess {
        control,
        loader,
        answers: VecDeque::new(),
        clock: HostClock(Instant::now()),
        decoder: Decoder::new(),
    })
}

impl InProcess<'_> {
    /// The control timer fired: one tick outside lockstep.
    pub fn timer(&mut self) -> Option<Action> {
        let before = self.clock.now_us();
        let mut action = self.control.timer(before)?;
        action.tick_us = self.clock.now_us().saturating_sub(before).min(u32::MAX.into()) as u32;
        Some(action)
    }

    /// Too many ticks were late: no torque from now on.
    pub fn overran(&mut self) {
        let now_us = self.clock.now_us();
        self.control.overran(now_us);
    }

    /// Controller state.
    #[must_use]
    pub fn state(&self) -> State {
        self.control.state()
    }
}

impl Transport for InProcess<'_> {
    fn send(&mut self, sequence: u16, message: &Message) -> Result<(), LinkError> {
        if let Message::Restart(_) = message {
            // Its memory is lent: there is nothing that could boot.
            let (to, code) = (message.kind(), Refusal::State as u8);
            self.answers.push_back((sequence, Reply { to, code, detail: 0 }.into()));
            return Ok(());
        }
        let answer = node::handle(message, &mut self.loader, &mut self.control, &INFO, &self.clock);
        self.answers.extend(answer.map(|answer| (sequence, answer)));
        Ok(())
    }

    fn receive(&mut self, _: Duration) -> Result<Option<(u16, Message)>, LinkError> {
        Ok(self.answers.pop_front())
    }
}
