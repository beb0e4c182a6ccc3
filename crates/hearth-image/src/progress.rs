//! What a build tells while it runs. Nothing here draws; the binary turns these into a bar.

/// One step of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Another build of the same thing, or of one that shares its downloads, is running; this one waits for it.
    Wait,
    /// The package lists are fetched and the wanted packages looked up.
    Resolve,
    /// The packages are fetched.
    Download,
    /// The packages are unpacked and set up in a directory.
    Install,
    /// The directory is turned into a filesystem image.
    Pack,
    /// The kernel and its modules are taken out of their package.
    Kernel,
    /// The result is hashed, written to disk and given its name.
    Publish,
}

impl Stage {
    /// Every stage, in the order in which they come.
    pub const ALL: [Stage; 7] =
        [Stage::Wait, Stage::Resolve, Stage::Download, Stage::Install, Stage::Pack, Stage::Kernel, Stage::Publish];
}

/// One report from a running build: where it stands within its stage.
///
/// Within a stage `done` never goes down, and `total` is the same in every report. A stage that cannot be measured
/// has a `total` of 0 until it ends. Stages that a resumed build skips are not reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The stage that is running.
    pub stage: Stage,
    /// What is done: bytes in [`Stage::Download`] and [`Stage::Publish`], steps elsewhere.
    pub done: u64,
    /// What there is to do in the same unit, or 0 when nobody can tell.
    pub total: u64,
    /// What is being done, for people: a package's name, or a phrase.
    pub text: String,
}
