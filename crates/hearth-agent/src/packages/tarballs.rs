//! Finds the tarball of a package in a directory: npm itself takes files by name only, so ranges are understood here.
//!
//! A tarball is called as `npm pack` calls it: `name-1.2.3.tgz`, or `scope-name-1.2.3.tgz` for a package with a scope.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use hearth_protocol::packages::PackageLanguage;
use hearth_protocol::{ErrorCode, Fault};

/// Finds the newest tarball that will do for `package`.
///
/// # Errors
/// [`ErrorCode::NotFound`]; [`ErrorCode::Io`] for a directory that cannot be read.
pub(super) fn find(directory: &Path, package: &str) -> Result<PathBuf, Fault> {
    let wanted = PackageLanguage::Javascript.read(package).expect("packages are checked when they are read");
    let stem = format!("{}-", wanted.name.trim_start_matches('@').replace('/', "-"));
    let entries = fs::read_dir(directory).map_err(|error| {
        Fault::never_started(ErrorCode::Io, format!("from: {} cannot be read: {error}", directory.display()))
    })?;
    let version_of = |file: &Path| {
        let name = file.file_name()?.to_str()?;
        Version::read(name.strip_prefix(&stem)?.strip_suffix(".tgz")?)
    };
    entries
        .flatten()
        .filter_map(|entry| Some((version_of(&entry.path())?, entry.path())))
        .filter(|(version, _)| version.fits(wanted.version))
        .max_by(|(one, _), (other, _)| one.cmp(other))
        .map(|(_, path)| path)
        .ok_or_else(|| {
            let message = format!("from: {} has no tarball for {package:?}", directory.display());
            Fault::never_started(ErrorCode::NotFound, message)
        })
}

/// A version by the rules of semver.org, but for the order among the last parts of two pre-releases, which is that of their text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    numbers: [u64; 3],
    pre: Option<String>,
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        // A release comes after its pre-releases.
        let pre = |version: &Self| (version.pre.is_none(), version.pre.clone());
        self.numbers.cmp(&other.numbers).then_with(|| pre(self).cmp(&pre(other)))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Version {
    /// Reads a whole version: three numbers.
    fn read(text: &str) -> Option<Self> {
        match Partial::read(text)? {
            Partial { numbers, given: 3, pre } => Some(Self { numbers, pre }),
            _ => None,
        }
    }

    fn release(numbers: [u64; 3]) -> Self {
        Self { numbers, pre: None }
    }

    /// Whether it is in a range: alternatives, each of parts that must all hold.
    fn fits(&self, range: &str) -> bool {
        range.split("||").any(|alternative| self.fits_all(alternative.trim()))
    }

    fn fits_all(&self, range: &str) -> bool {
        if let Some((from, to)) = range.split_once(" - ") {
            return self.fits_part(&format!(">={from}")) && self.fits_part(&format!("<={to}"));
        }
        // A pre-release is for whoever asks for just that.
        let exact = Self::read(range.trim_start_matches('='));
        (self.pre.is_none() || exact.as_ref() == Some(self))
            && range.split_whitespace().all(|part| self.fits_part(part))
    }

    fn fits_part(&self, part: &str) -> bool {
        if matches!(part, "latest" | "*") {
            return true;
        }
        let operators = ["^", "~", ">=", "<=", ">", "<", "="];
        let operator = operators.into_iter().find(|operator| part.starts_with(operator)).unwrap_or("");
        let Some(base) = Partial::read(part[operator.len()..].trim_start_matches('=')) else { return false };
        let (first, behind) = (Self { numbers: base.numbers, pre: base.pre.clone() }, |place| base.behind(place));
        match operator {
            "^" => first <= *self && *self < behind(base.leftmost()),
            "~" => first <= *self && *self < behind(base.given.clamp(1, 2) - 1),
            ">=" => *self >= first,
            "<" => *self < first,
            _ if base.given == 0 => true,
            ">" if base.given < 3 => *self >= behind(base.given - 1),
            "<=" if base.given < 3 => *self < behind(base.given - 1),
            ">" => *self > first,
            "<=" => *self <= first,
            _ if base.given == 3 => *self == first,
            _ => first <= *self && *self < behind(base.given - 1),
        }
    }
}

/// A version of which the last numbers may be left out, or be `x` or `*`.
struct Partial {
    numbers: [u64; 3],
    given: usize,
    pre: Option<String>,
}

