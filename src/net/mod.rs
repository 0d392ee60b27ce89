//! TODO-header net
