//! Secrets: values that processes get as files and variables, and that nothing shows.
//!
//! [`Secrets`] owns the values. A change of them builds the whole directory of files anew ([`files`]) and puts it in the old one's place,
//! so that a change is whole or has not happened; then what is looked for in every output changes ([`redact`]).
//!
//! A value that was replaced or removed is *retired*: a process that was started before may still have it, so it stays hidden in the output
//! of those until none of them is left, or until so many were retired that the oldest are given up.
//!
//! What is hidden: the output of processes, before anything keeps it; what a shell's screen shows as text; commands and tags in lists; the
//! messages of faults. A file that a user writes is the user's own, and so is what a program hides by encoding it.

mod automaton;
mod files;
mod forms;
mod redact;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::SystemTime;

use hearth_protocol::secrets::{Secret, SecretInfo, SecretList, SecretRequest, SecretValue};
use hearth_protocol::{Command, ErrorCode, Fault, RawString, Tag, limits};

pub(crate) use automaton::Automaton;
pub(crate) use files::Place;
pub(crate) use redact::Redactor;

/// The retired values that stay hidden.
const RETIRED: usize = limits::SECRETS;
/// How many bytes they may have.
const RETIRED_TOTAL: usize = limits::SECRETS_TOTAL;

/// All secrets of an agent.
pub(crate) struct Secrets {
    place: Place,
    known: RefCell<Known>,
}

#[derive(Default)]
struct Known {
    current: BTreeMap<String, Entry>,
    retired: VecDeque<SecretValue>,
    /// How often the secrets have changed.
    generation: u64,
    /// Finds the current values.
    fresh: Option<Rc<Automaton>>,
    /// Finds the retired ones too.
    older: Option<Rc<Automaton>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Entry {
    value: SecretValue,
    file: bool,
    set_unix_ms: u64,
    /// Whether it is of the set that came as an archive.
    archived: bool,
}

/// What a process must not show: decided when it starts, looked up again at each change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hidden {
    /// The generation of the secrets that it was started with.
    generation: u64,
    /// Values of its own.
    extra: Vec<SecretValue>,
}

impl Known {
    /// Whether there is no secret, was none that is still hidden, and the place of their files has been made so.
    fn has_nothing(&self) -> bool {
        self.generation > 0 && self.current.is_empty() && self.retired.is_empty()
    }
}

/// A change of the secrets that can be made.
pub(crate) struct Change(BTreeMap<String, Entry>);

impl Secrets {
    /// Makes a store with nothing in it, whose files will be at `place`.
    pub(crate) fn new(place: Place) -> Self {
        Self { place, known: RefCell::default() }
    }

    /// Checks what is asked against what there is; nothing has changed yet.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownName`], [`ErrorCode::TooLarge`].
    pub(crate) fn plan(&self, request: SecretRequest) -> Result<Option<Change>, Fault> {
        let mut next = self.known.borrow().current.clone();
        match request {
            SecretRequest::List {} => return Ok(None),
            SecretRequest::Set { secrets } => add(&mut next, secrets, false),
            SecretRequest::Replace { secrets } => {
                next.clear();
                add(&mut next, secrets, false);
            }
            SecretRequest::Remove { names } => {
                for name in names {
                    next.remove(&name).ok_or_else(|| unknown(&name))?;
                }
            }
        }
        checked(next).map(Some)
    }

    /// Checks a set that came as an archive. It takes the place of the one before it, and of others' secrets only by their names.
    ///
    /// # Errors
    /// [`ErrorCode::TooLarge`].
    pub(crate) fn plan_archive(&self, secrets: Vec<Secret>) -> Result<Change, Fault> {
        let mut next = self.known.borrow().current.clone();
        next.retain(|_, entry| !entry.archived);
        add(&mut next, secrets, true);
        checked(next)
    }

    /// Makes a change. `running` says whether there is a process that may still have what is replaced or removed.
    ///
    /// # Errors
    /// [`ErrorCode::Io`] or [`ErrorCode::NoSpace`] when the files cannot be written; everything is as it was then.
    pub(crate) fn apply(&self, Change(next): Change, running: bool) -> Result<(), Fault> {
        if next.is_empty() && self.known.borrow().has_nothing() {
            return Ok(());
        }
        let files = next.iter().filter(|(_, entry)| entry.file);
        self.place.install(files.map(|(name, entry)| (name.as_str(), entry.value.reveal())))?;
        let known = &mut *self.known.borrow_mut();
        let before = std::mem::replace(&mut known.current, next);
        known.retire(before.into_values().map(|entry| entry.value));
        if !running {
            known.retired.clear();
        }
        known.generation += 1;
        known.fresh = automaton(known.current.values().map(|entry| &entry.value));
        known.older = automaton(known.current.values().map(|entry| &entry.value).chain(&known.retired));
        Ok(())
    }

