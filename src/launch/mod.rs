//! TODO-header launch
