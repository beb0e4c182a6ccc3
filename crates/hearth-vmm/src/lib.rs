//! A machine: QEMU, jailed and driven over QMP.
