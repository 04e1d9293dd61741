//! Messages of the host and their answers.

use super::{BoardInfo, Clock, Control, Exclusive};
use crate::loader::Loader;
use crate::store::{Refused, Store};
use tendon_wire::codec::{Encode, Payload};
use tendon_wire::frame::{self, Decoder};
use tendon_wire::message::{BlackBoxRecord, Inferred, Message, RawState, Reply, TABLE, TO_HOST, Timing};

/// Where the answer to a message goes: a message, or a frame. Answers are lent, not moved, because on a
/// controller each copy of a long one is 2 KB of stack.
trait Answer {
    fn send(&mut self, message: &impl Payload);
}

impl Answer for Option<Message> {
    fn send(&mut self, message: &impl Payload) {
        *self = Some(message.clone().into());
    }
}

/// Frames the answer in a buffer.
struct Framed<'o> {
    sequence: u16,
    out: &'o mut [u8],
    length: usize,
}

impl Answer for Framed<'_> {
    fn send(&mut self, message: &impl Payload) {
        self.length = write(message, self.sequence, self.out).map_or(0, <[u8]>::len);
    }
}

/// Answers one message of the host.
pub fn handle<'m, S: Store>(
    message: &Message,
    loader: &mut Loader<'m, S>,
    control: &mut impl Exclusive<Control<'m>>,
    board: &BoardInfo,
    clock: &impl Clock,
) -> Option<Message> {
    let mut answer = None;
    dispatch(message, loader, control, board, clock, &mut answer);
    answer
}

fn dispatch<'m, S: Store>(
    message: &Message,
    loader: &mut Loader<'m, S>,
    control: &mut impl Exclusive<Control<'m>>,
    board: &BoardInfo,
    clock: &impl Clock,
    answer: &mut impl Answer,
) {
    let now_us = clock.now_us();
    // An echo of our own messages (a terminal left in echo mode after its program died) is no proof of life.
    if message.kind() & TO_HOST != 0 {
        return;
    }
    let is_proven = control.with(|control| {
        control.heard(now_us);
        control.is_proven(now_us)
    });
    if is_proven {
        loader.prove();
    }
    let result = match message {
        Message::Hello(_) => {
            let noise = clock.counts() ^ now_us as u32;
            return identify(noise, loader, control, board, answer);
        }
        Message::QuerySlots(_) => return slots(loader, answer),
        Message::Observe(_) => return observe(control, answer),
        Message::ReadTiming(_) => return timing(control, answer),
        Message::ReadBlackBox(m) => return black_box(m.index, control, answer),
        Message::Inject(m) => control.with(|control| control.injected(m.after, m.ticks, m.delay_us)),
        Message::Heartbeat(_) => return,
        Message::RawState(state) => return tick(state, control, clock, answer),
        Message::Infer(m) => match infer(Ok(&m.input), m.reset != 0, control, clock, answer) {
            Ok(()) => return,
            Err(refused) => Err(refused),
        },
        Message::InferGolden(m) => match infer(Err(m.vector), true, control, clock, answer) {
            Ok(()) => return,
            Err(refused) => Err(refused),
        },
        Message::ImageBegin(_)
        | Message::ImageChunk(_)
        | Message::ImageCommit(_)
        | Message::ImageAbort(_)
        | Message::UpdateBegin(_)
        | Message::Confirm(_)
        | Message::Revert(_)
        | Message::Restart(_)
        | Message::ProvisionKeys(_)
        | Message::RotateKeys(_) => loader.handle(message, control),
        Message::Arm(arm) => control.with(|control| control.arm(arm.schema_hash, arm.session, now_us)),
        Message::Run(run) => control.with(|control| control.run(run.session, now_us)),
        Message::Stop(_) => control.with(|control| {
            let now = control.now(now_us);
            control.controller.stop(now)
        }),
        Message::SetProfile(m) => control.with(|control| control.set_profile(m.profile)),
        Message::Pace(pace) => control.with(|control| control.pace(pace.lockstep)),
        // Refused above.
        Message::Identity(_)
        | Message::Reply(_)
        | Message::Action(_)
        | Message::Inferred(_)
        | Message::Telemetry(_)
        | Message::Timing(_)
        | Message::BlackBoxRecord(_)
        | Message::Slots(_) => return,
    };
    let (code, detail) = match result {
        Ok(()) => (0, 0),
        Err((refusal, detail)) => (refusal as u8, detail),
    };
    answer.send(&Reply { to: message.kind(), code, detail });
}

