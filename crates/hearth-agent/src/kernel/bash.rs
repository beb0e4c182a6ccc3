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
//! (`set -x`, `set -e`, DEBUG, aliases, a function called `builtin`); the next text puts them back. Code that ends the shell (`exit`, `set -e`) runs into our EXIT trap, which writes the
//! shell's state down in a memory file: the next shell begins by reading it. Where the user's own EXIT trap may stand in its place, the state is
//! also written before the code.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

use hearth_protocol::{ExitStatus, RawString, hex, limits};
use rustix::fs::MemfdFlags;
use rustix::rand::GetRandomFlags;

use super::driver::{Answer, Job, source};

/// The variables that a fresh shell has from the agent: one that the user has removed must not come back with the next shell.
const GIVEN: [&str; 6] = ["PATH", "LANG", "HOME", "USER", "LOGNAME", "SHELL"];
/// The last line of a state that is whole.
const COMPLETE: &[u8] = b"# complete\n";
/// The largest state that is taken up, in bytes.
const LARGEST_STATE: u64 = 64 * 1024 * 1024;
/// The options of a shell that the plumbing has to be without.
const OPTIONS: &str = "euxv";
/// Has the status 2, which says that a text was read to its end.
const TO_ITS_END: &str = "\\builtin test a b 2>/dev/null";

/// A shell, as far as it has to be known how to speak to it.
pub(super) struct Bash {
    token: String,
    first: RawFd,
    /// The variables that it was born with.
    given: String,
    /// What its variables in subshells are called: nobody has made that read-only.
    variable: String,
    /// Where the shell's state is written as it ends.
    state: OwnedFd,
    memory: Memory,
    /// What the current request is.
    current: Current,
}

/// What is remembered of a shell between two pieces of code.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// Those of [`OPTIONS`] that are on.
    options: String,
    /// Whether aliases are: they are out while the plumbing is read, since any word of it may be one.
    aliases: bool,
    /// The user's function `builtin`, as text that makes it. It is out while the plumbing runs.
    builtin: Option<Vec<u8>>,
    /// Whether any code so far may make such a function.
    may_shadow: bool,
    /// Whether any code so far may make a function `eval`.
    may_shadow_eval: bool,
    /// Whether any code so far names the variable that turns POSIX mode on: it may be read-only.
    names_posix: bool,
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
    /// Whether the shell has taken the text.
    taken: bool,
    /// Whether aliases were on before it.
    aliases: bool,
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
    Function,
}

