//! Bytes that both sides see: frames, the message table, the policy-image layout
