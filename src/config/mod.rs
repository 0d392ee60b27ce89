//! TODO-header config