impl Bash {
    /// Makes what a fresh shell needs.
    pub(super) fn new<'a>(first: RawFd, variables: impl Iterator<Item = &'a String>) -> io::Result<Self> {
        let state = rustix::fs::memfd_create("hearth-state", MemfdFlags::CLOEXEC)?;
        let given = GIVEN.iter().copied().chain(variables.map(String::as_str)).collect::<Vec<_>>().join(" ");
        let (memory, current) = (Memory::default(), Current::default());
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, GetRandomFlags::empty())?;
        let variable = format!("hearth_{}", hex::encode(&random));
        Ok(Self { token: String::new(), first, given, variable, state, memory, current })
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
        let [requests, answers] = [self.requests(), self.answers()];
        let hidden = |from: RawFd, sign: &str| {
            format!("{{ exec {}{sign}&10; }} {from}{sign}&-; exec {from}{sign}&-; ", from + 10)
        };
        let hide: String = [(born, "<"), (born + 1, ">"), (born + 2, "<"), (born + 3, "<")]
            .map(|(fd, sign)| hidden(fd, sign))
            .concat();
        // An array takes a text as it is, whatever IFS and TMOUT are. The end of the requests leaves it unset. Without an agent nobody reads
        // what is answered: that must not kill the subshell before it has found the end.
        let variable = &self.variable;
        let next = format!(
            "\\builtin trap '' PIPE; \\builtin printf '\\0READY\\0' >&{answers}; \\builtin mapfile -t -d '' -n 1 -u {requests} {variable}; \
             \\builtin printf '\\0TAKEN\\0' >&{answers}; \
             \\builtin printf %s \"${{{variable}-\\builtin trap - EXIT; \\builtin exit}}\""
        );
        // A text ends with the status 2, and so does none, of a subshell that was killed. Whatever else there is says that it was not read
        // to its end: the shell has no builtins any more, or executes nothing (`set -n`), when the condition itself has the status 0.
        format!(
            "{hide}\\builtin unset BASH_EXECUTION_STRING; {TO_ITS_END}; \
             until (( $? != 2 )); do \\builtin eval \"{TO_ITS_END}; $({next})\"; done"
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
        let name = &self.variable;
        let some_variables = format!(
            "( {name}=$'\\n'$(\\builtin local -p); \\builtin mapfile -t {name}_all < <(\\builtin compgen -v); \
             for {name}_one in \"${{{name}_all[@]}}\"; do [[ ${name} == *$'\\ndeclare -'+([^ ])\" ${name}_one\"@(=*|$'\\n'*|) ]] || \
             \\builtin declare -p \"${name}_one\"; done )"
        );
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
        // The second line is read when aliases are off.
        format!(
            "\\builtin printf '\\0LAST %s %s\\0' \"$-\" \"$BASHOPTS\" >&{answers}; \\builtin trap -p DEBUG ERR RETURN >&{answers}; \
             \\builtin printf '\\0' >&{answers}; \\builtin trap - DEBUG ERR RETURN EXIT; \\builtin set +{OPTIONS}; \
             \\builtin shopt -u expand_aliases\n{state}"
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
        let last_words = format!("\\builtin eval \"$(</proc/self/fd/{})\"", self.first + 13);
        match self.current.aliases {
            // A brace may be one.
            true => format!("{last_words} >/dev/null 2>&1"),
            false => format!("{{ {last_words}; }} >/dev/null 2>&1"),
        }
    }

    /// Writes the text for a job.
    pub(super) fn request(&mut self, token: String, job: &Job<'_>) -> Vec<u8> {
        self.token = token;
        self.current = Current { aliases: self.memory.aliases, ..Current::default() };
        let mut text = match *job {
            Job::Run { code, env } => {
                self.current.is_code = true;
                // Old words would be taken for those of this code.
                let _ = rustix::fs::ftruncate(&self.state, 0);
                self.memory.may_exit |= code.contains("trap") || code.contains("exit");
                self.memory.may_shadow |= code.contains("builtin");
                self.memory.may_shadow_eval |= code.contains("eval");
                self.memory.names_posix |= code.contains("POSIXLY_CORRECT");
                self.current.written_before = self.memory.may_exit || self.memory.may_shadow;
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
        let (restoring, code) = (self.restoring(), code.as_bytes());
        let Memory { aliases, builtin, may_shadow_eval, .. } = &self.memory;
        let mut eval = b"\\builtin eval ".as_slice();
        let inner = if builtin.is_some() && !may_shadow_eval {
            // From here on it is the user's.
            text.extend_from_slice(&restoring);
            eval = b"\\eval ";
            code.to_vec()
        } else if restoring.is_empty() || builtin.is_some() || self.memory.would_show_an_eval() {
            // With functions `builtin` and `eval` no word is left for code to be taken in by behind what puts them back.
            if *aliases {
                text.extend_from_slice(b"\\builtin shopt -s expand_aliases; ");
            }
            [&restoring, code].concat()
        } else {
            // The shell shows the line of a syntax error, and what stands before the code would be on its first.
            [&restoring, eval, &on_one_line(code)].concat()
        };
        for (name, value) in env {
            text.extend_from_slice(name.as_bytes());
            text.push(b'=');
            text.extend_from_slice(&on_one_line(value.as_bytes()));
            text.push(b' ');
            // Variables before `builtin eval` would be for `builtin` alone.
            eval = b"\\eval ";
        }
        text.extend_from_slice(eval);
        text.extend_from_slice(&quoted(&inner));
        text.extend_from_slice(b"; ");
        text
    }

    /// What puts the user's options, traps, function `builtin` and last status back, without a line of its own.
    fn restoring(&self) -> Vec<u8> {
        let Memory { options, traps, status, aliases, builtin, .. } = &self.memory;
        let mut text = Vec::new();
        for (name, action) in traps {
            text.extend_from_slice(b"\\builtin trap -- ");
            text.extend_from_slice(&on_one_line(action));
            text.extend_from_slice(format!(" {name}; ").as_bytes());
        }
        if !options.is_empty() {
            text.extend_from_slice(format!("\\builtin set -{options}; ").as_bytes());
        }
        if *aliases {
            text.extend_from_slice(b"\\builtin shopt -s expand_aliases; ");
        }
        if let Some(function) = builtin {
            text.extend_from_slice(b"\\builtin eval ");
            text.extend_from_slice(&on_one_line(function));
            text.extend_from_slice(b"; ");
        }
        if *status != 0 {
            let exit = if builtin.is_some() { "\\exit" } else { "\\builtin exit" };
            // As the first of two it ends no shell that ends at failures.
            text.extend_from_slice(format!("( {exit} {status} ) && \\true; ").as_bytes());
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
        let (begin, end) = if self.memory.may_shadow && !self.memory.names_posix {
            self.around_a_shadow()
        } else {
            self.around_nothing()
        };
        format!(
            "{{ {begin}\\builtin trap -p DEBUG ERR RETURN EXIT >&{answers}; \\builtin printf '\\0' >&{answers}; \
             \\builtin trap - DEBUG ERR RETURN; \\builtin set +{OPTIONS}; {end}\\builtin shopt -u expand_aliases; \
             \\builtin printf '\\0%s DONE\\0' {token} >&{answers}; {TO_ITS_END}; }} >/dev/null 2>&1"
        )
    }

    /// The status and the options, as long as `builtin` is what it is.
    fn around_nothing(&self) -> (String, String) {
        let (token, answers) = (&self.token, self.answers());
        let status = "\"$?\" \"$-\" \"$BASHOPTS\"";
        (format!("\\builtin printf '\\0%s STATUS %s %s %s\\0' {token} {status} >&{answers}; "), String::new())
    }

    /// The same where there may be a function called `builtin`: it is told, and taken out.
    ///
    /// In POSIX mode no function takes the place of `unset`, and an assignment turns that mode on; its value keeps what is to be told. What the mode
    /// changes on its way in and out is put back.
    fn around_a_shadow(&self) -> (String, String) {
        let (token, answers) = (&self.token, self.answers());
        let begin = format!(
            "POSIXLY_CORRECT=\"$? $- $BASHOPTS ${{POSIXLY_CORRECT+posix}}\"; \
             ( \\set +e; \\trap - DEBUG ERR; \\unset -f command declare printf; \
             \\command printf '\\0%s FUNCTION\\0' {token} >&{answers}; \\command declare -f builtin >&{answers}; \
             \\command printf '\\0' >&{answers} ); \\unset -f builtin; \
             \\builtin printf '\\0%s STATUS %s\\0' {token} \"$POSIXLY_CORRECT\" >&{answers}; "
        );
        let end = "case $POSIXLY_CORRECT in *' posix') POSIXLY_CORRECT=y;; *inherit_errexit*) \\builtin set +o posix;; \
                   *) \\builtin set +o posix; \\builtin shopt -u inherit_errexit;; esac; ";
        (begin, end.to_owned())
    }

    /// Understands one record.
    pub(super) fn answer(&mut self, record: &[u8]) -> Answer {
        match std::mem::take(&mut self.current.awaits) {
            Awaits::Traps => self.note_traps(record),
            Awaits::Function if self.current.is_code => {
                let is_there = !record.is_empty() && record.len() <= limits::CODE;
                self.memory.builtin = is_there.then(|| record.trim_ascii_end().to_vec());
            }
            Awaits::Function => {}
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
        match record {
            "TAKEN" => self.current.taken = true,
            // It waits for the next text, but never said that it was done with this one: a function of the user's stands in the plumbing's way.
            // One that has not taken any may have been ready before: a subshell that only waited may be killed.
            "READY" if self.current.taken => return Answer::Broken,
            _ => {}
        }
        if let Some(options) = record.strip_prefix("LAST ") {
            let (options, more) = options.split_once(' ').unwrap_or((options, ""));
            let (options, aliases) = (kept(options), has_aliases(more));
            let memory = Memory { options, aliases, exit: None, ..self.memory.clone() };
            (self.current.ended, self.current.awaits) = (Some(memory), Awaits::LastTraps);
            return Answer::Nothing;
        }
        let own = record.strip_prefix(self.token.as_str()).filter(|_| !self.token.is_empty());
        match own.and_then(|rest| rest.strip_prefix(' ')).map(|rest| rest.split(' ').collect::<Vec<_>>()).as_deref() {
            Some(["STATUS", status, options, more, ..]) => self.note_status(status, options, more),
            Some(["FUNCTION"]) => self.current.awaits = Awaits::Function,
            Some(["DONE"]) => {
                // What has come since was for this request; the next READY is not.
                let code = self.current.code.unwrap_or(1);
                return Answer::Done { code, interrupted: false };
            }
            _ => {}
        }
        Answer::Nothing
    }

    fn note_status(&mut self, status: &str, options: &str, more: &str) {
        self.current.awaits = Awaits::Traps;
        let status: u8 = status.parse().unwrap_or(1);
        self.current.code = Some(status.into());
        if self.current.is_code {
            self.memory.status = status;
            self.memory.options = kept(options);
            self.memory.aliases = has_aliases(more);
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
        Some(Self { token: String::new(), memory, current: Current::default(), ..self })
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

/// Whether aliases are on among the options of `shopt` (`$BASHOPTS`).
fn has_aliases(options: &str) -> bool {
    options.split(':').any(|option| option == "expand_aliases")
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
        // In POSIX mode it tells of those that are not set, too.
        let (action, after) = match quoted.strip_prefix(b"-") {
            Some(after) => (None, after),
            None => match unquoted(quoted) {
                Some((action, after)) => (Some(action), after),
                None => break,
            },
        };
        let Some(name) = after.strip_prefix(b" ") else { break };
        let end = name.iter().position(|&byte| byte == b'\n').unwrap_or(name.len());
        let fits = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let Some(text) = std::str::from_utf8(&name[..end]).ok().filter(fits) else { break };
        traps.extend(action.map(|action| (text.to_owned(), action)));
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
        let printed = b"trap -- - ERR\ntrap -- 'echo it'\\''s\n  two' EXIT\ntrap -- '' SIGINT\ntrap -- 'x' DEBUG\n";
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
        assert!(matches!(bash.answer(b"secret STATUS 4 ehB a:b"), Answer::Nothing));
        bash.answer(b"trap -- 'x' DEBUG\n");
        assert!(matches!(bash.answer(b"secret DONE"), Answer::Done { code: 4, .. }));
        bash.request("other".into(), &Job::Run { code: "true", env: &env });
        // Of the text before, and of a subshell in the place of one that was killed while it waited.
        assert!(matches!(bash.answer(b"READY"), Answer::Nothing));
        assert!(matches!(bash.answer(b"READY"), Answer::Nothing));
        bash.answer(b"TAKEN");
        assert!(matches!(bash.answer(b"READY"), Answer::Broken));
    }
}
