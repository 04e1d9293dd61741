//! Policies on a controller: operators, observations, actions, envelope, states. No heap, no panic, no I/O
