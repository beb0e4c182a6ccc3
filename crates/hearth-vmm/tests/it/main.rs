//! Real QEMUs, in their jails. Most run a guest of a few bytes that needs no kernel; those that need one say so when there
//! is none (`HEARTH_TEST_KERNEL`, and `HEARTH_TEST_MODULES` for the modules that belong to it).

#[cfg(test)]
mod boot;
#[cfg(test)]
mod escape;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod guest;
#[cfg(test)]
mod linux;
#[cfg(test)]
mod owner;
#[cfg(test)]
mod support;
