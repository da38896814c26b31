//! The threads that shake hands.
//!
//! A step of a handshake takes half a millisecond of a processor: by far the longest thing that is
//! done for a connection. On the threads that pass bytes on, everybody's bytes would wait for it; and
//! the kernel lets a thread that runs all the time wait for others, when one that mostly sleeps runs
//! at once.
//!
//! They also wait for what the peer says: to be woken by another thread, which only knows that bytes
//! have come, costs as much as what is then to be done.

use std::{future::Future, io, net::IpAddr, sync::Arc, thread::available_parallelism};

use martlet_identity::{HandshakeError, Secured};
use martlet_model::WorkloadName;
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    pace::{Gate, Paced},
    socket::Socket,
};

/// Whom a handshake is for: who is called has one turn for each caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Party(pub WorkloadName, pub Option<IpAddr>);

/// As many threads as half of the processors.
pub struct Hands {
    gate: Arc<Gate<Party>>,
    /// `None` only while this is dropped.
    threads: Option<Runtime>,
}

impl Hands {
    /// Threads are a condition of life: without them the agent cannot start.
    pub fn new() -> Self {
        let count = available_parallelism().map_or(1, |count| (count.get() / 2).max(1));
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(count).thread_name("handshakes").enable_all();
        let threads = builder.build().expect("the system gives the agent its threads");
        Self { gate: Arc::new(Gate::new(count)), threads: Some(threads) }
    }

    /// Does a handshake there. It ends when this is dropped.
    pub async fn shake<F>(
        &self,
        party: Party,
        transport: TcpStream,
        handshake: impl FnOnce(Socket) -> F + Send + 'static,
    ) -> Result<Secured<Socket>, HandshakeError>
    where
        F: Future<Output = Result<Secured<Socket>, HandshakeError>> + Send + 'static,
    {
        let stopping = || HandshakeError::Io(io::Error::other("the agent is stopping"));
        let threads = self.threads.as_ref().ok_or_else(stopping)?;
        let transport = transport.into_std().map_err(HandshakeError::Io)?;
        let there = async move {
            let transport = TcpStream::from_std(transport).map_err(HandshakeError::Io)?;
            handshake(Socket::over_network(transport)).await
        };
        let paced = Paced::new(self.gate.clone(), party, there);
        let shaking = AbortOnDropHandle::new(threads.spawn(paced));
        let mut secured = shaking.await.unwrap_or_else(|_| Err(stopping()))?;
        secured.get_mut().come_here().map_err(HandshakeError::Io)?;
        Ok(secured)
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        // Waiting for threads is not allowed where this may happen.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}
