//! Listens on one or more addresses; prints one line when it does, and one for each connection that ended.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::mpsc,
    thread,
    time::Instant,
};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::{exchange::Exchange, facts};

/// A thread for each of thousands of connections must be small.
const STACK: usize = 512 << 10;

#[derive(Args)]
pub struct Serve {
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    #[command(flatten)]
    exchange: Exchange,
    /// Ends after this many connections have ended.
    #[arg(long)]
    count: Option<u64>,
    /// Prints nothing for a connection that ended, unless it brought what was not expected.
    #[arg(long)]
    quiet: bool,
    /// Takes data with the SYN (TCP_FASTOPEN).
    #[arg(long)]
    fastopen: bool,
}

impl Serve {
    pub fn run(self) -> Result<()> {
        let mut listeners = Vec::new();
        for address in &self.listen {
            listeners.push(self.bind(*address).with_context(|| format!("listening on {address}"))?);
        }
        let addresses: Vec<_> =
            listeners.iter().flat_map(TcpListener::local_addr).map(|a| a.to_string()).collect();
        crate::print(&json!({ "listening": addresses }));
        let (ended, ends) = mpsc::channel();
        thread::scope(|scope| -> Result<()> {
            for listener in &listeners {
                let (ended, serve) = (ended.clone(), &self);
                scope.spawn(move || serve.accept(listener, &ended));
            }
            for _ in 0..self.count.unwrap_or(u64::MAX) {
                ends.recv()?;
            }
            // The accepting threads never end by themselves.
            std::process::exit(0);
        })
    }

    fn bind(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        if self.fastopen {
            set_fastopen(&socket)?;
        }
        socket.listen(4096)?;
        Ok(socket.into())
    }

    fn accept(&self, listener: &TcpListener, ended: &mpsc::Sender<()>) {
        loop {
            let (stream, from) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) => {
                    crate::print(&json!({ "accept_error": facts::name(&error) }));
                    continue;
                }
            };
            let begun = Instant::now();
            let (exchange, quiet, ended) = (self.exchange.clone(), self.quiet, ended.clone());
            let serving = move || {
                let _ = stream.set_nodelay(true);
                let facts = exchange.perform(stream, 0);
                if !quiet || facts.as_ref().is_ok_and(|facts| facts.mismatches > 0) {
                    let mut line = facts.map_or_else(
                        |error| json!({ "error": error.to_string() }),
                        |f| f.to_json(),
                    );
                    line["accepted"] = from.to_string().into();
                    line["duration_us"] = facts::micros(begun.elapsed()).into();
                    crate::print(&line);
                }
                let _ = ended.send(());
            };
            if let Err(error) = thread::Builder::new().stack_size(STACK).spawn(serving) {
                crate::print(&json!({ "thread_error": facts::name(&error) }));
            }
        }
    }
}

#[allow(unsafe_code)]
fn set_fastopen(socket: &Socket) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let queue: libc::c_int = 64;
    // SAFETY: the option takes one int, whose address and size are given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            (&raw const queue).cast(),
            size_of_val(&queue) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
