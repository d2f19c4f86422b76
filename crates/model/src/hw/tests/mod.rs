//! Tests of the hardware itself.
