//! Bytes, durations and fractions as people write them. Parses and prints; owns no defaults.
