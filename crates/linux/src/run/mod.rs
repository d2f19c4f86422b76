//! `machvm run PROGRAM`: an unmodified Linux program on our virtual memory.

pub mod space;
