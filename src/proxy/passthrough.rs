//! Paths of a provider that the table of routes does not have: open to organisations that bring their own credential there, for what
//! is done with it is between them and the provider. It is counted as a request, and neither metered nor charged.

use super::attempt::{Exchange, Outgoing};
use super::objects::{Inquiry, failed};
use super::{Connection, own, receive};
use crate::clock;
use filters::denied::Denied;

impl Inquiry<'_> {
    /// Passes a request on with the organisation's own credential; the refusal says that there is nothing at the path.
    pub(super) async fn pass_through(self, refusal: Denied) -> Result<Connection, Denied> {
        let (Some(name), Some(path)) = (self.target.provider.as_deref(), self.target.name.as_deref()) else {
            return Err(refusal);
        };
        let Some(configured) = self.runtime.provider_named(name) else { return Err(refusal) };
        let allowed = filters::key::allows(&self.key.providers, name);
        let own = own::first_at(self.key, name, &self.gateway.own, clock::now()).filter(|_| allowed);
        let Some(own) = own else { return Err(refusal) };
        let body = receive::body(self.client, &self.runtime.limits, &self.gateway.activity).await?;
        let account = self.gateway.own.account(own, configured, &self.gateway.metrics).await;
        let account = account.map_err(|failure| failure.denied())?;
        let method = self.client.req_header().method.clone();
        let outgoing = Outgoing {
            protocol: account.provider.settings.protocol,
            method: &method,
            path,
            pieces: std::slice::from_ref(body.bytes()),
            credential: &account.credential.means,
            model: "",
            at: clock::now(),
        };
        self.report.attempts = 1;
        let exchange = Exchange::open(self.gateway, &account.provider, self.client, &outgoing).await;
        let exchange = exchange.map_err(|failure| failed(&account.provider, &account.credential, failure))?;
        if !exchange.has_head() {
            exchange.abort().await;
            return Ok(Connection::Broken);
        }
        account.credential.judge(&account.provider, exchange.head());
        Ok(self.pass_on(exchange, None).await)
    }
}
