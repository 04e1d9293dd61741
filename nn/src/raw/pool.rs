//! Threads that wait for work with their eyes open: a step on a small batch takes some 50 microseconds, less than it
//! takes to wake a thread.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Threads that share out numbered tasks. The caller works too: a pool of one has no thread of its own.
///
/// Which thread takes which task is left to chance; results must not depend on it.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    epoch: u32,
}

struct Shared {
    /// Number of the job in the upper half, tasks that nobody has taken in the lower.
    ticket: AtomicU64,
    /// Tasks that ended.
    done: AtomicUsize,
    /// The job's closure. Written by the caller while no task is under way; read after a task was taken and before it is
    /// done.
    work: UnsafeCell<Option<Work<'static>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
    stop: AtomicBool,
}

// SAFETY: the ticket orders all access to the cell; the rest is `Sync` by itself.
unsafe impl Sync for Shared {}

type Work<'a> = &'a (dyn Fn(usize) + Sync + 'a);

/// Turns of a waiting loop (some 20 ns each) before a thread goes to sleep, or the caller gives its core away.
const SPIN: u32 = 2_000;

impl Pool {
    /// A pool of `threads` (at least one), the caller among them.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            ticket: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            work: UnsafeCell::new(None),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let threads = (1..threads)
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.serve())
            })
            .collect();
        Self { shared, threads, epoch: 0 }
    }

    /// Threads, the caller among them.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `work(index, item)` for every item; returns when all are done.
    ///
    /// # Panics
    /// Goes on with a panic of `work`, after the other items.
    pub fn for_each_mut<T: Send>(&mut self, items: &mut [T], work: impl Fn(usize, &mut T) + Sync) {
        if self.threads.is_empty() || items.len() < 2 {
            items.iter_mut().enumerate().for_each(|(i, item)| work(i, item));
            return;
        }
        let first = SendPointer(items.as_mut_ptr());
        let tasks = u32::try_from(items.len()).expect("fewer than 2^32 tasks");
        self.run(tasks, &|task| {
            // SAFETY: every task is taken once, so that this is the only reference to its item; `items` outlives `run`.
            work(task, unsafe { &mut *first.get().add(task) });
        });
    }

    fn run(&mut self, tasks: u32, work: Work<'_>) {
        let shared = &*self.shared;
        self.epoch = self.epoch.wrapping_add(1);
        // SAFETY: only the lifetime changes, and the closure is not called after this function: it returns when all tasks
        // are done, and a thread reads the cell only between taking a task and having done it. So nobody reads it now.
        unsafe { *shared.work.get() = Some(std::mem::transmute::<Work<'_>, Work<'static>>(work)) };
        shared.done.store(0, Relaxed);
        shared.ticket.store(u64::from(self.epoch) << 32 | u64::from(tasks), SeqCst);
        if shared.sleepers.load(SeqCst) > 0 {
            drop(shared.lock.lock().unwrap_or_else(PoisonError::into_inner));
            shared.wake.notify_all();
        }
        while shared.take() {}
        let mut turns = 0u32;
        while shared.done.load(Acquire) < tasks as usize {
            turns += 1;
            if turns < SPIN { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    /// Takes one task and does it; false when none is left.
    fn take(&self) -> bool {
        let mut ticket = self.ticket.load(Acquire);
        loop {
            let left = ticket as u32;
            if left == 0 {
                return false;
            }
            match self.ticket.compare_exchange_weak(ticket, ticket - 1, AcqRel, Acquire) {
                Ok(_) => break,
                Err(now) => ticket = now,
            }
        }
        // SAFETY: the cell was written before the ticket of which a task was taken, and is left alone until it is done.
        let work = unsafe { *self.work.get() };
        let task = ticket as u32 as usize - 1;
        if let Some(Err(panic)) = work.map(|work| catch_unwind(AssertUnwindSafe(|| work(task)))) {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        self.done.fetch_add(1, Release);
        true
    }

    fn serve(&self) {
        let mut turns = 0;
        while !self.stop.load(Relaxed) {
            if self.take() {
                turns = 0;
            } else if turns < SPIN {
                turns += 1;
                std::hint::spin_loop();
            } else {
                self.sleep();
                turns = 0;
            }
        }
    }

    fn sleep(&self) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, SeqCst);
        // Whoever stores a ticket after this load sees a sleeper, and waits for the lock before it wakes.
        while self.ticket.load(SeqCst) as u32 == 0 && !self.stop.load(SeqCst) {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        drop(self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // Panics of work were caught; the loop around it has none.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

struct SendPointer<T>(*mut T);

impl<T> SendPointer<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: tasks go to other threads with a mutable reference each, which `T: Send` (asked for by its user) allows.
unsafe impl<T: Send> Sync for SendPointer<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_visited_once_in_every_run() {
        let mut pool = Pool::new(3);
        let mut items = vec![0usize; 100];
        for round in 1..=2000 {
            pool.for_each_mut(&mut items, |index, item| *item += index);
            assert!(items.iter().enumerate().all(|(i, item)| *item == i * round), "{round}");
        }
    }

    #[test]
    fn a_panic_of_a_task_reaches_the_caller_and_the_pool_goes_on() {
        let mut pool = Pool::new(2);
        let mut items = [0; 10];
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.for_each_mut(&mut items, |index, _| assert!(index != 3));
        }));
        assert!(result.is_err());
        pool.for_each_mut(&mut items, |_, item| *item += 1);
        assert_eq!(items, [1; 10]);
    }

    #[test]
    fn a_pool_that_sleeps_wakes_up() {
        let mut pool = Pool::new(4);
        let mut items = [0; 64];
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(2));
            pool.for_each_mut(&mut items, |_, item| *item += 1);
        }
        assert_eq!(items, [20; 64]);
    }
}
