//! What can be typed about kernels.

use std::ffi::OsString;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use hearth_client::api::protocol::kernel::KernelLanguage;

use super::SandboxOptions;
use crate::values::{EnvVar, Seconds};

#[derive(Debug, Subcommand)]
pub(crate) enum KernelCommand {
    /// Run code in a kernel, which is started if it is not there
    Run(KernelRunOptions),
    /// List kernels
    Ls(SandboxOptions),
    /// Interrupt the code that runs in a kernel
    Interrupt(KernelOptions),
    /// End a kernel's interpreter, with all it has started, and start a fresh one
    Restart(KernelOptions),
    /// End a kernel, with all it has started, and forget it
    Rm(KernelOptions),
}

impl KernelCommand {
    pub(super) fn wants_json(&self) -> bool {
        match self {
            Self::Run(options) => options.json,
            Self::Ls(options) => options.json,
            Self::Interrupt(options) | Self::Restart(options) | Self::Rm(options) => options.json,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct KernelOptions {
    /// Print errors as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
    /// Kernel, as hearth kernel ls shows it
    pub(crate) kernel: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
What the code writes comes out here, then the value of its last expression; an error's traceback is error output. Ctrl-C interrupts the \
code, a second one leaves it alone.

Exit code: 0, or 1 after an error; what the code exits with; 124 when --timeout passed; 125 when Hearth itself failed; 130 after an \
interrupt.

  hearth kernel run box 'x = 20'
  hearth kernel run box 'x * 2 + 2'
  hearth kernel run box --language bash - < setup.sh")]
pub(crate) struct KernelRunOptions {
    /// What the code is written in
    #[arg(short, long, value_enum, default_value_t = Language::Python)]
    pub(crate) language: Language,
    /// Kernel to run it in, by name [default: the language's name]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Set a variable for this code; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(EnvVar::parse))]
    pub(crate) env: Vec<EnvVar>,
    /// Set the variable to a secret of the sandbox's, by default to the one of its name
    #[arg(long, value_name = "VARIABLE[=SECRET]")]
    pub(crate) secret: Vec<String>,
    /// Interrupt the code after this time, in seconds or with a unit: 90, 1.5s, 5m, 2h
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<Seconds>,
    /// Print one JSON object in place of the output, with values in all their forms
    #[arg(long)]
    pub(crate) json: bool,
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
    /// Code, or - for standard input
    #[arg(allow_hyphen_values = true)]
    pub(crate) code: OsString,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// Python 3
    Python,
    /// Bash
    Bash,
    /// JavaScript, where the image has node
    Javascript,
}

impl From<Language> for KernelLanguage {
    fn from(language: Language) -> Self {
        match language {
            Language::Python => Self::Python,
            Language::Bash => Self::Bash,
            Language::Javascript => Self::Javascript,
        }
    }
}
