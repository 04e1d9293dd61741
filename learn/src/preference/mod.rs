//! Learning from preferences: records, teachers, queries, the learned reward, and the loop around them.

mod learn;
mod query;
mod record;
mod reward_model;
mod store;
mod teacher;

pub use learn::{PreferenceConfig, PreferenceTrained, train_from_preferences};
pub use query::{Sampling, choose, cut_segments};
pub use record::{Annotator, Label, Preference, Role, SCHEMA_VERSION, Segment};
pub use reward_model::{RewardConfig, RewardModel};
pub use store::PreferenceStore;
pub use teacher::TeacherConfig;
