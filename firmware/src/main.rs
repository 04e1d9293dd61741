//! The controller: bytes of the link into messages, messages to the runtime, one control tick per
//! period or per raw state.
//!
//! | task | priority | work |
//! |---|---|---|
//! | `clock_wrap` | 5 | counts wraps of the clock |
//! | `link_rx`, `link_tx` | 4 | bytes between UART and queues |
//! | `deadline` | 3 | the fallback, where a tick is late |
//! | `control_tick` | 2 | one tick at the image's period |
//! | `idle` | 0 | messages, image updates, self-test; calls the boot stage, which verifies and writes flash |
//!
//! A reachable panic does not link: the panic handler calls a symbol that nobody defines.
#![no_std]
#![no_main]

mod alarm;
mod board;
mod persist;
mod ring;
mod stack;
mod store;

use board::{Board, Selected};
use tendon_runtime::node::{Clock, Control, Exclusive};

/// Board, version and the priorities below, for tools that read the ELF (`bounds/`).
#[allow(unsafe_code, reason = "names a section")]
#[unsafe(link_section = ".tendon")]
#[used]
static INFO: [u8; include_bytes!(concat!(env!("OUT_DIR"), "/info.txt")).len()] =
    *include_bytes!(concat!(env!("OUT_DIR"), "/info.txt"));

/// What cannot happen: the linker would have found it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    unreachable_panic()
}

#[allow(unsafe_code, reason = "the proof that no panic is reachable is that this symbol is missing")]
fn unreachable_panic() -> ! {
    unsafe extern "C" {
        fn a_panic_is_reachable() -> !;
    }
    // SAFETY: never linked.
    unsafe { a_panic_is_reachable() }
}

/// RTIC's lock as the runtime asks for it.
struct Locked<M>(M);

impl<T, M: rtic::Mutex<T = T>> Exclusive<T> for Locked<M> {
    fn with<R>(&mut self, f: impl FnOnce(&mut T) -> R) -> R {
        self.0.lock(f)
    }
}

/// The control loop's lock, taken below its priority: how long it is held is what a tick may have to wait.
struct Below<M>(M, <Selected as Board>::Clock);

impl<M: rtic::Mutex<T = Control<'static>>> Exclusive<Control<'static>> for Below<M> {
    fn with<R>(&mut self, f: impl FnOnce(&mut Control<'static>) -> R) -> R {
        let clock = self.1;
        self.0.lock(|control| {
            let before = clock.now_ns();
            let result = f(control);
            control.kept_waiting(clock.now_ns().saturating_sub(before));
            result
        })
    }
}

#[allow(unsafe_code, reason = "an exception handler of cortex-m-rt is an unsafe function")]
/// The watchdog of a board that warns before it resets: what comes next is the reset.
#[cortex_m_rt::exception]
unsafe fn NonMaskableInt() -> ! {
    persist::mark(tendon_runtime::timing::ResetCause::Watchdog);
    loop {
        cortex_m::asm::nop();
    }
}

#[rtic::app(device = crate::board::device)]
mod app {
    use crate::alarm::Alarm;
    use crate::board::{Acknowledge, Board, ControlTimer, Selected, Watchdog};
    use crate::ring::{Reader, Ring, Writer};
    use crate::store::BootStage;
    use crate::{Below, Locked};
    use cortex_m_rt as _;
    use embedded_io::{Read, ReadReady, Write, WriteReady};
    use tendon_runtime::Memory;
    use tendon_runtime::deadline::{Guard, Outlet, deadline_us};
    use tendon_runtime::node::{self, Clock, Control, Exclusive, Loader};
    use tendon_runtime::store::{Store, places};
    use tendon_runtime::timing::{QUIET_US, ResetCause};
    use tendon_wire::frame::{Decoder, MAX_FRAME};

    /// `f32` of activations, for the control loop and for the self-test.
    const ARENA: usize = 32 << 10;
    /// `f32` of observation history.
    const HISTORY: usize = 1024;
    /// Bytes each queue of the link holds: three of the longest frames.
    const QUEUE: usize = 8192;
    /// `f32` of observation.
    const OBSERVATION: usize = 4096;
    /// Control period while no image says one.
    const IDLE_PERIOD_US: u32 = 20_000;
    /// From the answer to `Restart` to the reset: enough for the answer to leave.
    const RESTART_US: u64 = 50_000;

    type Parts = crate::board::Parts<Selected>;
    type BoardClock = <Selected as Board>::Clock;

