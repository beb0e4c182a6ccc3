//! The product: sandboxes, created, used and removed.
