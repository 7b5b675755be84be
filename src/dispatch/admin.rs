//! What the operator does to the Authentication Service while it runs. The requests come over the node's admin socket;
//! every change is made durable in the one way in which requests change anything.

use super::{Dispatcher, run::Scope};
use crate::{authentication::delete_user::Removal, base::Refusal, service::Outcome, wire::server::Done};

impl Dispatcher {
    /// Writes the end of a user, and lets it take effect.
    ///
    /// # Errors
    /// What the store refuses.
    pub(super) async fn remove_user(&self, scope: Scope<'_>, removal: Removal) -> Result<Vec<u8>, Refusal> {
        let Removal { batch, revoked, queues } = removal;
        let reply = scope.commit_closing(Outcome::write(batch, Done {}), queues).await?;
        self.authentication.revocations.apply(revoked);
        Ok(reply)
    }
}
