//! Against real servers, which `.ci/run` installs.

pub(crate) mod servers;
