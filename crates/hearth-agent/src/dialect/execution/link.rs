//! One client: what it asks is read here, and what it is told leaves here.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::answer::{Answer, Answers};
use super::lines::Lines;
use super::request::{self, Action, ErrorType, Exec, Language, OpId, Packages, Refusal, Request};
use super::write::{InUse, Unknown, Writes};
use super::{Entry, Execution, cancelled, exec, interpreter, read};
use crate::session::Writer;

/// The operations of one client that may be under way.
const OPERATIONS: usize = 64;
/// The answers to pings, and the refusals, that may wait for a client.
const EXPRESS: usize = 64;
/// The other messages that may wait for it.
const QUEUE: usize = 4;

/// What is known of how a client comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By connections of its own: what they bring is all its.
    Connection,
    /// By a port, where nobody is told that one client has gone and the next has come: what the one sent last may be a part of what the
    /// other sends first.
    Port,
}

/// A client.
pub(super) struct Link {
    execution: Rc<Execution>,
    way: Way,
    express: mpsc::Sender<Bytes>,
    queue: mpsc::Sender<Bytes>,
    places: Arc<Semaphore>,
    writes: Rc<Writes>,
    /// What ends with the link.
    transfers: RefCell<JoinSet<()>>,
}

/// What is to be written to a client. What is short and alone goes before what is long.
pub(super) struct Outgoing {
    express: mpsc::Receiver<Bytes>,
    queue: mpsc::Receiver<Bytes>,
}

impl Outgoing {
    /// The next line; `None` when nobody has anything more to say.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            Some(line) = self.express.recv() => Some(line),
            Some(line) = self.queue.recv() => Some(line),
            else => None,
        }
    }

    /// Writes everything there is to say; ends early when it cannot be.
    pub(super) async fn write_to(&mut self, writer: &mut Writer) {
        while let Some(line) = self.next().await {
            if writer.write_all(&line).await.is_err() {
                return;
            }
        }
    }
}

impl Link {
    pub(super) fn new(execution: Rc<Execution>, way: Way) -> (Rc<Self>, Outgoing) {
        let (express, express_receiver) = mpsc::channel(EXPRESS);
        let (queue, queue_receiver) = mpsc::channel(QUEUE);
        let link = Rc::new(Self {
            execution,
            way,
            express,
            queue,
            places: Arc::new(Semaphore::new(OPERATIONS)),
            writes: Rc::default(),
            transfers: RefCell::default(),
        });
        (link, Outgoing { express: express_receiver, queue: queue_receiver })
    }

    /// Does what is asked, until the end of the lines.
    pub(super) async fn serve(&self, mut lines: Lines) {
        // A connection that breaks ends as one that is closed.
        while let Ok(Some(line)) = lines.next().await {
            let request = line.map_err(|refusal| (None, refusal)).and_then(|line| self.read(&line));
            match request {
                Ok(Request { op_id, action }) => {
                    if let Err(refusal) = self.act(op_id.clone(), action).await {
                        self.refuse(op_id, &refusal).await;
                    }
                }
                Err((op_id, refusal)) => self.refuse(op_id, &refusal).await,
            }
        }
    }

    fn read(&self, line: &[u8]) -> Result<Request, (Option<OpId>, Refusal)> {
        let read = request::parse(line);
        match self.way {
            Way::Port if read.is_err() => request::parse_behind_a_cut(line).unwrap_or(read),
            _ => read,
        }
    }

    /// Asks no more: uploads that have not ended never will. Returns the transfers that go on, as long as that is kept.
    pub(super) fn close(self: Rc<Self>) -> JoinSet<()> {
        self.writes.cut_off();
        self.transfers.take()
    }

    /// Gives up everything that ends with the link, for a client that is gone.
    pub(super) fn abandon(&self) {
        self.writes.cut_off();
        self.transfers.borrow_mut().abort_all();
    }

    async fn refuse(&self, op_id: Option<OpId>, refusal: &Refusal) {
        // Whoever is gone needs no answer.
        let _ = self.answers_by(&self.express, op_id).refuse(refusal).await;
    }

