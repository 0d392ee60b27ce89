//! TODO-header cluster
