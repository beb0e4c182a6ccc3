//! `hearth kernel`.

use std::io;
use std::os::unix::ffi::OsStringExt;

use hearth_client::api::kernels::KernelLine;
use hearth_client::api::protocol::kernel::{KernelExec, KernelInfo, KernelRan, KernelValue};
use hearth_client::api::protocol::{RawString, StreamName, limits};
use hearth_client::{Client, KernelRun};
use serde_json::{Value, json};

use super::exec::secret;
use super::sandbox::existing;
use crate::arguments::{KernelCommand, KernelOptions, KernelRunOptions};
use crate::capture::Capture;
use crate::failure::{BROKEN_PIPE, Failure, TIMED_OUT};
use crate::signals::{Signals, Told};
use crate::values::EnvVar;
use crate::{output, pipes};

/// The exit code after a second Ctrl-C.
const INTERRUPTED: i32 = 130;
/// The bytes of values and errors that a report holds; of the rest it has the number.
const SHOWN: usize = 16 * 1024 * 1024;

/// Does something with a kernel.
pub(crate) async fn run(command: KernelCommand) -> Result<i32, Failure> {
    match command {
        KernelCommand::Run(options) => return run_code(options).await,
        KernelCommand::Ls(options) => {
            let kernels = existing(&options.sandbox).await?.kernels(&options.sandbox).await?.kernels;
            if options.json {
                output::print_json(&kernels)?;
            } else {
                let rows: Vec<Vec<String>> = kernels.iter().map(row).collect();
                output::print_table(&["KERNEL", "LANGUAGE", "STATE", "PROCESS", "RUNS"], &rows)?;
            }
        }
        KernelCommand::Interrupt(KernelOptions { sandbox, kernel, .. }) => {
            existing(&sandbox).await?.interrupt_kernel(&sandbox, &kernel).await?;
        }
        KernelCommand::Restart(KernelOptions { sandbox, kernel, .. }) => {
            let ready = existing(&sandbox).await?.restart_kernel(&sandbox, &kernel).await?;
            for (name, reason) in ready.failed_imports {
                output::say(&format!("hearth: {} was not imported: {}", output::plain(&name), output::plain(&reason)));
            }
        }
        KernelCommand::Rm(KernelOptions { sandbox, kernel, .. }) => {
            existing(&sandbox).await?.remove_kernel(&sandbox, &kernel).await?;
        }
    }
    Ok(0)
}

fn row(kernel: &KernelInfo) -> Vec<String> {
    let process = kernel.process.map_or_else(|| "-".to_owned(), |process| process.0.to_string());
    let state = json!(kernel.state).as_str().unwrap_or_default().to_owned();
    vec![output::plain(&kernel.name), kernel.language.name().to_owned(), state, process, kernel.execs.to_string()]
}

/// Runs code, and returns its exit code.
async fn run_code(options: KernelRunOptions) -> Result<i32, Failure> {
    let exec = request(&options).await?;
    let kernel = options.context.unwrap_or_else(|| exec.language.name().to_owned());
    let client = existing(&options.sandbox).await?;
    let mut signals = Signals::new().map_err(Failure::runtime)?;
    let mut report = options.json.then(Report::default);
    let follow = async {
        let run = client.exec_in_kernel(&options.sandbox, &kernel, &exec).await?;
        follow(run, &mut report).await
    };
    let ended = tokio::select! {
        ended = follow => ended?,
        code = interrupt(&client, (&options.sandbox, &kernel), &mut signals) => return Ok(code),
    };
    let ran = match ended {
        Ended::Ran(ran) => ran,
        Ended::Unread => return Ok(BROKEN_PIPE),
    };
    let code = if ran.timed_out { TIMED_OUT } else { ran.code };
    match report {
        Some(report) => output::print_json(&report.finish(code, &ran))?,
        None => tell(&ran),
    }
    Ok(code)
}

/// Says what neither the output nor the exit code does.
fn tell(ran: &KernelRan) {
    if ran.dropped > 0 {
        output::say(&format!("hearth: {} bytes were dropped in the guest", ran.dropped));
    }
    match ran.signal.filter(|_| ran.state_lost) {
        Some(_) if ran.out_of_memory => {
            output::say("hearth: the kernel was killed for want of memory: its state is lost")
        }
        Some(signal) => output::say(&format!("hearth: signal {signal} ended the kernel: its state is lost")),
        None => {}
    }
}

async fn request(options: &KernelRunOptions) -> Result<KernelExec, Failure> {
    let code = match options.code.to_str() {
        Some("-") => read_code().await?,
        _ => options.code.clone().into_vec(),
    };
    let code = String::from_utf8(code).map_err(|_| Failure::invalid("the code is not UTF-8 text".to_owned()))?;
    let mut exec = KernelExec::new(options.language.into());
    exec.code = Some(code);
    exec.env = options.env.iter().filter_map(EnvVar::get).map(|(name, value)| (name, RawString::from(value))).collect();
    exec.secrets = options.secret.iter().map(|named| secret(named)).collect();
    exec.timeout_ms = options.timeout.map(|time| u64::try_from(time.0.as_millis()).unwrap_or(u64::MAX));
    Ok(exec)
}

