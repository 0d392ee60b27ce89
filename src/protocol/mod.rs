//! TODO-header protocol
