//! Tests of the log on twins.
