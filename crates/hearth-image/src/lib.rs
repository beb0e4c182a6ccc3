//! Kernels and root filesystems, built and kept.
