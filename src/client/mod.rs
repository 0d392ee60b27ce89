//! TODO-header client
