//! Bounds on everything a peer may send. Both ends enforce them on what they receive.

/// The longest header or control line in bytes, its newline included.
pub const HEADER: usize = 64 * 1024;
/// The largest payload of one chunk in bytes.
pub const PAYLOAD: usize = 1024 * 1024;
/// The payload that both ends put into one chunk of a long stream, in bytes: large enough that headers cost nothing,
/// small enough that streams take turns.
pub const CHUNK: usize = 64 * 1024;
/// The credit each stream starts with, in bytes. Some ten times what is in flight on a local socket.
pub const WINDOW: u64 = 512 * 1024;
/// The payload of one chunk of an upload, in bytes: nobody waits for a part of it, and each chunk costs a guest without KVM tens of microseconds.
pub const UPLOAD_CHUNK: usize = 256 * 1024;
/// The credit that an upload begins with, in bytes, when its session has no other as large: more than a virtio-serial port and the socket before it
/// hold. Else QEMU, without KVM, hands out what a grant brings at one go, and keeps the guest's processor from its lock meanwhile.
pub const UPLOAD_WINDOW: u64 = 6 * 1024 * 1024;
/// The most credit a sender may ever hold, in bytes; a grant beyond it is a protocol violation.
pub const CREDIT: u64 = 64 * 1024 * 1024;
/// The most arguments, or environment variables, of one command.
pub const ARGUMENTS: usize = 4096;
/// The longest deadline in milliseconds (7 days).
pub const TIMEOUT_MS: u64 = 7 * 24 * 3600 * 1000;
/// The longest grace between TERM and KILL in milliseconds (5 minutes).
pub const GRACE_MS: u64 = 5 * 60 * 1000;
/// The grace between TERM and KILL in milliseconds where none is asked for.
pub const DEFAULT_GRACE_MS: u64 = 250;
/// The time to connect to something in the guest in milliseconds where none is asked for.
pub const CONNECT_MS: u64 = 5000;
/// The largest width or height of a terminal, in cells.
pub const PTY_CELLS: u16 = 4096;
/// The longest message of a fault, in characters.
pub const MESSAGE: usize = 1000;
/// The most processes in one reply to a list: with the next bound they fit a line.
pub const LISTED: usize = 64;
/// The most that is shown of a listed process's command, in bytes of JSON.
pub const LISTED_COMMAND: usize = 512;
/// The most secrets.
pub const SECRETS: usize = 64;
/// The longest name of a secret in bytes.
pub const SECRET_NAME: usize = 64;
/// The longest value of a secret in bytes; as it travels on the control lane, a little less fits.
pub const SECRET_VALUE: usize = 64 * 1024;
/// The most bytes in all secrets together.
pub const SECRETS_TOTAL: usize = 128 * 1024;
/// The most values that a process names to be hidden from its own output.
pub const REDACTED_VALUES: usize = 64;
/// The most variables that a renewal gives to all processes.
pub const RENEWED_VARIABLES: usize = 64;
/// The most services.
pub const SERVICES: usize = 64;
/// The longest name of a service in bytes.
pub const SERVICE_NAME: usize = 64;
/// The longest text of a readiness in bytes.
pub const READINESS: usize = 4096;
/// How long a service that names no readiness must run to be ready, in milliseconds.
pub const SETTLED_MS: u64 = 200;
/// How long a service may take to become ready where it does not say, in milliseconds.
pub const READY_TIMEOUT_MS: u64 = 30_000;
/// The time between two looks at a readiness where none is named, in milliseconds.
pub const READY_INTERVAL_MS: u64 = 100;
/// The time between TERM and KILL for a service that names none, in milliseconds.
pub const SERVICE_GRACE_MS: u64 = 5000;
/// The first wait before a service is started again where none is named, in milliseconds.
pub const BACKOFF_MS: u64 = 200;
/// The longest wait before a service is started again where none is named, in milliseconds.
pub const LONGEST_BACKOFF_MS: u64 = 30_000;
/// How long a service must have been ready for its restarts to be counted anew, in milliseconds.
pub const HEALTHY_MS: u64 = 10_000;
/// The bytes kept from the start of an output stream where no budget is given.
pub const KEPT_HEAD: u64 = 128 * 1024;
/// The bytes kept from the end of an output stream where no budget is given. At least a session's window, so that a lossless follower can
/// be a whole window behind.
pub const KEPT_TAIL: u64 = 1024 * 1024;
/// The most that may be kept of a stream's head, and of its tail, in bytes.
pub const KEPT_MOST: u64 = 16 * 1024 * 1024;
/// The least that is kept of a stream's tail, in bytes: followers read from it.
pub const KEPT_LEAST_TAIL: u64 = 32 * 1024;
/// The longest tag of a process, in bytes.
pub const TAG: usize = 128;
/// The longest name of a shell, in bytes.
pub const NAME: usize = 64;
/// The most that one read of a stream returns, in bytes.
pub const READ: u64 = 1024 * 1024;
/// What one read returns at most where it does not say, in bytes.
pub const DEFAULT_READ: u64 = 64 * 1024;
/// How long a write waits for a process that does not read, where it does not say, in milliseconds.
pub const DEFAULT_WRITE_WAIT_MS: u64 = 1000;
/// The longest that a read or a write waits, in milliseconds (10 minutes).
pub const WAIT_MS: u64 = 10 * 60 * 1000;
/// The largest width or height of a shell's terminal, in cells: the agent keeps what it shows.
pub const SHELL_CELLS: u16 = 512;
/// The most shells there may be.
pub const SHELLS: usize = 64;
/// The least that a wait for an idle shell may call quiet, in milliseconds.
pub const QUIET_MS: u64 = 10;
/// How long a shell must be quiet to be idle where a wait does not say, in milliseconds.
pub const DEFAULT_QUIET_MS: u64 = 200;
/// How long a wait for an idle shell takes at most where it does not say, in milliseconds.
pub const DEFAULT_IDLE_TIMEOUT_MS: u64 = 30_000;
/// The longest code that a kernel runs at a time, in bytes.
pub const CODE: usize = 1024 * 1024;
/// The longest line of a kernel's `data` stream in bytes: a value in its forms, or an error.
pub const KERNEL_EVENT: usize = 6 * 1024 * 1024;
/// The time that interrupted code has before its kernel is killed, in milliseconds, where none is asked for.
pub const KERNEL_GRACE_MS: u64 = 400;
/// The most modules that a kernel imports ahead.
pub const IMPORTS: usize = 64;
/// The most that the names of a chosen part of a tree take, in bytes.
pub const SELECTION: usize = 16 * 1024 * 1024;
/// The most checkpoints of a workspace.
pub const CHECKPOINTS: usize = 1000;
/// The most names that a patch has taken off the front of its paths.
pub const STRIP: u32 = 64;
/// The largest file whose change a patch carries, in bytes.
pub const PATCHED_FILE: u64 = 1024 * 1024 * 1024;
/// The most packages of one install.
pub const PACKAGES: usize = 50;
/// The longest name of a package, with its version, in bytes.
pub const PACKAGE: usize = 256;