    /// Lists what there is.
    pub(crate) fn list(&self) -> SecretList {
        let describe = |(name, entry): (&String, &Entry)| SecretInfo {
            name: name.clone(),
            bytes: entry.value.reveal().len() as u64,
            file: entry.file,
            set_unix_ms: entry.set_unix_ms,
        };
        let secrets = self.known.borrow().current.iter().map(describe).collect();
        SecretList { directory: self.place.directory().to_string_lossy().into_owned(), secrets }
    }

    /// The value of a secret, for the environment of a process.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownName`]; [`ErrorCode::InvalidField`] for a value that no variable can hold.
    pub(crate) fn variable(&self, name: &str) -> Result<RawString, Fault> {
        let known = self.known.borrow();
        let value = known.current.get(name).ok_or_else(|| unknown(name))?.value.reveal();
        if value.contains(&0) {
            let message = format!("secret {name} holds a NUL byte, so it can be a file but no variable");
            return Err(Fault::never_started(ErrorCode::InvalidField, message));
        }
        Ok(value.into())
    }

    /// The directory of the files, while there are any.
    pub(crate) fn directory(&self) -> Option<&std::path::Path> {
        let any = self.known.borrow().current.values().any(|entry| entry.file);
        any.then(|| self.place.directory())
    }

    /// What a process that starts now must not show: the secrets, and `extra`.
    pub(crate) fn hide_with(&self, extra: &[SecretValue]) -> Hidden {
        Hidden { generation: self.known.borrow().generation, extra: extra.to_vec() }
    }

    /// What to look for in the output of a process; `None` for nothing.
    pub(crate) fn automaton(&self, hidden: &Hidden) -> Option<Rc<Automaton>> {
        let known = self.known.borrow();
        let is_older = hidden.generation < known.generation;
        if !hidden.extra.is_empty() {
            let retired = known.retired.iter().filter(|_| is_older);
            return automaton(known.current.values().map(|entry| &entry.value).chain(retired).chain(&hidden.extra));
        }
        if is_older { known.older.clone() } else { known.fresh.clone() }
    }

    /// Hides all values in the message of a fault.
    pub(crate) fn redact_fault(&self, fault: Fault) -> Fault {
        redact_fault(self.known.borrow().older.as_ref(), fault)
    }
}

/// Hides values in the message of a fault.
pub(crate) fn redact_fault(automaton: Option<&Rc<Automaton>>, fault: Fault) -> Fault {
    let Some(automaton) = automaton else { return fault };
    let (message, cut) = match fault.message.strip_suffix('…') {
        Some(message) => (redact::redact_cut(automaton, message.as_bytes()), "…"),
        None => (redact::redact(automaton, fault.message.as_bytes()), ""),
    };
    match message {
        Cow::Borrowed(_) => fault,
        Cow::Owned(message) => {
            let message = String::from_utf8_lossy(&message).into_owned() + cut;
            // Marks may be longer than what they stand for, and a message has a bound.
            Fault { outcome: fault.outcome, ..Fault::failed(fault.code, message) }
        }
    }
}

/// Hides values in a text.
pub(crate) fn redact_raw(automaton: Option<&Rc<Automaton>>, text: &RawString) -> RawString {
    match automaton {
        Some(automaton) => redact::redact(automaton, text.as_bytes()).into_owned().into(),
        None => text.clone(),
    }
}

/// Hides values in a text that is all there; `None` when there are none in it.
pub(crate) fn redact_text(automaton: &Rc<Automaton>, text: &str) -> Option<String> {
    match redact::redact(automaton, text.as_bytes()) {
        Cow::Borrowed(_) => None,
        Cow::Owned(text) => Some(String::from_utf8_lossy(&text).into_owned()),
    }
}

/// Hides values in a tag, which stays as long as one may be.
pub(crate) fn redact_tag(automaton: Option<&Rc<Automaton>>, tag: &Tag) -> Tag {
    let hidden = automaton.and_then(|automaton| redact_text(automaton, tag.as_str()));
    let cut = |text: String| Tag::new(&text[..text.floor_char_boundary(limits::TAG)]);
    hidden.map_or_else(|| tag.clone(), |text| cut(text).expect("a mark is text, and what is cut is short enough"))
}

/// Hides values in a command.
pub(crate) fn redact_command(automaton: Option<&Rc<Automaton>>, command: &Command) -> Command {
    let hide = |text: &RawString| redact_raw(automaton, text);
    match command {
        Command::Shell(text) => Command::Shell(hide(text)),
        Command::Argv(argv) => Command::Argv(argv.iter().map(hide).collect()),
    }
}

