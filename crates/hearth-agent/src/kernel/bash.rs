//! The bash kernel: user code is evaluated in one shell, with as little as can be of ours around it.
//!
//! A shell has one namespace, so the plumbing keeps out of it: it sets no variable and defines no function; every word of it is a
//! builtin called as one; what it has to remember between two pieces of code is remembered here. Its four descriptors are closed on
//! exec, so that no child has them.
//!
//! The shell reads a text, evaluates it, and reads the next. The text for user code is on one line, so that line numbers stay right:
//!
//! ```text
//! trap <the user's EXIT trap, then ours> EXIT; NAME=value.. eval '<options and traps of the user's; code>'; <epilogue>
//! ```
//!
//! The epilogue tells the exit status, the options and the traps, and takes those out that would show or disturb the plumbing
//! (`set -x`, `set -e`, DEBUG); the next text puts them back. Code that ends the shell (`exit`, `set -e`) runs into our EXIT trap, which writes the
//! shell's state down in a memory file: the next shell begins by reading it. Where the user's own EXIT trap may stand in its place, the state is
//! also written before the code.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

use hearth_protocol::{ExitStatus, RawString, limits};
use rustix::fs::MemfdFlags;

use super::driver::{Answer, Job, source};

/// The variables that a fresh shell has from the agent: one that the user has removed must not come back with the next shell.
const GIVEN: [&str; 6] = ["PATH", "LANG", "HOME", "USER", "LOGNAME", "SHELL"];
/// The last line of a state that is whole.
const COMPLETE: &[u8] = b"# complete\n";
/// The largest state that is taken up, in bytes.
const LARGEST_STATE: u64 = 64 * 1024 * 1024;
/// The options of a shell that the plumbing has to be without.
const OPTIONS: &str = "euxv";

/// A shell, as far as it has to be known how to speak to it.
pub(super) struct Bash {
    token: String,
    first: RawFd,
    /// The variables that it was born with.
    given: String,
    /// Where the shell's state is written as it ends.
    state: OwnedFd,
    memory: Memory,
    /// What the current request is.
    current: Current,
    /// The requests made, and how often the shell has been ready for one.
    asked: u64,
    ready: u64,
}

/// What is remembered of a shell between two pieces of code.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// Those of [`OPTIONS`] that are on.
    options: String,
    /// The traps that are out while the plumbing runs, by name.
    traps: Vec<(String, Vec<u8>)>,
    /// The user's EXIT trap.
    exit: Option<Vec<u8>>,
    /// The status of the last code.
    status: u8,
    /// Whether any code so far may set an EXIT trap or exit from within a function.
    may_exit: bool,
    /// Whether there is a state to take up.
    successor: bool,
}

impl Memory {
    /// Whether a trap or an option would have the user see an `eval` of ours.
    fn would_show_an_eval(&self) -> bool {
        !self.traps.is_empty() || self.options.contains(['x', 'v'])
    }
}

#[derive(Default)]
struct Current {
    /// Whether it is user code.
    is_code: bool,
    /// Whether the state was written before it.
    written_before: bool,
    /// Whether the next record is the traps that belong to the status before it.
    awaits: Awaits,
    code: Option<i32>,
    /// What the EXIT trap said.
    ended: Option<Memory>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    #[default]
    Nothing,
    Traps,
    LastTraps,
}

