//! Signals by name, with Linux's numbers on x86_64.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

macro_rules! signals {
    ($($variant:ident = $number:literal $name:literal),+ $(,)?) => {
        /// A signal that can be sent to a process. On the wire its name without `SIG`, such as `"TERM"`; read in any form that
        /// [`FromStr`] takes, and as a number.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    Stkflt = 16 "STKFLT", Chld = 17 "CHLD", Cont = 18 "CONT", Stop = 19 "STOP", Tstp = 20 "TSTP", Ttin = 21 "TTIN", Ttou = 22 "TTOU", Urg = 23 "URG",
    Xcpu = 24 "XCPU", Xfsz = 25 "XFSZ", Vtalrm = 26 "VTALRM", Prof = 27 "PROF", Winch = 28 "WINCH", Io = 29 "IO", Pwr = 30 "PWR",
    Sys = 31 "SYS", Rt0 = 34 "RTMIN", Rt1 = 35 "RTMIN+1", Rt2 = 36 "RTMIN+2", Rt3 = 37 "RTMIN+3", Rt4 = 38 "RTMIN+4",
    Rt5 = 39 "RTMIN+5", Rt6 = 40 "RTMIN+6", Rt7 = 41 "RTMIN+7", Rt8 = 42 "RTMIN+8", Rt9 = 43 "RTMIN+9", Rt10 = 44 "RTMIN+10",
    Rt11 = 45 "RTMIN+11", Rt12 = 46 "RTMIN+12", Rt13 = 47 "RTMIN+13", Rt14 = 48 "RTMIN+14", Rt15 = 49 "RTMIN+15",
    Rt16 = 50 "RTMAX-14", Rt17 = 51 "RTMAX-13", Rt18 = 52 "RTMAX-12", Rt19 = 53 "RTMAX-11", Rt20 = 54 "RTMAX-10",
    Rt21 = 55 "RTMAX-9", Rt22 = 56 "RTMAX-8", Rt23 = 57 "RTMAX-7", Rt24 = 58 "RTMAX-6", Rt25 = 59 "RTMAX-5",
    Rt26 = 60 "RTMAX-4", Rt27 = 61 "RTMAX-3", Rt28 = 62 "RTMAX-2", Rt29 = 63 "RTMAX-1", Rt30 = 64 "RTMAX",
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

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Form)
    }
}

/// A signal as JSON has it.
struct Form;

impl Visitor<'_> for Form {
    type Value = Signal;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a signal: a name such as \"TERM\", or a number")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Signal, E> {
        let known = i32::try_from(number).ok().and_then(Signal::from_number);
        known.ok_or_else(|| E::custom(UnknownSignal { text: number.to_string() }))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Signal, E> {
        self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Signal, E> {
        name.parse().map_err(E::custom)
    }
}

/// A text that names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a signal; use a name such as TERM or a number")]
pub struct UnknownSignal {
    /// What was given.
    pub text: String,
}
