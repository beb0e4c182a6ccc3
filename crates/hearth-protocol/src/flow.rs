//! Credit: how much of a stream may be on its way. Pure counters, one pair a stream, one at each end.

use crate::limits;

/// A peer that broke the rules of credit; its session must be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CreditError {
    /// More bytes came than were granted.
    #[error("the peer sent {excess} bytes more than it was granted")]
    Overrun {
        /// The bytes past the grant.
        excess: u64,
    },
    /// More credit came than a sender may hold.
    #[error("the peer granted more than {} bytes of credit", limits::CREDIT)]
    Overgrant,
}

/// The sender's side: how many bytes may still be sent.
#[derive(Debug, Clone)]
pub struct SendWindow {
    available: u64,
}

impl Default for SendWindow {
    fn default() -> Self {
        Self { available: limits::WINDOW }
    }
}

impl SendWindow {
    /// A window that waits for its first grant.
    pub fn closed() -> Self {
        Self { available: 0 }
    }

    /// The bytes that may be sent now.
    pub fn available(&self) -> u64 {
        self.available
    }

    /// Takes up to `wanted` bytes of credit and tells how many.
    pub fn take(&mut self, wanted: u64) -> u64 {
        let taken = wanted.min(self.available);
        self.available -= taken;
        taken
    }

    /// Adds what the receiver granted.
    ///
    /// # Errors
    /// [`CreditError::Overgrant`] past [`limits::CREDIT`].
    pub fn grant(&mut self, bytes: u64) -> Result<(), CreditError> {
        match self.available.checked_add(bytes) {
            Some(sum) if sum <= limits::CREDIT => {
                self.available = sum;
                Ok(())
            }
            _ => Err(CreditError::Overgrant),
        }
    }
}

/// The receiver's side: what the sender may still send, and what to grant it as bytes are consumed.
#[derive(Debug, Clone)]
pub struct ReceiveWindow {
    size: u64,
    outstanding: u64,
    consumed: u64,
}

impl Default for ReceiveWindow {
    fn default() -> Self {
        Self::new(limits::WINDOW)
    }
}

impl ReceiveWindow {
    /// A window of `size` bytes, at least [`limits::WINDOW`], which the sender knows or is told of.
    pub fn new(size: u64) -> Self {
        Self { size, outstanding: size, consumed: 0 }
    }

    /// A window in which nothing may come.
    pub fn closed() -> Self {
        Self::new(0)
    }

    /// The bytes that may be on their way, or here and not consumed.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Counts bytes that have arrived.
    ///
    /// # Errors
    /// [`CreditError::Overrun`] when the sender had no credit for them.
    pub fn receive(&mut self, bytes: u64) -> Result<(), CreditError> {
        match self.outstanding.checked_sub(bytes) {
            Some(rest) => {
                self.outstanding = rest;
                Ok(())
            }
            None => Err(CreditError::Overrun { excess: bytes - self.outstanding }),
        }
    }

    /// Counts bytes that were handed on, and returns the credit to grant, if it is worth a message yet: half of [`limits::WINDOW`], or a
    /// sixth of a larger one.
    pub fn consume(&mut self, bytes: u64) -> Option<u64> {
        self.consumed += bytes;
        if self.consumed < (limits::WINDOW / 2).max(self.size / 6) {
            return None;
        }
        let grant = std::mem::take(&mut self.consumed);
        self.outstanding += grant;
        Some(grant)
    }
}
