//! What a client is told when something was not done.

use std::fmt::{self, Write};

/// The most characters of a message. With the longest escapes it is a small part of a line.
const MESSAGE: usize = 2000;

/// The kind of an error, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorType {
    EnvVar,
    Code,
    Path,
    Package,
    Io,
    Timeout,
    Execution,
    Request,
    Protocol,
    OutputLimit,
}

impl ErrorType {
    /// As the wire has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EnvVar => "env_var_error",
            Self::Code => "code_error",
            Self::Path => "path_error",
            Self::Package => "package_error",
            Self::Io => "io_error",
            Self::Timeout => "timeout_error",
            Self::Execution => "execution_error",
            Self::Request => "request_error",
            Self::Protocol => "protocol_error",
            Self::OutputLimit => "output_limit_error",
        }
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) error_type: ErrorType,
    pub(crate) message: String,
}

impl Refusal {
    /// Builds a refusal. A message that repeats too much of what it is about is cut.
    pub(crate) fn new(error_type: ErrorType, message: impl fmt::Display) -> Self {
        let mut cut = Cut { text: String::new(), left: MESSAGE };
        if write!(cut, "{message}").is_err() {
            cut.text.push('…');
        }
        Self { error_type, message: cut.text }
    }

    /// Builds the refusal of what is no request.
    pub(crate) fn request(message: impl fmt::Display) -> Self {
        Self::new(ErrorType::Request, message)
    }
}

/// Takes only so many characters.
struct Cut {
    text: String,
    left: usize,
}

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            self.text.push(character);
        }
        Ok(())
    }
}
