//! What sandboxes cost the host at a moment.

use hearth_vmm::Load;
use tokio::sync::oneshot;

use super::Member;
use super::task::Message;

impl Member {
    /// Measures its machine; `None` where it has none.
    pub async fn load(&self) -> Option<Load> {
        let (reply, told) = oneshot::channel();
        self.entry.inbox.send(Message::Machine(reply)).await.ok()?;
        let pid = told.await.ok()??;
        tokio::task::spawn_blocking(move || Load::of(pid)).await.ok()?.ok()
    }
}
