//! What several test programs share.

use std::path::Path;
use std::sync::Arc;

use tendon_sim::Environment;
use tendon_sim::tasks::{TaskDefinition, TaskEnvironment, find};

/// A task as `change` makes its file of a built-in one's.
pub(crate) fn rewritten(
    task: &str,
    change: impl FnOnce(&str) -> String,
) -> Result<Arc<TaskDefinition>, String> {
    let info = find(task).unwrap();
    TaskDefinition::from_text(Path::new("my.toml"), &change(info.text), info.robot_file, info.robot)
        .map_err(|e| e.to_string())
}

/// Begins an episode; its first observation.
pub(crate) fn start(env: &mut TaskEnvironment, seed: u64) -> Vec<f32> {
    let mut observation = vec![0.0; env.observation_len()];
    env.reset(seed, &mut observation);
    observation
}