impl Bash {
    /// Makes what a fresh shell needs.
    pub(super) fn new<'a>(first: RawFd, variables: impl Iterator<Item = &'a String>) -> io::Result<Self> {
        let state = rustix::fs::memfd_create("hearth-state", MemfdFlags::CLOEXEC)?;
        let given = GIVEN.iter().copied().chain(variables.map(String::as_str)).collect::<Vec<_>>().join(" ");
        let (memory, current) = (Memory::default(), Current::default());
        Ok(Self { token: String::new(), first, given, state, memory, current, asked: 0, ready: 0 })
    }

    /// The descriptors it is born with, behind those for requests and answers.
    pub(super) fn descriptors(&self) -> io::Result<[OwnedFd; 2]> {
        Ok([self.state.try_clone()?, source(&self.last_words())?])
    }

    /// The shell's own text, one line.
    ///
    /// A shell can only pass descriptors on to its children or not have them, but for the copies it keeps while a group redirects
    /// one: those are closed on exec, and so is what is made of them.
    pub(super) fn driver(&self) -> String {
        let born = self.first;
        let [requests, answers, null] = [self.requests(), self.answers(), self.first + 20];
        let hidden = |from: RawFd, sign: &str| {
            format!("{{ exec {}{sign}&10; }} {from}{sign}&-; exec {from}{sign}&-; ", from + 10)
        };
        let hide: String = [(born, "<"), (born + 1, ">"), (born + 2, "<"), (born + 3, "<")]
            .map(|(fd, sign)| hidden(fd, sign))
            .concat();
        // The subshell may do what it likes to itself: in POSIX mode no function takes the place of `unset`.
        let next = format!(
            "POSIXLY_CORRECT=1; \\unset -f builtin read printf; \\builtin printf '\\0READY\\0' >&{answers}; \
             until IFS= TMOUT=0 \\builtin read -r -d '' -u {requests} hearth; do (( $? > 128 )) || \
             {{ hearth='\\builtin trap - EXIT; \\builtin exit'; break; }}; done; \\builtin printf %s \"$hearth\""
        );
        format!(
            "{hide}\\builtin unset BASH_EXECUTION_STRING; while {null}</dev/null; do \\builtin eval \"$({next})\"; done"
        )
    }

    fn requests(&self) -> RawFd {
        self.first + 10
    }

    fn answers(&self) -> RawFd {
        self.first + 11
    }

    /// Commands that append the shell's state to its memory file, as commands that bring it back. Options come last, since they
    /// change how the rest is read.
    ///
    /// Code that exits from within a function leaves its local variables standing before the global ones: those of the innermost
    /// function are left out.
    fn write_state(&self) -> String {
        let path = format!("/proc/self/fd/{}", self.first + 12);
        let some_variables = "( IFS=$'\\n'; hearth=$'\\n'$(\\builtin local -p); for hearth_name in $(\\builtin compgen -v); do \
             [[ $hearth == *$'\\ndeclare -'+([^ ])\" $hearth_name\"@(=*|$'\\n'*|) ]] || \\builtin declare -p \"$hearth_name\"; done )";
        format!(
            "{{ \\builtin shopt -p; \\builtin trap -p; \
             if (( ${{#FUNCNAME[@]}} )); then {some_variables}; else \\builtin declare -p; fi; \
             \\builtin declare -f; \\builtin declare -Fx; \\builtin alias -p; \\builtin umask -p; \
             \\builtin printf '\\\\builtin cd -- %q\\n\\\\builtin set --' \"$PWD\"; \\builtin printf ' %q' \"$@\"; \
             \\builtin printf '\\n'; \\builtin set +o; \\builtin printf '# complete\\n'; }} >>{path} 2>/dev/null"
        )
    }

    /// What the EXIT trap does, behind what the user wants of it.
    fn last_words(&self) -> String {
        let (answers, state) = (self.answers(), self.write_state());
        format!(
            "\\builtin printf '\\0LAST %s\\0' \"$-\" >&{answers}; \\builtin trap -p DEBUG ERR RETURN >&{answers}; \
             \\builtin printf '\\0' >&{answers}; \\builtin trap - DEBUG ERR RETURN EXIT; \\builtin set +{OPTIONS}; {state}"
        )
    }

    /// The EXIT trap: short, since the user may see it.
    fn exit_trap(&self) -> Vec<u8> {
        let ours = self.own_exit_trap();
        match &self.memory.exit {
            Some(users) => [users, ours.as_bytes()].join(&b'\n'),
            None => ours.into_bytes(),
        }
    }

    fn own_exit_trap(&self) -> String {
        format!("{{ \\builtin eval \"$(</proc/self/fd/{})\"; }} >/dev/null 2>&1", self.first + 13)
    }

    /// Writes the text for a job.
    pub(super) fn request(&mut self, token: String, job: &Job<'_>) -> Vec<u8> {
        self.token = token;
        self.asked += 1;
        self.current = Current::default();
        let mut text = match *job {
            Job::Run { code, env } => {
                self.current.is_code = true;
                // Old words would be taken for those of this code.
                let _ = rustix::fs::ftruncate(&self.state, 0);
                self.memory.may_exit |= code.contains("trap") || code.contains("exit");
                self.current.written_before = self.memory.may_exit;
                self.code_text(code, env)
            }
            Job::Prepare { .. } | Job::Rehearse | Job::Adopt(_) => self.prepare_text(),
        };
        text.extend_from_slice(self.epilogue().as_bytes());
        text.push(0);
        text
    }

    fn code_text(&self, code: &str, env: &BTreeMap<String, RawString>) -> Vec<u8> {
        let mut text = Vec::with_capacity(code.len() + 1024);
        if self.current.written_before {
            text.extend_from_slice(self.write_state().as_bytes());
            text.extend_from_slice(b"; ");
        }
        text.extend_from_slice(b"\\builtin trap -- ");
        text.extend_from_slice(&on_one_line(&self.exit_trap()));
        text.extend_from_slice(b" EXIT; ");
        let mut inner = self.restoring();
        if inner.is_empty() || self.memory.would_show_an_eval() {
            inner.extend_from_slice(code.as_bytes());
        } else {
            // The shell shows the line of a syntax error, and what stands before the code would be on its first.
            inner.extend_from_slice(b"\\builtin eval ");
            inner.extend_from_slice(&on_one_line(code.as_bytes()));
        }
        for (name, value) in env {
            text.extend_from_slice(name.as_bytes());
            text.push(b'=');
            text.extend_from_slice(&on_one_line(value.as_bytes()));
            text.push(b' ');
        }
        // Variables before `builtin eval` would be for `builtin` alone.
        text.extend_from_slice(if env.is_empty() { b"\\builtin eval " } else { b"\\eval " });
        text.extend_from_slice(&quoted(&inner));
        text.extend_from_slice(b"; ");
        text
    }

    /// What puts the user's options, traps and last status back, without a line of its own.
    fn restoring(&self) -> Vec<u8> {
        let Memory { options, traps, status, .. } = &self.memory;
        let mut text = Vec::new();
        for (name, action) in traps {
            text.extend_from_slice(b"\\builtin trap -- ");
            text.extend_from_slice(&on_one_line(action));
            text.extend_from_slice(format!(" {name}; ").as_bytes());
        }
        if !options.is_empty() {
            text.extend_from_slice(format!("\\builtin set -{options}; ").as_bytes());
        }
        if *status != 0 {
            // As the first of two it ends no shell that ends at failures.
            text.extend_from_slice(format!("( \\builtin exit {status} ) && \\builtin true; ").as_bytes());
        }
        match text.is_empty() {
            true => text,
            false => [b"{ ".as_slice(), &text, b"} >/dev/null 2>&1; "].concat(),
        }
    }

    /// The text that takes up the state of the shell before, if there is one.
    fn prepare_text(&self) -> Vec<u8> {
        let path = format!("/proc/self/fd/{}", self.first + 12);
        match self.memory.successor {
            // A generator that goes on from its state would draw the same numbers in both shells.
            true => format!(
                "\\builtin unset {}; {{ \\builtin eval \"$(<{path})\"; RANDOM=$SRANDOM; }} >/dev/null 2>&1; ",
                self.given
            )
            .into_bytes(),
            false => Vec::new(),
        }
    }

    fn epilogue(&self) -> String {
        let (token, answers) = (&self.token, self.answers());
        format!(
            "{{ \\builtin printf '\\0%s STATUS %s %s\\0' {token} \"$?\" \"$-\" >&{answers}; \
             \\builtin trap -p DEBUG ERR RETURN EXIT >&{answers}; \\builtin printf '\\0' >&{answers}; \
             \\builtin trap - DEBUG ERR RETURN; \\builtin set +{OPTIONS}; \
             \\builtin printf '\\0%s DONE\\0' {token} >&{answers}; }} >/dev/null 2>&1"
        )
    }

    /// Understands one record.
    pub(super) fn answer(&mut self, record: &[u8]) -> Answer {
        match std::mem::take(&mut self.current.awaits) {
            Awaits::Traps => self.note_traps(record),
            Awaits::LastTraps => {
                if let Some(last) = &mut self.current.ended {
                    last.traps = read_traps(record).into_iter().filter(|(name, _)| name != "EXIT").collect();
                }
            }
            Awaits::Nothing => return self.answer_tagged(record),
        }
        Answer::Nothing
    }

    fn answer_tagged(&mut self, record: &[u8]) -> Answer {
        let Ok(record) = std::str::from_utf8(record) else { return Answer::Nothing };
        if record == "READY" {
            self.ready += 1;
            // It waits for the next text, but never said that it was done with this one: a function of the user's stands in the
            // plumbing's way.
            return if self.ready > self.asked { Answer::Broken } else { Answer::Nothing };
        }
        if let Some(options) = record.strip_prefix("LAST ") {
            let memory = Memory { options: kept(options), exit: None, ..self.memory.clone() };
            (self.current.ended, self.current.awaits) = (Some(memory), Awaits::LastTraps);
            return Answer::Nothing;
        }
        let own = record.strip_prefix(self.token.as_str()).filter(|_| !self.token.is_empty());
        match own.and_then(|rest| rest.strip_prefix(' ')).map(|rest| rest.split(' ').collect::<Vec<_>>()).as_deref() {
            Some(["STATUS", status, options]) => self.note_status(status, options),
            Some(["DONE"]) => {
                // What has come since was for this request; the next READY is not.
                let code = self.current.code.unwrap_or(1);
                return Answer::Done { code, interrupted: false };
            }
            _ => {}
        }
        Answer::Nothing
    }

    fn note_status(&mut self, status: &str, options: &str) {
        self.current.awaits = Awaits::Traps;
        let status: u8 = status.parse().unwrap_or(1);
        self.current.code = Some(status.into());
        if self.current.is_code {
            self.memory.status = status;
            self.memory.options = kept(options);
        }
    }

    fn note_traps(&mut self, record: &[u8]) {
        if !self.current.is_code {
            return;
        }
        let (exit, others): (Vec<_>, Vec<_>) = read_traps(record).into_iter().partition(|(name, _)| name == "EXIT");
        self.memory.traps = others;
        let ours = self.own_exit_trap();
        self.memory.exit = exit.into_iter().next().and_then(|(_, action)| {
            // Ours stands behind the user's, or alone.
            let users = action.strip_suffix(ours.as_bytes()).unwrap_or(&action);
            let users = users.strip_suffix(b"\n").unwrap_or(users);
            (!users.is_empty()).then(|| users.to_vec())
        });
    }

    /// What the next shell can go on from, now that this one has ended so.
    pub(super) fn survives(mut self, status: &ExitStatus) -> Option<Self> {
        if !self.state_is_whole() {
            return None;
        }
        let memory = match self.current.ended.take() {
            Some(memory) => memory,
            // The user's EXIT trap stood in the place of ours: the shell as it was before this code.
            None if self.current.written_before && status.code.is_some() => {
                Memory { exit: None, ..self.memory.clone() }
            }
            None => return None,
        };
        let memory = Memory { status: status.shell_code() as u8, successor: true, ..memory };
        Some(Self { token: String::new(), memory, current: Current::default(), asked: 0, ready: 0, ..self })
    }

    fn state_is_whole(&self) -> bool {
        let mut end = [0; COMPLETE.len()];
        let size = rustix::fs::fstat(&self.state).map_or(0, |stat| stat.st_size as u64);
        let from = size.checked_sub(COMPLETE.len() as u64).filter(|_| size <= LARGEST_STATE);
        from.is_some_and(|from| rustix::io::pread(&self.state, &mut end, from) == Ok(end.len()) && end == COMPLETE)
    }
}