    async fn act(&self, op_id: Option<OpId>, action: Action) -> Result<(), Refusal> {
        match action {
            Action::Ping => {
                let _ = self.answers_by(&self.express, op_id).send(&Answer::pong()).await;
            }
            Action::WriteFile { op_id, path, executable } => self.begin_write(op_id, path, executable)?,
            Action::FileChunk { op_id, data } => self.writes.pass(&op_id, data).await.map_err(no_write)?,
            Action::FileEnd { op_id } => self.writes.end(&op_id).await.map_err(no_write)?,
            Action::ReadFile { path } => {
                let root = self.execution.home()?;
                self.transfer(op_id, async move |answers| read::file(root, path, answers).await)?;
            }
            Action::ListFiles { path } => {
                let root = self.execution.home()?;
                self.transfer(op_id, async move |answers| read::list(root, path, answers).await)?;
            }
            Action::WarmRepl { language } => self.warm(op_id, language)?,
            Action::Exec(exec) => self.exec(op_id, exec)?,
            Action::Cancel { op_id } => {
                if !self.execution.cancel(&op_id) {
                    return Err(Refusal::new(ErrorType::Protocol, "No active operation has this op_id"));
                }
            }
            Action::InstallPackages(wanted) => self.install(op_id, wanted)?,
        }
        Ok(())
    }

    fn begin_write(&self, op_id: OpId, path: Result<String, Refusal>, executable: bool) -> Result<(), Refusal> {
        let begin = |path| Ok((path, self.enter(Some(op_id.clone()))?, self.execution.home()?));
        let (path, entry, root) = path.and_then(begin).inspect_err(|_| self.writes.refuse(op_id.clone()))?;
        let answers = self.answers(Some(op_id.clone()));
        let writes = Rc::clone(&self.writes);
        if self.way == Way::Port {
            // The one of this name may be that of a client which is gone.
            writes.give_up(&op_id);
        }
        let pieces = writes.begin(op_id).map_err(in_use)?;
        self.spawn(async move { writes.run(pieces, root, path, executable, answers, &entry).await });
        Ok(())
    }

    /// Runs code. Not one of the link's tasks: it outlives its client.
    fn exec(&self, op_id: Option<OpId>, exec: Exec) -> Result<(), Refusal> {
        let entry = self.enter(op_id.clone())?;
        let (execution, answers) = (Rc::clone(&self.execution), self.answers(op_id));
        tokio::task::spawn_local(async move { exec::run(&execution, exec, answers, &entry).await });
        Ok(())
    }

    /// Installs packages. It outlives its client as code does: half an installation is of use to nobody.
    fn install(&self, op_id: Option<OpId>, wanted: Packages) -> Result<(), Refusal> {
        let entry = self.enter(op_id.clone())?;
        let (execution, answers) = (Rc::clone(&self.execution), self.answers(op_id));
        tokio::task::spawn_local(async move { exec::install(&execution, wanted, answers, &entry).await });
        Ok(())
    }

    fn warm(&self, op_id: Option<OpId>, language: Language) -> Result<(), Refusal> {
        let execution = Rc::clone(&self.execution);
        self.transfer(op_id, async move |answers| {
            let warmed = interpreter::warm(&execution, language).await;
            let failure = warmed.as_ref().err().map(|refusal| refusal.message.as_str());
            let _ = answers.send(&Answer::warm(language, failure)).await;
            Ok(())
        })
    }

    /// Does what ends with the link, beside everything else.
    fn transfer(
        &self,
        op_id: Option<OpId>,
        work: impl AsyncFnOnce(&Answers) -> Result<(), Refusal> + 'static,
    ) -> Result<(), Refusal> {
        let entry = self.enter(op_id.clone())?;
        let answers = self.answers(op_id);
        self.spawn(async move {
            let done = tokio::select! {
                done = work(&answers) => done,
                () = entry.cancelled() => Err(cancelled()),
            };
            if let Err(refusal) = done {
                let _ = answers.refuse(&refusal).await;
            }
        });
        Ok(())
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut transfers = self.transfers.borrow_mut();
        while transfers.try_join_next().is_some() {}
        transfers.spawn_local(task);
    }

    fn answers(&self, op_id: Option<OpId>) -> Answers {
        self.answers_by(&self.queue, op_id)
    }

    fn answers_by(&self, queue: &mpsc::Sender<Bytes>, op_id: Option<OpId>) -> Answers {
        Answers::new(op_id, queue.clone(), Rc::clone(&self.execution.agent.processes.secrets))
    }

    fn enter(&self, op_id: Option<OpId>) -> Result<Entry, Refusal> {
        let own = Arc::clone(&self.places).try_acquire_owned();
        let own =
            own.map_err(|_| Refusal::request(format_args!("{OPERATIONS} operations of this client have not ended")))?;
        self.execution.enter(op_id, own)
    }
}

fn in_use(InUse: InUse) -> Refusal {
    Refusal::request("a write with this op_id has not ended")
}

fn no_write(Unknown: Unknown) -> Refusal {
    Refusal::new(ErrorType::Protocol, "No active write has this op_id")
}
