//! A port to a simulated bus in simulated time: every look at an empty line takes a little of it.

use super::Bus;
use embedded_io::{ErrorKind, ErrorType, Read, ReadReady, Write};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// What one look at an empty line takes, us.
const LOOK_US: u64 = 5;

/// The bus and its time.
#[derive(Debug)]
pub struct World {
    /// The bus.
    pub bus: Bus,
    /// Simulated time, us.
    pub now_us: u64,
    /// The adapter was unplugged.
    pub unplugged: bool,
    received: VecDeque<u8>,
}

/// A port to a [`World`], which the test keeps a clone of.
#[derive(Clone, Debug)]
pub struct SimPort(Rc<RefCell<World>>);

impl SimPort {
    /// A port to `bus`, at time 0.
    #[must_use]
    pub fn new(bus: Bus) -> Self {
        Self(Rc::new(RefCell::new(World { bus, now_us: 0, unplugged: false, received: VecDeque::new() })))
    }

    /// The simulated clock.
    pub fn clock(&self) -> impl Fn() -> u64 + 'static {
        let world = self.0.clone();
        move || world.borrow().now_us
    }

    /// Looks at or changes the world. Not while a driver call runs.
    pub fn with<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        f(&mut self.0.borrow_mut())
    }

    /// Lets time pass.
    pub fn wait_us(&self, us: u64) {
        self.with(|world| {
            world.now_us += us;
            let now = world.now_us;
            world.bus.advance(now);
        });
    }
}

impl World {
    fn plugged(&self) -> Result<(), ErrorKind> {
        if self.unplugged { Err(ErrorKind::BrokenPipe) } else { Ok(()) }
    }
}

impl ErrorType for SimPort {
    type Error = ErrorKind;
}

impl ReadReady for SimPort {
    fn read_ready(&mut self) -> Result<bool, ErrorKind> {
        self.with(|world| {
            world.plugged()?;
            if world.received.is_empty() {
                world.now_us += LOOK_US;
                let bytes = world.bus.transmit(world.now_us);
                world.received.extend(bytes);
            }
            Ok(!world.received.is_empty())
        })
    }
}

impl Read for SimPort {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        self.with(|world| {
            world.plugged()?;
            let count = buffer.len().min(world.received.len());
            buffer.iter_mut().zip(world.received.drain(..count)).for_each(|(to, from)| *to = from);
            Ok(count)
        })
    }
}

impl Write for SimPort {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.with(|world| {
            world.plugged()?;
            let now = world.now_us;
            world.bus.receive(now, bytes);
            Ok(bytes.len())
        })
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}