/// Those of a shell's options (`$-`) that are taken out and put back.
fn kept(options: &str) -> String {
    options.chars().filter(|&option| OPTIONS.contains(option)).collect()
}

/// Quotes text for a shell.
fn quoted(text: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(text.len() + 16);
    quoted.push(b'\'');
    for &byte in text {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// Quotes text for bash so that it takes no lines.
fn on_one_line(text: &[u8]) -> Vec<u8> {
    if !text.contains(&b'\n') {
        return quoted(text);
    }
    let mut quoted = b"$'".to_vec();
    for &byte in text {
        match byte {
            b'\n' => quoted.extend_from_slice(b"\\n"),
            b'\'' | b'\\' => quoted.extend([b'\\', byte]),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// Reads what `trap -p` prints: `trap -- 'action' NAME` for each, where an action may have lines. Reading ends at what is not that, or past
/// the bounds.
fn read_traps(printed: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut traps = Vec::new();
    let mut rest = printed;
    while let Some(quoted) = rest.strip_prefix(b"trap -- ") {
        let Some((action, after)) = unquoted(quoted) else { break };
        let Some(name) = after.strip_prefix(b" ") else { break };
        let end = name.iter().position(|&byte| byte == b'\n').unwrap_or(name.len());
        let fits = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let Some(text) = std::str::from_utf8(&name[..end]).ok().filter(fits) else { break };
        traps.push((text.to_owned(), action));
        rest = name.get(end + 1..).unwrap_or_default();
    }
    if printed.len() > limits::CODE { Vec::new() } else { traps }
}

/// Takes one word in single quotes off the front, as bash prints it: `'it'\''s'`.
fn unquoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut word, mut rest) = (Vec::new(), text);
    loop {
        if let Some(inside) = rest.strip_prefix(b"'") {
            let end = inside.iter().position(|&byte| byte == b'\'')?;
            word.extend_from_slice(&inside[..end]);
            rest = &inside[end + 1..];
        } else if let [b'\\', escaped, after @ ..] = rest {
            word.push(*escaped);
            rest = after;
        } else {
            return Some((word, rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traps_are_read_as_bash_prints_them() {
        let printed = b"trap -- 'echo it'\\''s\n  two' EXIT\ntrap -- '' SIGINT\ntrap -- 'x' DEBUG\n";
        let read: Vec<_> =
            read_traps(printed).into_iter().map(|(name, text)| (name, String::from_utf8(text).unwrap())).collect();
        let expected = [("EXIT", "echo it's\n  two"), ("SIGINT", ""), ("DEBUG", "x")];
        assert_eq!(read, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
        for broken in [&b"trap -- 'x"[..], b"nonsense", b"trap -- 'x'EXIT", b"trap -- 'x' A B\n"] {
            assert_eq!(read_traps(broken), []);
        }
    }

    #[test]
    fn what_is_quoted_is_read_back() {
        for text in ["plain", "it's", "a\nb'\\n", ""] {
            assert_eq!(unquoted(&quoted(text.as_bytes())).unwrap().0, text.as_bytes());
            assert!(!on_one_line(text.as_bytes()).contains(&b'\n'));
        }
    }

    #[test]
    fn only_records_with_the_token_of_the_request_end_it() {
        let mut bash = Bash::new(1000, [].iter()).unwrap();
        let env = BTreeMap::new();
        bash.request("secret".into(), &Job::Run { code: "true", env: &env });
        assert!(matches!(bash.answer(b"READY"), Answer::Nothing));
        for forged in ["DONE", "guess DONE", " DONE", "secret2 DONE", "STATUS 3 h", "{\"type\":\"done\"}", ""] {
            assert!(matches!(bash.answer(forged.as_bytes()), Answer::Nothing), "{forged}");
        }
        assert!(matches!(bash.answer(b"secret STATUS 4 ehB"), Answer::Nothing));
        bash.answer(b"trap -- 'x' DEBUG\n");
        assert!(matches!(bash.answer(b"secret DONE"), Answer::Done { code: 4, .. }));
        bash.request("other".into(), &Job::Run { code: "true", env: &env });
        assert!(matches!(bash.answer(b"READY"), Answer::Nothing));
        assert!(matches!(bash.answer(b"READY"), Answer::Broken));
    }
}
