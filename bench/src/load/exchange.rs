//! Single steps of a client's connection; each names itself when it fails.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Which step failed, and how.
pub struct Failure {
    pub step: &'static str,
    pub error: io::Error,
}

/// A message whose answer can be told from those to earlier messages.
pub struct Exchange {
    question: Vec<u8>,
    answer: Vec<u8>,
    number: u64,
}

pub async fn connect(to: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(to).await.map_err(at("connect"))?;
    stream.set_nodelay(true).map_err(at("connect"))?;
    Ok(stream)
}

pub fn at(step: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure { step, error }
}

impl Exchange {
    /// `size` is at least 8.
    pub fn new(size: usize) -> Exchange {
        Exchange { question: vec![b'q'; size], answer: vec![0; size], number: 0 }
    }

    pub async fn round_trip(&mut self, stream: &mut TcpStream) -> Result<(), Failure> {
        self.number += 1;
        self.question[..8].copy_from_slice(&self.number.to_be_bytes());
        stream.write_all(&self.question).await.map_err(at("write"))?;
        stream.read_exact(&mut self.answer).await.map_err(at("read"))?;
        if self.answer != self.question {
            return Err(at("compare")(io::ErrorKind::InvalidData.into()));
        }
        Ok(())
    }
}

/// Waits until the server has closed.
pub async fn read_end(stream: &mut TcpStream) -> Result<(), Failure> {
    match stream.read(&mut [0]).await.map_err(at("read end"))? {
        0 => Ok(()),
        _ => Err(at("read end")(io::ErrorKind::InvalidData.into())),
    }
}
