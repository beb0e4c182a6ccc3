//! Forks: copies of a sandbox, each a member of the fleet like any other.

use futures_util::future::try_join_all;
use tokio::sync::oneshot;

use super::work::{Order, Origin};
use super::{
    FleetError, ForkReport, IdlePolicy, Input, Labels, Leash, Lifetime, Member, NewSandbox, SandboxName, State,
};
use crate::{EngineError, MAX_COPIES, SandboxId, Taken};

/// Copies to make of a sandbox.
#[derive(Debug, Clone)]
pub struct NewCopies {
    /// How many: 1 to [`MAX_COPIES`].
    pub copies: usize,
    /// What the copy is called. Of more than one, each has its number behind it: `name-1`, `name-2`, …
    pub name: Option<SandboxName>,
    /// What is noted on each; by default what is noted on the source.
    pub labels: Option<Labels>,
    /// How long each lives, counted from now; for ever by default.
    pub lifetime: Option<Lifetime>,
    /// What becomes of each when nobody uses it; nothing by default.
    pub idle: Option<IdlePolicy>,
    /// Whether they keep the secrets that the source was given.
    pub secrets: bool,
}

/// What a fork has made.
#[derive(Debug)]
pub struct Forked {
    /// The copies.
    pub copies: Vec<Member>,
    /// What it took.
    pub report: ForkReport,
}

impl Member {
    /// Makes copies of it, all that are asked for or none; a paused one is woken first. Dropping the future removes them.
    ///
    /// # Errors
    /// Before anything is made: [`FleetError::Engine`] with [`EngineError::Copies`], [`FleetError::Name`], [`FleetError::WrongState`], and the
    /// refusals of [`super::Fleet::create`]. Afterwards [`FleetError::Engine`], [`FleetError::Removed`].
    pub async fn fork(&self, new: NewCopies) -> Result<Forked, FleetError> {
        let news = self.copies(new.clone())?;
        drop(self.channel().await?);
        let news: Vec<_> = news.into_iter().map(|new| (SandboxId::random(), new)).collect();
        let admitted = self.shared.line.come_in(|| self.shared.admit(news.clone())).await?;
        let (mut orders, mut leashes, mut made) = (Vec::new(), Vec::new(), Vec::new());
        for admitted in admitted {
            let (sender, receiver) = oneshot::channel();
            let (member, told) = admitted.begin(Origin::Fork(receiver));
            orders.push((member.entry.clone(), sender));
            made.push(async { told.await.unwrap_or_else(|_| Ok(())) });
            leashes.push((member.clone(), Leash::new(member)));
        }
        let report = self.order(|reply| Order::Fork { copies: orders, secrets: new.secrets, reply }).await?;
        try_join_all(made).await?;
        let copies = leashes.into_iter().map(|(member, leash)| {
            leash.release();
            member
        });
        Ok(Forked { copies: copies.collect(), report })
    }

    /// Saves it under a name; a paused one is woken first. It goes on.
    ///
    /// # Errors
    /// [`FleetError::WrongState`], [`FleetError::Removed`], and [`FleetError::Engine`] as [`crate::Engine::snapshot`].
    pub async fn snapshot(&self, name: SandboxName) -> Result<Taken, FleetError> {
        drop(self.channel().await?);
        self.order(|reply| Order::Snapshot { name, reply }).await
    }

    fn copies(&self, new: NewCopies) -> Result<Vec<NewSandbox>, FleetError> {
        if !(1..=MAX_COPIES).contains(&new.copies) {
            return Err(EngineError::Copies { copies: new.copies }.into());
        }
        let state = self.view().state;
        if matches!(state, State::Failed | State::Stopped) {
            return Err(self.refused(state, Input::Capture));
        }
        let labels = new.labels.unwrap_or_else(|| self.entry.labels());
        let name = |number: usize| match &new.name {
            Some(name) if new.copies > 1 => SandboxName::new(format!("{name}-{number}")).map(Some),
            name => Ok(name.clone()),
        };
        let mut spec = self.entry.spec.clone();
        if !new.secrets {
            spec.given.secrets.clear();
        }
        let copy = |number| {
            Ok(NewSandbox {
                spec: spec.clone(),
                name: name(number)?,
                labels: labels.clone(),
                lifetime: new.lifetime,
                idle: new.idle,
                bound: false,
            })
        };
        (1..=new.copies).map(copy).collect()
    }
}
