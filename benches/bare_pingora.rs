//! Bare Pingora: a pass-through that only names its upstream; the yardstick that Tollgate's cost is held against.
//!
//! Tollgate's allocator, page size and connection pool, and nothing else: no deadline, no limit, no filter.

use std::net::SocketAddr;

use async_trait::async_trait;
use clap::Parser;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::{Opt, ServerConf};
use pingora::upstreams::peer::HttpPeer;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    upstream: SocketAddr,
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

struct PassThrough {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for PassThrough {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _context: &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

fn main() {
    // As Tollgate does.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let arguments = Arguments::parse();
    let configuration = ServerConf {
        threads: arguments.threads,
        upstream_keepalive_pool_size: 512,
        // Pingora sleeps this long on SIGTERM, five minutes by default.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(Opt::default(), configuration);
    server.bootstrap();
    let pass_through = PassThrough { upstream: arguments.upstream };
    let mut service = http_proxy_service(&server.configuration, pass_through);
    service.add_tcp(&arguments.listen.to_string());
    server.add_service(service);
    server.run_forever();
}
