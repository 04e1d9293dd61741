//! The processes of `mpirun`, where it started this one.

use anyhow::{Context, Result, bail};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use tendon_learn::{Alone, Communicator};

/// This process alone, or all that `mpirun` started.
pub(super) struct Ranks {
    #[cfg(feature = "mpi")]
    mpi: Option<tendon_learn::Mpi>,
}

impl Ranks {
    /// Joins the others, if there are any.
    pub(super) fn start() -> Result<Self> {
        let launched = std::env::var(LAUNCHED).ok();
        if !is_one_of_many(launched.as_deref(), cfg!(feature = "mpi"))? {
            return Ok(Self {
                #[cfg(feature = "mpi")]
                mpi: None,
            });
        }
        #[cfg(feature = "mpi")]
        {
            let mpi = tendon_learn::Mpi::start().context("MPI was started before in this process")?;
            anyhow::ensure!(
                Some(mpi.size().to_string()) == launched,
                "{LAUNCHED} is {}, but MPI found {} processes; start with the mpirun of the MPI that this program was built with",
                launched.unwrap_or_default(),
                mpi.size()
            );
            Ok(Self { mpi: Some(mpi) })
        }
        #[cfg(not(feature = "mpi"))]
        unreachable!("refused above")
    }

    /// For learners.
    pub(super) fn communicator(&self) -> &dyn Communicator {
        #[cfg(feature = "mpi")]
        if let Some(mpi) = &self.mpi {
            return mpi;
        }
        &Alone
    }

    /// Whether this process writes files and talks to people.
    pub(super) fn is_first(&self) -> bool {
        self.communicator().rank() == 0
    }

    /// Leaves when all are done. Without it, as where an error ended this rank, `mpirun` ends the job.
    pub(super) fn finish(self) {
        #[cfg(feature = "mpi")]
        if let Some(mpi) = self.mpi {
            mpi.finish();
        }
    }

    /// Says where the run goes on when `mpirun` ends it (SIGTERM, after a rank was lost). `mpirun` itself says which rank that was; this
    /// comes only if the thread runs within the second that it gives.
    pub(super) fn explain_end(&self, run: &Path) -> Result<()> {
        if self.communicator().size() == 1 || !self.is_first() {
            return Ok(());
        }
        let (mut wakes, woken) = UnixStream::pair().context("SIGTERM")?;
        signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, woken).context("SIGTERM")?;
        let run = run.to_owned();
        // The main thread may be waiting for the lost rank, where nothing wakes it.
        std::thread::spawn(move || {
            if wakes.read_exact(&mut [0]).is_ok() {
                let last = std::fs::read_link(run.join("checkpoints/last"));
                let place = last.map_or_else(
                    |_| "no checkpoint yet; the same command starts anew".into(),
                    |step| format!("the last checkpoint is at step {}; the same command goes on from it, also with another number of ranks", step.display()),
                );
                eprintln!(
                    "tendon: {}: mpirun ends this job, because a rank was lost or it was told to; {place}",
                    run.display()
                );
                signal_hook::low_level::exit(ENDED);
            }
        });
        Ok(())
    }
}

/// What Open MPI's `mpirun` tells each process: how many there are.
const LAUNCHED: &str = "OMPI_COMM_WORLD_SIZE";

/// 128 + SIGTERM, as shells have it.
const ENDED: i32 = 143;

/// Whether `mpirun` started this process beside others; an error where it did and this program cannot talk to them.
fn is_one_of_many(launched: Option<&str>, has_mpi: bool) -> Result<bool> {
    let Some(text) = launched else { return Ok(false) };
    let count: usize =
        text.parse().with_context(|| format!("{LAUNCHED}: {text:?} is no number of processes"))?;
    if count > 1 && !has_mpi {
        bail!(
            "mpirun started {count} of this program, which was built without feature `mpi`: each would train alone in one run folder; \
             build it with `cargo build --release --features mpi` (Debian: libopenmpi-dev, libclang-dev)"
        );
    }
    Ok(count > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_feature_a_second_rank_is_refused_by_its_name_and_one_alone_is_not() {
        let message = is_one_of_many(Some("2"), false).unwrap_err().to_string();
        assert!(message.contains("--features mpi"), "{message}");
        assert!(!is_one_of_many(Some("1"), false).unwrap());
        assert!(!is_one_of_many(None, false).unwrap());
        assert!(is_one_of_many(Some("2"), true).unwrap());
        assert!(is_one_of_many(Some("two"), true).unwrap_err().to_string().contains("two"));
    }
}
