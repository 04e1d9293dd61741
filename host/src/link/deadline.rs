//! The deadline of a control tick on a computer: a thread that sends the fallback when a tick is late.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tendon_runtime::deadline::{Guard, Outlet, deadline_us};
use tendon_runtime::node::{Clock, Exclusive};
use tendon_wire::frame::MAX_FRAME;

/// The guard between tick and deadline, and the thread that waits for the deadline. It ends with this.
pub struct DeadlineThread<O: Outlet + Send + 'static> {
    shared: Arc<Shared<O>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared<O> {
    state: Mutex<State<O>>,
    changed: Condvar,
}

struct State<O> {
    guard: Guard<O>,
    due: Option<Due>,
    ended: bool,
}

#[derive(Clone, Copy)]
struct Due {
    at: Instant,
    period: Duration,
}

impl<O> Shared<O> {
    fn lock(&self) -> MutexGuard<'_, State<O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O: Outlet + Send + 'static> DeadlineThread<O> {
    /// Starts the thread. What goes out goes through `outlet`.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(outlet: O, clock: impl Clock + Send + 'static) -> std::io::Result<Self> {
        let state = State { guard: Guard::new(outlet), due: None, ended: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let theirs = shared.clone();
        let thread =
            std::thread::Builder::new().name("deadline".into()).spawn(move || watch(&theirs, &clock))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A tick was released at `released`. Its deadline follows; a tick that is not released has none.
    pub fn released(&self, released: Instant, period_us: u32) {
        let at = released + Duration::from_micros(deadline_us(period_us).into());
        self.shared.lock().due = Some(Due { at, period: Duration::from_micros(period_us.into()) });
        self.shared.changed.notify_one();
    }
}

impl<O: Outlet + Send + 'static> Exclusive<Guard<O>> for DeadlineThread<O> {
    fn with<R>(&mut self, f: impl FnOnce(&mut Guard<O>) -> R) -> R {
        f(&mut self.shared.lock().guard)
    }
}

impl<O: Outlet + Send + 'static> Drop for DeadlineThread<O> {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch<O: Outlet>(shared: &Shared<O>, clock: &impl Clock) {
    let mut out = [0; MAX_FRAME];
    let mut state = shared.lock();
    while !state.ended {
        let now = Instant::now();
        state = match state.due {
            None => shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(due) if due.at > now => {
                shared.changed.wait_timeout(state, due.at - now).unwrap_or_else(PoisonError::into_inner).0
            }
            Some(due) => {
                // Again in every period until the tick ends; the next release sets the next deadline.
                let late = state.guard.deadline(clock, &mut out);
                state.due = late.then_some(Due { at: due.at + due.period, ..due });
                state
            }
        };
    }
}
