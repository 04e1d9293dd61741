//! What Linux gives a thread that has to be on time, and what it withholds, in words.

use rustix::mm::{MlockAllFlags, mlockall};
use std::fmt;
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// SCHED_FIFO priority of the control thread: above the kernel's threaded interrupts (50), below its watchdogs
/// (99).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority(pub u8);

impl Default for Priority {
    fn default() -> Self {
        Self(80)
    }
}

/// What was granted, and what was not with its reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Granted {
    /// SCHED_FIFO, with its priority.
    pub fifo: Result<u8, String>,
    /// All memory locked.
    pub locked: Result<(), String>,
    /// The kernel is PREEMPT_RT.
    pub preempt_rt: bool,
    /// Release and build of the kernel.
    pub kernel: String,
}

impl Granted {
    /// Nothing was asked for.
    #[must_use]
    pub fn nothing() -> Self {
        let (preempt_rt, kernel) = kernel();
        let not = || "not asked for (--realtime)".to_owned();
        Self { fifo: Err(not()), locked: Err(not()), preempt_rt, kernel }
    }

    /// Priority and locked memory are both there.
    #[must_use]
    pub fn is_real_time(&self) -> bool {
        self.fifo.is_ok() && self.locked.is_ok()
    }
}

impl fmt::Display for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fifo {
            Ok(priority) => write!(f, "SCHED_FIFO {priority}")?,
            Err(why) => write!(f, "no real-time priority ({why})")?,
        }
        match &self.locked {
            Ok(()) => write!(f, ", memory locked")?,
            Err(why) => write!(f, ", memory not locked ({why})")?,
        }
        let rt = if self.preempt_rt { "PREEMPT_RT" } else { "not PREEMPT_RT: no bound on its delays" };
        write!(f, ", kernel {} ({rt})", self.kernel)
    }
}

/// Whether the kernel is PREEMPT_RT, and its release and build.
#[must_use]
pub fn kernel() -> (bool, String) {
    let preempt_rt = std::fs::read_to_string("/sys/kernel/realtime").is_ok_and(|flag| flag.trim() == "1");
    let name = rustix::system::uname();
    let text = format!("{} {}", name.release().to_string_lossy(), name.version().to_string_lossy());
    (preempt_rt || text.contains("PREEMPT_RT"), text)
}

/// Gives the calling thread SCHED_FIFO.
///
/// # Errors
/// Why the kernel refused and what to do.
pub fn real_time_priority(priority: Priority) -> Result<u8, String> {
    let value = ThreadPriorityValue::try_from(priority.0)
        .map_err(|error| format!("priority {}: {error}", priority.0))?;
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    match set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(value), policy) {
        Ok(()) => Ok(priority.0),
        Err(thread_priority::Error::OS(1)) => Err("no CAP_SYS_NICE and RLIMIT_RTPRIO too low: run \
             `sudo setcap cap_sys_nice,cap_ipc_lock+ep $(command -v tendon)`, or give yourself `rtprio 90` and \
             `memlock unlimited` in /etc/security/limits.conf"
            .into()),
        Err(error) => Err(format!("{error:?}")),
    }
}

/// Keeps all memory of the process, now and later, from being paged out.
///
/// # Errors
/// Why the kernel refused and what to do.
pub fn lock_memory() -> Result<(), String> {
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)
        .map_err(|error| format!("{error}: RLIMIT_MEMLOCK too low; give CAP_IPC_LOCK or `memlock unlimited`"))
}

/// Touches the stack that the loop will use, so that no tick waits for a page.
#[inline(never)]
pub fn prefault_stack() {
    const BYTES: usize = 256 << 10;
    let mut stack = [0u8; BYTES];
    for place in stack.iter_mut().step_by(4096) {
        *place = 1;
    }
    std::hint::black_box(&stack);
}