/// Reads standard input, as far as code may be long: what is longer is refused by whoever gets it.
async fn read_code() -> Result<Vec<u8>, Failure> {
    let mut code = Vec::new();
    while code.len() <= limits::CODE {
        let read = pipes::read_stdin().await;
        match read.map_err(|error| Failure::host(format!("cannot read the code: {error}")))? {
            bytes if bytes.is_empty() => break,
            bytes => code.extend_from_slice(&bytes),
        }
    }
    Ok(code)
}

/// Has Ctrl-C interrupt the code; returns this process's exit code when it is to end.
async fn interrupt(client: &Client, (sandbox, kernel): (&str, &str), signals: &mut Signals) -> i32 {
    let end = asked_to_end(signals).await;
    // Code that has just ended, or does not run yet, needs none.
    let interrupting = async { drop(client.interrupt_kernel(sandbox, kernel).await) };
    if let Some(code) = end {
        interrupting.await;
        return code;
    }
    let then_wait = async {
        interrupting.await;
        std::future::pending().await
    };
    tokio::select! {
        end = asked_to_end(signals) => end.unwrap_or(INTERRUPTED),
        never = then_wait => never,
    }
}

/// Waits for Ctrl-C, or for a signal that ends this process with a code.
async fn asked_to_end(signals: &mut Signals) -> Option<i32> {
    loop {
        match signals.told().await {
            Told::Interrupt => return None,
            Told::End(code) => return Some(code),
            Told::Resized => {}
        }
    }
}

/// How following code has ended.
enum Ended {
    Ran(Box<KernelRan>),
    /// Nobody reads what it writes.
    Unread,
}

async fn follow(mut run: KernelRun, report: &mut Option<Report>) -> Result<Ended, Failure> {
    // The value or the error at its end, which may come before output that was written earlier.
    let mut conclusion = Vec::new();
    while let Some(line) = run.next().await? {
        let lines = match (line, &mut *report) {
            (KernelLine::Ran(ran), _) => {
                let written = pass_on(conclusion).await?;
                return Ok(if written { Ended::Ran(Box::new(ran)) } else { Ended::Unread });
            }
            (line, Some(report)) => {
                report.take(line);
                continue;
            }
            (line @ (KernelLine::Result(_) | KernelLine::Error { .. }), None) => {
                conclusion.push(line);
                continue;
            }
            (line, None) => vec![line],
        };
        if !pass_on(lines).await? {
            return Ok(Ended::Unread);
        }
    }
    Err(Failure::machine("the code's end was not told".to_owned()))
}

/// Writes what code does to where it belongs; tells whether somebody reads it.
async fn pass_on(lines: Vec<KernelLine>) -> Result<bool, Failure> {
    for line in lines {
        match write(line).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            Err(error) => return Err(Failure::host(format!("cannot write the output: {error}"))),
        }
    }
    Ok(true)
}

async fn write(line: KernelLine) -> io::Result<()> {
    match line {
        KernelLine::Output { stream, .. } => {
            pipes::write(stream == StreamName::Stderr, line.bytes().unwrap_or_default()).await
        }
        KernelLine::Result(value) | KernelLine::Display(value) => pipes::write(false, text_of(&value)).await,
        KernelLine::Error { traceback, .. } => pipes::write(true, traceback).await,
        KernelLine::Ran(_) | KernelLine::Failed { .. } => Ok(()),
    }
}

/// A value as text; without that, which forms it has.
fn text_of(value: &KernelValue) -> String {
    let text = value.data.get("text/plain").and_then(Value::as_str);
    text.map_or_else(
        || {
            let forms = value.data.keys().chain(value.omitted.keys());
            format!("<{}>\n", forms.map(|form| output::plain(form)).collect::<Vec<_>>().join(", "))
        },
        |text| format!("{text}\n"),
    )
}

/// What code did, for one JSON object.
#[derive(Default)]
struct Report {
    written: Capture,
    shown: Vec<KernelLine>,
    shown_bytes: usize,
    dropped: u64,
}

impl Report {
    fn take(&mut self, line: KernelLine) {
        if let KernelLine::Output { stream, .. } = line {
            return self.written.take(stream, &line.bytes().unwrap_or_default());
        }
        self.shown_bytes += line.to_line().len();
        if self.shown_bytes <= SHOWN {
            self.shown.push(line);
        } else {
            self.dropped += 1;
        }
    }

    fn finish(self, exit_code: i32, ran: &KernelRan) -> Value {
        let (stdout, stderr) = self.written.streams();
        json!({
            "exit_code": exit_code,
            "ran": ran,
            "stdout": stdout,
            "stderr": stderr,
            "shown": self.shown,
            "dropped_shown": self.dropped,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(forms: Value) -> KernelValue {
        serde_json::from_value(json!({ "data": forms })).unwrap()
    }

    #[test]
    fn a_value_is_shown_as_text_or_by_the_names_of_its_forms() {
        assert_eq!(text_of(&value(json!({ "text/plain": "a\nb", "text/html": "<b>" }))), "a\nb\n");
        assert_eq!(text_of(&value(json!({ "image/png": "AA==", "x\u{1b}": "" }))), "<image/png, x\\u{1b}>\n");
    }

    #[test]
    fn a_report_counts_what_it_has_no_room_for() {
        let mut report = Report::default();
        let large = KernelLine::Result(value(json!({ "text/plain": "x".repeat(SHOWN - 100) })));
        for _ in 0..3 {
            report.take(large.clone());
        }
        assert_eq!((report.shown.len(), report.dropped), (1, 2));
    }
}