    #[shared]
    struct Shared {
        control: Control<'static>,
        /// What a tick and its deadline both send through.
        guard: Guard<Outbox>,
        alarm: Alarm,
    }

    #[local]
    struct Local {
        rx: <Selected as Board>::Rx,
        tx: <Selected as Board>::Tx,
        timer: <Selected as Board>::Timer,
        clock: BoardClock,
        tick_clock: BoardClock,
        deadline_clock: BoardClock,
        watchdog: <Selected as Board>::Watchdog,
        wrap_clock: BoardClock,
        loader: Loader<'static, BootStage>,
        received: Writer<QUEUE>,
        bytes: Reader<QUEUE>,
        replies: Outbox,
        reply_bytes: Reader<QUEUE>,
        action_bytes: Reader<QUEUE>,
        sending: Sending,
        decoder: Decoder,
    }

    /// Frames to be sent, whole or not at all.
    pub struct Outbox {
        queue: Writer<QUEUE>,
        dropped: u32,
    }

    impl Outlet for Outbox {
        fn send(&mut self, frame: &[u8]) {
            if !self.queue.write(frame) {
                self.dropped = self.dropped.wrapping_add(1);
            }
            rtic::pend(crate::board::device::Interrupt::LINK_TX);
        }
    }

    /// Which queue the frame on the line comes from: frames do not mix.
    #[derive(Clone, Copy, PartialEq)]
    pub enum Sending {
        /// Between frames.
        Nothing,
        /// A reply has begun.
        Reply,
        /// An action has begun.
        Action,
    }