impl Partial {
    fn read(text: &str) -> Option<Self> {
        let (text, _build) = text.split_once('+').unwrap_or((text, ""));
        let (core, pre) = match text.split_once('-') {
            Some((core, pre)) => (core, Some(pre.to_owned())),
            None => (text, None),
        };
        let mut partial = Self { numbers: [0; 3], given: 0, pre };
        let mut is_open = false;
        for (place, number) in core.trim_start_matches('v').split('.').enumerate() {
            if place == 3 {
                return None;
            }
            is_open |= matches!(number, "x" | "X" | "*");
            if !is_open {
                partial.numbers[place] = number.parse().ok()?;
                partial.given = place + 1;
            }
        }
        (partial.pre.is_none() || partial.given == 3).then_some(partial)
    }

    /// The place of the first number that is not zero, or of the last that is given: what `^` leaves as it is.
    fn leftmost(&self) -> usize {
        let last = self.given.saturating_sub(1);
        self.numbers.iter().position(|&number| number != 0).map_or(last, |place| place.min(last))
    }

    /// The first version that differs from it at `place`.
    fn behind(&self, place: usize) -> Version {
        let mut numbers = [0; 3];
        numbers[..=place].copy_from_slice(&self.numbers[..=place]);
        numbers[place] = numbers[place].saturating_add(1);
        Version::release(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(version: &str, range: &str) -> bool {
        Version::read(version).unwrap().fits(range)
    }

    #[test]
    fn ranges_are_those_of_npm() {
        for (range, inside, outside) in [
            ("1.2.3", &["1.2.3"][..], &["1.2.4", "1.2.2", "1.2.3-beta"][..]),
            ("=1.2.3", &["1.2.3"], &["1.2.4"]),
            ("^1.2.3", &["1.2.3", "1.9.0"], &["1.2.2", "2.0.0", "1.5.0-rc.1"]),
            ("^0.2.3", &["0.2.3", "0.2.9"], &["0.3.0", "0.2.2"]),
            ("^0.0.3", &["0.0.3"], &["0.0.4"]),
            ("^1", &["1.0.0", "1.99.0"], &["2.0.0"]),
            ("^0", &["0.0.1", "0.9.0"], &["1.0.0"]),
            ("~1.2.3", &["1.2.3", "1.2.9"], &["1.3.0"]),
            ("~1.2", &["1.2.0"], &["1.3.0"]),
            ("~1", &["1.9.0"], &["2.0.0"]),
            (">=1.2", &["1.2.0", "7.0.0"], &["1.1.9"]),
            (">1.2", &["1.3.0"], &["1.2.9"]),
            ("<=1.2", &["1.2.9"], &["1.3.0"]),
            (">1.2.3", &["1.2.4"], &["1.2.3"]),
            (">=1.0.0 <2.0.0", &["1.5.0"], &["2.0.0", "0.9.0"]),
            ("1.x", &["1.0.0", "1.9.9"], &["2.0.0"]),
            ("1.2.*", &["1.2.7"], &["1.3.0"]),
            ("1.2", &["1.2.7"], &["1.3.0"]),
            ("*", &["0.0.1", "9.9.9"], &["1.0.0-alpha"]),
            ("latest", &["1.0.0"], &[]),
            ("1.0.0 - 2.0.0", &["1.0.0", "2.0.0"], &["2.0.1"]),
            ("<1 || 3.x", &["0.9.0", "3.4.5"], &["1.0.0", "2.0.0"]),
            ("1.0.0-rc.1", &["1.0.0-rc.1"], &["1.0.0", "1.0.0-rc.2"]),
            ("nonsense", &[], &["1.0.0"]),
            ("1.2.3.4", &[], &["1.2.3"]),
        ] {
            inside.iter().for_each(|version| assert!(fits(version, range), "{version} is in {range}"));
            outside.iter().for_each(|version| assert!(!fits(version, range), "{version} is not in {range}"));
        }
    }

    #[test]
    fn the_newest_tarball_of_just_that_package_is_found() {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "a-1.0.0.tgz",
            "a-1.10.0.tgz",
            "a-1.9.0.tgz",
            "a-2.0.0-beta.1.tgz",
            "a-b-3.0.0.tgz",
            "scope-a-1.5.0.tgz",
            "a-1.99.0.txt",
            "a-one.tgz",
        ] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let found = |package: &str| {
            find(directory.path(), package).map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        };
        for (package, file) in [
            ("a@^1.0.0", "a-1.10.0.tgz"),
            ("a@1.9.0", "a-1.9.0.tgz"),
            ("a@2.0.0-beta.1", "a-2.0.0-beta.1.tgz"),
            ("a@latest", "a-1.10.0.tgz"),
            ("a-b@3", "a-b-3.0.0.tgz"),
            ("@scope/a@>=1", "scope-a-1.5.0.tgz"),
        ] {
            assert_eq!(found(package).unwrap(), file, "{package}");
        }
        for package in ["a@4", "c@1", "@other/a@1"] {
            assert_eq!(found(package).unwrap_err().code, ErrorCode::NotFound, "{package}");
        }
    }
}