// Each of these is a function of its own, so that the stack holds one of their answers and not all.

#[inline(never)]
fn identify<'m, S: Store>(
    noise: u32,
    loader: &mut Loader<'m, S>,
    control: &mut impl Exclusive<Control<'m>>,
    board: &BoardInfo,
    answer: &mut impl Answer,
) {
    let is_development = loader.is_development();
    let identity = control.with(|control| {
        control.session.begin(noise);
        control.identity(board, is_development)
    });
    answer.send(&identity);
}

#[inline(never)]
fn slots<S: Store>(loader: &mut Loader<'_, S>, answer: &mut impl Answer) {
    let slots = loader.slots();
    answer.send(&slots);
}

#[inline(never)]
fn observe<'m>(control: &mut impl Exclusive<Control<'m>>, answer: &mut impl Answer) {
    let telemetry = control.with(|control| control.telemetry());
    answer.send(&telemetry);
}

#[inline(never)]
fn timing<'m>(control: &mut impl Exclusive<Control<'m>>, answer: &mut impl Answer) {
    let mut timing = Timing::default();
    control.with(|control| control.timing(&mut timing));
    answer.send(&timing);
}

#[inline(never)]
fn black_box<'m>(index: u32, control: &mut impl Exclusive<Control<'m>>, answer: &mut impl Answer) {
    let mut record = BlackBoxRecord::default();
    control.with(|control| control.black_box(index, &mut record));
    answer.send(&record);
}

#[inline(never)]
fn tick<'m>(
    state: &RawState,
    control: &mut impl Exclusive<Control<'m>>,
    clock: &impl Clock,
    answer: &mut impl Answer,
) {
    let begin_ns = clock.now_ns();
    let action = control.with(|control| {
        let mut made = control.raw_state(state);
        if let Some(action) = made.as_mut() {
            #[cfg(feature = "inject")]
            control.inject(clock);
            let took_ns = clock.now_ns().saturating_sub(begin_ns);
            action.tick_us = (took_ns / 1000).min(u32::MAX.into()) as u32;
            control.lockstep_tick(action, took_ns);
        }
        made
    });
    if let Some(action) = &action {
        answer.send(action);
    }
}

#[inline(never)]
fn infer<'m>(
    input: Result<&[f32], u16>,
    reset: bool,
    control: &mut impl Exclusive<Control<'m>>,
    clock: &impl Clock,
    answer: &mut impl Answer,
) -> Result<(), Refused> {
    let mut inferred = Inferred::default();
    control.with(|control| control.infer(input, reset, clock, &mut inferred))?;
    answer.send(&inferred);
    Ok(())
}

/// One byte of the link in; at the end of a good frame the answer comes out, framed in `out`.
pub fn receive<'m, 'o, S: Store>(
    byte: u8,
    decoder: &mut Decoder,
    loader: &mut Loader<'m, S>,
    control: &mut impl Exclusive<Control<'m>>,
    board: &BoardInfo,
    clock: &impl Clock,
    out: &'o mut [u8],
) -> Option<&'o [u8]> {
    let frame = decoder.push(byte)?.ok();
    let mut message = Message::empty();
    let sequence = frame.and_then(|frame| {
        message.take(frame.kind, frame.payload).ok()?;
        Some(frame.sequence)
    });
    let Some(sequence) = sequence else {
        control.with(|control| {
            control.counters.rejected_frames = control.counters.rejected_frames.wrapping_add(1);
        });
        return None;
    };
    let is_hello = matches!(message, Message::Hello(_));
    let is_new = control.with(|control| {
        let new = message.kind() & TO_HOST != 0 || control.session.is_new(sequence, is_hello);
        control.counters.repeated_frames = control.counters.repeated_frames.wrapping_add(u32::from(!new));
        new
    });
    if !is_new {
        return None;
    }
    let mut answer = Framed { sequence, out: &mut *out, length: 0 };
    dispatch(&message, loader, control, board, clock, &mut answer);
    let length = answer.length;
    out.get(..length).filter(|frame| !frame.is_empty())
}

/// Frames a message.
pub fn write<'o>(message: &impl Encode, sequence: u16, out: &'o mut [u8]) -> Option<&'o [u8]> {
    frame::encode_with(message.kind(), sequence, out, |payload| message.put(payload)).ok()
}

/// Name of a message kind, for people.
#[must_use]
pub fn kind_name(kind: u8) -> &'static str {
    TABLE.iter().find(|row| row.kind == kind).map_or("unknown", |row| row.name)
}