impl Known {
    fn retire(&mut self, values: impl Iterator<Item = SecretValue>) {
        for value in values {
            let is_current = self.current.values().any(|entry| entry.value == value);
            if !is_current && !self.retired.contains(&value) {
                self.retired.push_back(value);
            }
        }
        let mut total: usize = self.retired.iter().map(|value| value.reveal().len()).sum();
        while self.retired.len() > RETIRED || total > RETIRED_TOTAL {
            total -= self.retired.pop_front().map_or(total, |value| value.reveal().len());
        }
    }
}

/// A change to these secrets, if they are not too many.
fn checked(next: BTreeMap<String, Entry>) -> Result<Change, Fault> {
    let total: usize = next.values().map(|entry| entry.value.reveal().len()).sum();
    let bounds = [("secrets", next.len(), limits::SECRETS), ("bytes of secrets", total, limits::SECRETS_TOTAL)];
    match bounds.into_iter().find(|(_, count, limit)| count > limit) {
        None => Ok(Change(next)),
        Some((what, count, limit)) => {
            let message = format!("there would be {count} {what}, over the limit of {limit}");
            Err(Fault::never_started(ErrorCode::TooLarge, message))
        }
    }
}

fn add(secrets: &mut BTreeMap<String, Entry>, new: Vec<Secret>, archived: bool) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    for Secret { name, value, file } in new {
        secrets.insert(name, Entry { value, file, set_unix_ms: now, archived });
    }
}

fn unknown(name: &str) -> Fault {
    Fault::never_started(ErrorCode::UnknownName, format!("there is no secret {name:?}"))
}

fn automaton<'a>(values: impl Iterator<Item = &'a SecretValue>) -> Option<Rc<Automaton>> {
    let forms: Vec<Vec<u8>> = values.flat_map(|value| forms::forms(value.reveal(), limits::SECRET_VALUE)).collect();
    Automaton::new(forms.iter().map(Vec::as_slice)).map(Rc::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Runtime;

    fn set(secrets: &Secrets, value: &str, running: bool) {
        let secret = Secret { name: "A".into(), value: value.into(), file: true };
        let change = secrets.plan(SecretRequest::Set { secrets: vec![secret] }).unwrap();
        secrets.apply(change.unwrap(), running).unwrap();
    }

    fn shown(secrets: &Secrets, hidden: &Hidden, text: &str) -> String {
        let command = Command::Shell(text.into());
        match redact_command(secrets.automaton(hidden).as_ref(), &command) {
            Command::Shell(text) => text.to_string_lossy().into_owned(),
            Command::Argv(_) => unreachable!("a shell's command stays one"),
        }
    }

    #[test]
    fn values_of_the_past_are_hidden_from_those_who_may_have_them_as_long_as_there_is_one_and_within_a_bound() {
        let directory = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(Place::new(Runtime::at(directory.path()), None));
        set(&secrets, "value-000", false);
        let old = secrets.hide_with(&[]);
        for number in 1..=RETIRED + 1 {
            set(&secrets, &format!("value-{number:03}"), true);
        }
        let new = secrets.hide_with(&[]);
        let text = "value-000 value-001 value-064 value-065";
        assert_eq!(shown(&secrets, &old, text), "value-000 [REDACTED] [REDACTED] [REDACTED]");
        assert_eq!(shown(&secrets, &new, text), "value-000 value-001 value-064 [REDACTED]");
        let extra = secrets.hide_with(&["value-0".into()]);
        assert_eq!(shown(&secrets, &extra, text), "[REDACTED]00 [REDACTED]01 [REDACTED]64 [REDACTED]");
        set(&secrets, "another", false);
        assert_eq!(shown(&secrets, &new, text), text, "nothing runs that could know them");
        set(&secrets, "", true);
        assert_eq!(shown(&secrets, &secrets.hide_with(&[]), "another"), "another");
        assert_eq!(shown(&secrets, &new, "another"), "[REDACTED]");
    }

    #[test]
    fn a_change_that_cannot_be_written_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(Place::new(Runtime::at(directory.path()), None));
        set(&secrets, "old", true);
        let long = Secret { name: "N".repeat(300), value: "x".into(), file: true };
        let change = secrets.plan(SecretRequest::Set { secrets: vec![long] }).unwrap().unwrap();
        assert_eq!(secrets.apply(change, true).unwrap_err().code, ErrorCode::Io);
        assert_eq!(std::fs::read(directory.path().join("secrets/A")).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(secrets.list().secrets.len(), 1);
    }
}
