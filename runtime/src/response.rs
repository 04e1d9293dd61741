//! Response-time analysis of the controller's tasks: fixed priorities, preemptive, critical sections under the
//! stack resource policy (Baker 1991), so a task waits for at most one of them.
//!
//! `R = J + w`, `w = C + B + sum over tasks of equal or higher priority of ceil((w + J_j) / T_j) C_j`, to a fixed
//! point (Joseph and Pandya 1986, Audsley et al. 1993). A policy is admitted where `R <= D` for every task. The
//! controller computes this when an image arrives; docs/timing.md shows it.

use crate::cost::{self, Profile};
use crate::deadline::deadline_us;
use crate::{Contract, Policy};

/// A task, times in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Interrupt that it is bound to.
    pub name: &'static str,
    /// Higher preempts lower.
    pub priority: u8,
    /// Least time between two releases (`T`).
    pub period_ns: u64,
    /// Execution at most (`C`).
    pub cost_ns: u64,
    /// Longest critical section of a lower priority that keeps it out (`B`).
    pub blocking_ns: u64,
    /// Latest release after the event (`J`).
    pub jitter_ns: u64,
    /// Completion at most after the event (`D`).
    pub deadline_ns: u64,
}

/// What the analysis needs of a board.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoardTiming {
    /// Its processor.
    pub profile: Profile,
    /// Least time between two bytes of the link, each way, ns.
    pub byte_ns: u32,
    /// Bytes that the receiver holds before one is lost.
    pub receiver_bytes: u32,
    /// Time between two wraps of the clock, ns.
    pub wrap_ns: u64,
}

impl BoardTiming {
    /// QEMU with `-icount shift=0`: one instruction is one nanosecond, 1 Mbaud, a clock of 25 MHz.
    pub const QEMU: Self = Self::serial(Profile::QEMU, 1_000_000, 1, 25);

    /// A serial line of `baud` (ten bits per byte), a receiver that holds `receiver_bytes`, and a 32-bit clock
    /// of `clock_mhz`.
    #[must_use]
    pub const fn serial(profile: Profile, baud: u32, receiver_bytes: u32, clock_mhz: u32) -> Self {
        let byte_ns = (10_000_000_000 / baud as u64) as u32;
        Self { profile, byte_ns, receiver_bytes, wrap_ns: (1u64 << 32) * 1000 / clock_mhz as u64 }
    }

    /// The firmware's tasks with this policy, highest priority first.
    #[must_use]
    pub fn tasks(&self, contract: &Contract<'_>, policy: &Policy<'_>) -> [Task; 5] {
        let ns = |instructions: u64| self.profile.ns(instructions.saturating_add(cost::ENTRY));
        let byte_ns = u64::from(self.byte_ns);
        let period_ns = u64::from(contract.header.period_us).saturating_mul(1000);
        let deadline_ns = u64::from(deadline_us(contract.header.period_us)).saturating_mul(1000);
        let fallback = ns(cost::deadline(contract));
        // An abstention score goes before every inference.
        let score = policy.abstention.map_or(0, |abstention| ns(abstention.instructions()));
        let inference = self.profile.inference_ns(&policy.network).saturating_add(score);
        let task = |name, priority, period_ns, cost_ns, deadline_ns| Task {
            name,
            priority,
            period_ns,
            cost_ns,
            blocking_ns: ns(cost::SLEEP),
            jitter_ns: 0,
            deadline_ns,
        };
        [
            task("CLOCK_WRAP", 5, self.wrap_ns, ns(cost::CLOCK_WRAP), self.wrap_ns / 2),
            task(
                "LINK_RX",
                4,
                byte_ns,
                ns(cost::LINK_RX),
                byte_ns.saturating_mul(self.receiver_bytes.into()),
            ),
            task(
                "LINK_TX",
                4,
                byte_ns,
                ns(cost::LINK_TX),
                byte_ns.saturating_mul(self.receiver_bytes.into()),
            ),
            Task {
                // The tick queues its frame, which is less than what the fallback does.
                blocking_ns: fallback,
                ..task("SysTick", 3, period_ns, fallback, period_ns - deadline_ns)
            },
            Task {
                blocking_ns: ns(cost::messages(contract)),
                ..task(
                    "CONTROL_TIMER",
                    2,
                    period_ns,
                    ns(cost::tick(contract)).saturating_add(inference),
                    deadline_ns,
                )
            },
        ]
    }

