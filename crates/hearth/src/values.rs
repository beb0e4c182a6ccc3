//! Values as people write them: sizes, times, variables.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hearth_client::api::IdleAction;
use hearth_client::api::protocol::Command;
use hearth_client::api::protocol::service::Readiness;

/// An amount of memory in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory(pub(crate) u32);

/// The size of a disk in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk(pub(crate) u32);

/// A share of processors, in hundredths of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Processors(pub(crate) u32);

/// A time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Seconds(pub(crate) Duration);

/// What becomes of a sandbox that nobody uses, or nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Idle(pub(crate) Option<(IdleAction, Seconds)>);

/// A variable of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnvVar {
    name: String,
    /// `None` takes the value from here.
    value: Option<Vec<u8>>,
}

/// A note on a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl FromStr for Label {
    type Err = &'static str;

    /// Reads `KEY=VALUE`; a key alone has an empty value.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            Err("a label is KEY or KEY=VALUE")
        } else {
            Ok(Self { key: key.into(), value: value.into() })
        }
    }
}

impl FromStr for Idle {
    type Err = &'static str;

    /// Reads `pause:TIME`, `remove:TIME` or `none`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (action, time) = match text.split_once(':') {
            None if text == "none" => return Ok(Self(None)),
            Some(("pause", time)) => (IdleAction::Pause, time),
            Some(("remove", time)) => (IdleAction::Remove, time),
            _ => return Err("this is pause:TIME, remove:TIME or none"),
        };
        Ok(Self(Some((action, time.parse()?))))
    }
}

/// A port of this host's that leads to one in a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) listen: SocketAddr,
    pub(crate) guest_port: u16,
}

impl FromStr for Publish {
    type Err = &'static str;

    /// Reads `HOST:GUEST`, `ADDR:HOST:GUEST` or `[ADDR]:HOST:GUEST`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "a port is HOST:GUEST or ADDR:HOST:GUEST, such as 8080:80 or 127.0.0.1:0:80";
        let (listen, guest) = text.rsplit_once(':').ok_or(RULE)?;
        let guest_port = guest.parse().ok().filter(|port| *port != 0).ok_or(RULE)?;
        let listen = match listen.parse::<u16>() {
            Ok(port) => (Ipv4Addr::LOCALHOST, port).into(),
            Err(_) => listen.parse().map_err(|_| RULE)?,
        };
        Ok(Self { listen, guest_port })
    }
}

/// What shows that a service is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ready(pub(crate) Readiness);

impl FromStr for Ready {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(match text.split_once(':') {
            Some(("tcp", address)) => Readiness::Tcp { address: address.to_owned() },
            Some(("http", _)) => Readiness::Http { url: text.to_owned() },
            Some(("file", path)) => Readiness::File { path: path.into() },
            Some(("command", text)) => Readiness::Command { command: Command::Shell(text.into()) },
            _ => return Err("this is tcp:ADDRESS:PORT, http://ADDRESS:PORT/PATH, file:PATH or command:TEXT"),
        }))
    }
}

/// A secret: its value is a variable's here, or a file's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretSource {
    pub(crate) name: String,
    /// `None` for the variable of that name.
    pub(crate) file: Option<PathBuf>,
}

impl FromStr for SecretSource {
    type Err = &'static str;

    /// Reads `NAME` or `NAME=FILE`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, file) = match text.split_once('=') {
            Some((_, "")) => return Err("a secret is NAME, for the variable of that name, or NAME=FILE"),
            Some((name, file)) => (name, Some(PathBuf::from(file))),
            None => (text, None),
        };
        Ok(Self { name: name.to_owned(), file })
    }
}

const SIZE: &str = "a size is a whole number of MiB, or has a unit: 512, 512M, 2G";
const TIME: &str = "a time is a number of seconds above 0, or has a unit: 90, 1.5s, 500ms, 5m, 2h";

fn mib(text: &str) -> Result<u32, &'static str> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u32 = digits.parse().map_err(|_| SIZE)?;
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 1,
        "g" | "gb" | "gib" => 1024,
        "t" | "tb" | "tib" => 1024 * 1024,
        _ => return Err(SIZE),
    };
    number.checked_mul(factor).ok_or(SIZE)
}

impl FromStr for Memory {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        mib(text).map(Self)
    }
}

impl FromStr for Disk {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        mib(text).map(Self)
    }
}

impl FromStr for Processors {
    type Err = &'static str;

