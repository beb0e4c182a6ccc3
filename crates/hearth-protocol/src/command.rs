//! What is to be run.

use serde::{Deserialize, Serialize};

use crate::RawString;

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A program, looked for in `PATH` where it has no slash, and its arguments.
    Argv(Vec<RawString>),
    /// Text for `/bin/sh -c`.
    Shell(RawString),
}

impl Command {
    /// The command with as much of it as fits `limit` bytes of JSON, in whole arguments; a shell's text is cut to fit.
    pub fn shortened(&self, limit: usize) -> Self {
        let size = |text: &RawString| serde_json::to_string(text).map_or(usize::MAX, |json| json.len() + 1);
        match self {
            Self::Argv(argv) => {
                let fits = argv.iter().scan(0_usize, |sum, argument| {
                    *sum = sum.saturating_add(size(argument));
                    Some(*sum)
                });
                Self::Argv(argv[..fits.take_while(|sum| *sum <= limit).count()].to_vec())
            }
            // A byte of text takes at most six of JSON.
            Self::Shell(text) if size(text) > limit => {
                Self::Shell(text.as_bytes()[..text.as_bytes().len().min(limit / 6)].into())
            }
            Self::Shell(text) => Self::Shell(text.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_a_list_are_cut_to_a_bound() {
        let long: RawString = vec![1; 5000].into();
        for command in
            [Command::Shell(long.clone()), Command::Argv(vec![long.clone(); 9]), Command::Argv(vec!["a".into(); 900])]
        {
            let cut = serde_json::to_string(&command.shortened(512)).unwrap();
            assert!(cut.len() < 512 + 20, "{} bytes", cut.len());
        }
        let short = Command::Argv(vec!["echo".into(), "hi".into()]);
        assert_eq!(short.shortened(512), short);
    }
}
