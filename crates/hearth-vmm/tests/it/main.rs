//! Real QEMUs, in their jails. Most run a guest of a few bytes that needs no kernel; those that need one say so when there
//! is none (`HEARTH_TEST_KERNEL`, and `HEARTH_TEST_MODULES` for the modules that belong to it).

mod boot;
mod escape;
mod failures;
mod guest;
mod linux;
mod owner;
mod support;