    #[init(local = [
        arena: [f32; ARENA] = [0.0; ARENA],
        self_test_arena: [f32; ARENA] = [0.0; ARENA],
        history: [f32; HISTORY] = [0.0; HISTORY],
        observation: [f32; OBSERVATION] = [0.0; OBSERVATION],
        rx_queue: Ring<QUEUE> = Ring::new(),
        reply_queue: Ring<QUEUE> = Ring::new(),
        action_queue: Ring<QUEUE> = Ring::new(),
    ])]
    fn init(cx: init::Context) -> (Shared, Local) {
        crate::stack::paint();
        #[cfg(feature = "mutate")]
        tendon_wire::mutation::remove_number(crate::board::removed_check());
        let (cause, boots, black_box) = crate::persist::take(Selected::reset_cause());
        let Parts { rx, tx, mut timer, clock, mut watchdog, slots } = Selected::take();
        watchdog.start(QUIET_US);
        let mut store = BootStage::at(Selected::BOOT_STAGE);
        let [active, inactive] = places(&store.slots(), slots);
        let memory =
            Memory { arena: cx.local.arena, history: cx.local.history, observation: cx.local.observation };
        let control = Control::new(active, memory).with_black_box(black_box).with_reset(cause, boots);
        let loader =
            Loader::new(inactive, cx.local.self_test_arena, store, &control).with_timing(Selected::TIMING);
        let (received, bytes) = cx.local.rx_queue.split();
        let (replies, reply_bytes) = cx.local.reply_queue.split();
        let (actions, action_bytes) = cx.local.action_queue.split();
        timer.set_period_us(IDLE_PERIOD_US);
        let guard = Guard::new(Outbox { queue: actions, dropped: 0 });
        let shared = Shared { control, guard, alarm: Alarm::new(cx.core.SYST) };
        let local = Local {
            rx,
            tx,
            timer,
            clock,
            tick_clock: clock,
            deadline_clock: clock,
            watchdog,
            wrap_clock: clock,
            loader,
            received,
            bytes,
            replies: Outbox { queue: replies, dropped: 0 },
            reply_bytes,
            action_bytes,
            sending: Sending::Nothing,
            decoder: Decoder::new(),
        };
        (shared, local)
    }

    #[idle(local = [clock, loader, bytes, replies, decoder], shared = [control])]
    fn idle(mut cx: idle::Context) -> ! {
        let mut out = [0; MAX_FRAME];
        let mut control = Below(&mut cx.shared.control, *cx.local.clock);
        // Refused: there is no policy then, and `Slots` and `Identity` say so.
        let _ = cx.local.loader.boot(&mut control);
        let mut restart_us = None;
        loop {
            let Some(byte) = cx.local.bytes.read() else {
                if cx.local.loader.wants_restart() {
                    let now = cx.local.clock.now_us();
                    let since = *restart_us.get_or_insert(now);
                    if now.saturating_sub(since) > RESTART_US {
                        crate::persist::mark(ResetCause::Software);
                        cortex_m::peripheral::SCB::sys_reset();
                    }
                    continue;
                }
                // A byte between the question and the sleep wakes it: interrupts are off, but pending.
                cortex_m::interrupt::free(|_| {
                    if cx.local.bytes.is_empty() {
                        Selected::sleep();
                    }
                });
                continue;
            };
            if byte == 0 {
                // A frame ends: it may ask for the counters.
                let dropped = cx.local.replies.dropped;
                let stack_bytes = crate::stack::deepest();
                control.with(|control| {
                    let counters = control.counters();
                    (counters.dropped, counters.stack_bytes) = (dropped, stack_bytes);
                });
            }
            let answer = node::receive(
                byte,
                cx.local.decoder,
                cx.local.loader,
                &mut control,
                &Selected::INFO,
                cx.local.clock,
                &mut out,
            );
            if let Some(frame) = answer {
                cx.local.replies.send(frame);
            }
        }
    }

    /// One tick at the image's period.
    #[task(binds = CONTROL_TIMER, priority = 2, local = [timer, tick_clock, watchdog, period: u32 = IDLE_PERIOD_US, timeout: u32 = QUIET_US], shared = [control, guard, alarm])]
    fn control_tick(cx: control_tick::Context) {
        let control_tick::LocalResources { timer, tick_clock, watchdog, period, timeout, .. } = cx.local;
        let control_tick::SharedResources { mut control, guard, mut alarm, .. } = cx.shared;
        timer.acknowledge();
        let release_ns = timer.elapsed_ns();
        alarm.lock(|alarm| alarm.set(deadline_us(*period), release_ns, *period));
        let mut out = [0; MAX_FRAME];
        let release = control.lock(|control| {
            node::release(control, &mut Locked(guard), tick_clock, release_ns, *period, &mut out)
        });
        if release.watchdog_us != *timeout {
            *timeout = release.watchdog_us;
            watchdog.start(release.watchdog_us);
        } else if release.feed {
            watchdog.feed();
        }
        let next = release.period_us.unwrap_or(IDLE_PERIOD_US);
        if next != *period {
            *period = next;
            timer.set_period_us(next);
        }
    }

    /// The deadline of a tick. Where it is not done, its fallback goes out now.
    #[task(binds = SysTick, priority = 3, local = [deadline_clock], shared = [guard, alarm])]
    fn deadline(mut cx: deadline::Context) {
        if cx.shared.alarm.lock(|alarm| alarm.passed()) {
            #[cfg(feature = "mutate")]
            crate::board::feed_though_nothing_completed();
            let mut out = [0; MAX_FRAME];
            let clock = cx.local.deadline_clock;
            cx.shared.guard.lock(|guard| guard.deadline(clock, &mut out));
        }
    }

    /// Bytes in.
    #[task(binds = LINK_RX, priority = 4, local = [rx, received])]
    fn link_rx(cx: link_rx::Context) {
        let mut byte = [0];
        cx.local.rx.acknowledge();
        while let Ok(true) = cx.local.rx.read_ready() {
            let Ok(_) = cx.local.rx.read(&mut byte);
            // A full queue loses the byte; the frame's CRC will tell.
            let _ = cx.local.received.write(&byte);
        }
    }

    /// Bytes out, a whole frame from one queue before the other's turn. Actions go first.
    #[task(binds = LINK_TX, priority = 4, local = [tx, reply_bytes, action_bytes, sending])]
    fn link_tx(cx: link_tx::Context) {
        let link_tx::LocalResources { tx, reply_bytes, action_bytes, sending, .. } = cx.local;
        // Clears the interrupt; the byte that follows raises it again.
        tx.acknowledge();
        while let Ok(true) = tx.write_ready() {
            let (from, byte) = match *sending {
                Sending::Reply => (Sending::Reply, reply_bytes.read()),
                Sending::Action => (Sending::Action, action_bytes.read()),
                Sending::Nothing => match action_bytes.read() {
                    Some(byte) => (Sending::Action, Some(byte)),
                    None => (Sending::Reply, reply_bytes.read()),
                },
            };
            let Some(byte) = byte else { return };
            *sending = if byte == 0 { Sending::Nothing } else { from };
            let Ok(_) = tx.write(&[byte]);
        }
    }

    /// The clock's counter wrapped.
    #[task(binds = CLOCK_WRAP, priority = 5, local = [wrap_clock])]
    fn clock_wrap(cx: clock_wrap::Context) {
        cx.local.wrap_clock.wrapped();
    }
}
