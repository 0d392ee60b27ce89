//! The scheduler through its connections.
