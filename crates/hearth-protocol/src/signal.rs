//! Signals by name, with Linux's numbers on x86_64.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! signals {
    ($($variant:ident = $number:literal $name:literal),+ $(,)?) => {
        /// A signal that can be sent to a process. On the wire its name without `SIG`, such as `"TERM"`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Signal {
            $(#[doc = concat!("SIG", $name, ", number ", $number)] #[serde(rename = $name)] $variant = $number,)+
        }

        impl Signal {
            /// Every signal, in the order of their numbers.
            pub const ALL: &[Signal] = &[$(Signal::$variant,)+];

            /// The name without `SIG`.
            pub fn name(self) -> &'static str {
                match self { $(Signal::$variant => $name,)+ }
            }
        }
    };
}

signals! {
    Hup = 1 "HUP", Int = 2 "INT", Quit = 3 "QUIT", Ill = 4 "ILL", Trap = 5 "TRAP", Abrt = 6 "ABRT", Bus = 7 "BUS", Fpe = 8 "FPE",
    Kill = 9 "KILL", Usr1 = 10 "USR1", Segv = 11 "SEGV", Usr2 = 12 "USR2", Pipe = 13 "PIPE", Alrm = 14 "ALRM", Term = 15 "TERM",
    Chld = 17 "CHLD", Cont = 18 "CONT", Stop = 19 "STOP", Tstp = 20 "TSTP", Ttin = 21 "TTIN", Ttou = 22 "TTOU", Urg = 23 "URG",
    Xcpu = 24 "XCPU", Xfsz = 25 "XFSZ", Vtalrm = 26 "VTALRM", Prof = 27 "PROF", Winch = 28 "WINCH", Io = 29 "IO", Sys = 31 "SYS",
}

impl Signal {
    /// The number.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// The signal with this number.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|signal| signal.number() == number)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIG{}", self.name())
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// Reads a name in any case, with or without `SIG`, or a number.
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let by_name = Self::ALL.iter().copied().find(|signal| signal.name() == name);
        let by_number = || text.parse().ok().and_then(Self::from_number);
        by_name.or_else(by_number).ok_or_else(|| UnknownSignal { text: text.to_owned() })
    }
}

/// A text that names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a signal; use a name such as TERM or a number")]
pub struct UnknownSignal {
    /// What was given.
    pub text: String,
}