    /// Reads a number such as 2 or 0.5, to the hundredth.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hundredths = text.parse::<f64>().map(|number| (number * 100.0).round());
        match hundredths {
            Ok(hundredths) if (1.0..=100_000.0).contains(&hundredths) => Ok(Self(hundredths as u32)),
            _ => Err("this is a number of processors, 0.01 to 1000"),
        }
    }
}

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let number: f64 = digits.parse().map_err(|_| TIME)?;
        let unit = match &text[digits.len()..] {
            "" | "s" => 1.0,
            "ms" => 0.001,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return Err(TIME),
        };
        let time = Duration::try_from_secs_f64(number * unit).map_err(|_| TIME)?;
        if time < Duration::from_millis(1) { Err(TIME) } else { Ok(Self(time)) }
    }
}

impl EnvVar {
    /// Reads `NAME=VALUE`, or `NAME` for this program's own variable.
    pub(crate) fn parse(text: OsString) -> Result<Self, &'static str> {
        let mut parts = text.as_bytes().splitn(2, |&byte| byte == b'=');
        let name =
            std::str::from_utf8(parts.next().unwrap_or_default()).map_err(|_| "a variable's name must be UTF-8")?;
        Ok(Self { name: name.to_owned(), value: parts.next().map(<[u8]>::to_vec) })
    }

    /// Name and value; `None` for a variable to be passed on that is not set.
    pub(crate) fn get(&self) -> Option<(String, Vec<u8>)> {
        let own = || std::env::var_os(&self.name).map(OsStringExt::into_vec);
        Some((self.name.clone(), self.value.clone().or_else(own)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_mib_unless_they_say_otherwise() {
        let size = |text: &str| text.parse::<Memory>().map(|memory| memory.0).ok();
        assert_eq!(size("512"), Some(512));
        assert_eq!(
            (size("512M"), size("2G"), size("2gib"), size("1T")),
            (Some(512), Some(2048), Some(2048), Some(1 << 20))
        );
        for bad in ["", "G", "-1", "1.5G", "1K", "1 G", "99999999999", "4194304T"] {
            assert_eq!(size(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn processors_are_counted_to_the_hundredth() {
        let cpus = |text: &str| text.parse::<Processors>().map(|cpus| cpus.0).ok();
        assert_eq!(
            (cpus("2"), cpus("0.5"), cpus("1.005"), cpus("1000")),
            (Some(200), Some(50), Some(100), Some(100_000))
        );
        for bad in ["", "0", "-1", "0.001", "1000.1", "nan", "inf", "1 ", "half"] {
            assert_eq!(cpus(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn times_are_seconds_unless_they_say_otherwise() {
        let time = |text: &str| text.parse::<Seconds>().map(|time| time.0.as_millis()).ok();
        assert_eq!(
            (time("90"), time("1.5s"), time("500ms"), time("2h")),
            (Some(90_000), Some(1500), Some(500), Some(7_200_000))
        );
        for bad in ["", "0", "-1", "s", "1d", "nan", "inf", "1e400", "1 s"] {
            assert_eq!(time(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn idleness_is_an_action_and_a_time_or_none() {
        let minutes = Some((IdleAction::Pause, Seconds(Duration::from_secs(600))));
        assert_eq!("pause:10m".parse(), Ok(Idle(minutes)));
        assert_eq!("none".parse(), Ok(Idle(None)));
        for bad in ["", "pause", "pause:", "remove:0", "sleep:5m", "none:5m"] {
            assert!(bad.parse::<Idle>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ports_are_loopbacks_unless_they_say_otherwise() {
        let port = |text: &str| text.parse::<Publish>().map(|port| (port.listen.to_string(), port.guest_port)).ok();
        assert_eq!(port("8080:80"), Some(("127.0.0.1:8080".into(), 80)));
        assert_eq!(port("0.0.0.0:0:80"), Some(("0.0.0.0:0".into(), 80)));
        assert_eq!(port("[::1]:8080:80"), Some(("[::1]:8080".into(), 80)));
        for bad in ["", "80", "80:", "80:0", "x:80", "80:80:80", "99999:80"] {
            assert_eq!(port(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn variables_keep_their_bytes() {
        let variable = |text: &[u8]| EnvVar::parse(OsString::from_vec(text.to_vec())).map(|variable| variable.get());
        assert_eq!(variable(b"A=b=\xff"), Ok(Some(("A".to_owned(), b"b=\xff".to_vec()))));
        assert_eq!(variable(b"HEARTH_SURELY_UNSET"), Ok(None));
        assert!(variable(b"\xff=1").is_err());
    }
}