    /// Response time of the control tick, ns.
    ///
    /// # Errors
    /// The first task that may miss its deadline, with the time reached when that was certain.
    pub fn admit(&self, contract: &Contract<'_>, policy: &Policy<'_>) -> Result<u64, (Task, u64)> {
        let tasks = self.tasks(contract, policy);
        let mut last = 0;
        for task in &tasks {
            last = response_ns(&tasks, task).map_err(|reached| (*task, reached))?;
        }
        Ok(last)
    }
}

/// Steps to a fixed point at most; what needs more is refused.
const STEPS: u32 = 10_000;

/// Longest time from the event of a task to its completion, ns.
///
/// # Errors
/// The time reached, once it is beyond the deadline.
pub fn response_ns(tasks: &[Task], of: &Task) -> Result<u64, u64> {
    let mut response = of.cost_ns.saturating_add(of.blocking_ns);
    for _ in 0..STEPS {
        let preempting = tasks.iter().filter(|task| task.priority >= of.priority && task.name != of.name);
        let next = preempting.fold(of.cost_ns.saturating_add(of.blocking_ns), |sum, task| {
            let window = response.saturating_add(task.jitter_ns);
            let releases = window.checked_div(task.period_ns).unwrap_or(u64::MAX).saturating_add(1);
            // `window` is above 0, so this is its quotient rounded up.
            let releases =
                if window.checked_rem(task.period_ns) == Some(0) { releases - 1 } else { releases };
            sum.saturating_add(releases.saturating_mul(task.cost_ns))
        });
        let whole = next.saturating_add(of.jitter_ns);
        if whole > of.deadline_ns {
            return Err(whole);
        }
        if next == response {
            return Ok(whole);
        }
        response = next;
    }
    Err(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &'static str, priority: u8, period_ns: u64, cost_ns: u64) -> Task {
        Task { name, priority, period_ns, cost_ns, blocking_ns: 0, jitter_ns: 0, deadline_ns: period_ns }
    }

    #[test]
    fn gives_the_response_times_of_a_textbook_example() {
        // Burns and Wellings, table 11.4: C 3, 3, 5, T 7, 12, 20; R 3, 6, 20.
        let tasks = [task("a", 3, 7, 3), task("b", 2, 12, 3), task("c", 1, 20, 5)];
        let found = tasks.each_ref().map(|task| response_ns(&tasks, task));
        assert_eq!(found, [Ok(3), Ok(6), Ok(20)]);
    }

    #[test]
    fn refuses_a_table_that_is_used_a_little_too_much() {
        let tasks = [task("a", 3, 7, 3), task("b", 2, 12, 3), task("c", 1, 20, 6)];
        assert!(response_ns(&tasks, &tasks[2]).is_err());
        let full = [task("a", 2, 10, 5), task("b", 1, 20, 10)];
        assert_eq!(response_ns(&full, &full[1]), Ok(20));
        let over = [task("a", 2, 10, 5), task("b", 1, 20, 11)];
        assert!(response_ns(&over, &over[1]).is_err_and(|reached| reached > 20));
    }

    #[test]
    fn blocking_and_jitter_add_up() {
        let mut tasks = [task("a", 2, 100, 10), task("b", 1, 100, 20)];
        tasks[1].blocking_ns = 7;
        assert_eq!(response_ns(&tasks, &tasks[1]), Ok(37));
        tasks[1].jitter_ns = 5;
        assert_eq!(response_ns(&tasks, &tasks[1]), Ok(42));
        // A release of `a` that comes late is followed by one in time: two preemptions.
        tasks[0].jitter_ns = 70;
        assert_eq!(response_ns(&tasks, &tasks[1]), Ok(52));
    }

    #[test]
    fn ends_for_any_numbers() {
        for period_ns in [0, 1, u64::MAX] {
            for cost_ns in [0, 1, u64::MAX] {
                let tasks = [task("a", 2, period_ns, cost_ns), task("b", 1, 1000, 1)];
                let _ = response_ns(&tasks, &tasks[1]);
            }
        }
    }
}
