//! The rule where it cannot be evaded: between the answer of the resolver and the connection.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::guard::{Guard, PrivateAddress};

/// The answers for a host name. The port does not matter.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Resolves names and hands out only addresses that the guard permits. The connection goes to exactly these: there is
/// no second look-up whose answer could differ.
pub struct GuardedResolver {
    guard: Guard,
    lookup: Lookup,
}

impl GuardedResolver {
    /// A resolver that asks `lookup`.
    #[must_use]
    pub fn new(guard: Guard, lookup: Lookup) -> Self {
        Self { guard, lookup }
    }
}

impl std::fmt::Debug for GuardedResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardedResolver").field("guard", &self.guard).finish_non_exhaustive()
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.guard.clone();
        let answers = (self.lookup)(name.as_str().to_owned());
        Box::pin(async move {
            let mut permitted = answers.await?;
            permitted.retain(|address| guard.permits(address.ip()));
            if permitted.is_empty() {
                return Err(PrivateAddress.into());
            }
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

/// The system's resolver.
#[must_use]
pub fn system_lookup() -> Lookup {
    Arc::new(|name| Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) }))
}
