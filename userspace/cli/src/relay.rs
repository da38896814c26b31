//! `martlet relay`: this process is a connection to a socket of this machine.
//!
//! It runs in Martlet's own pods, for a `martlet` elsewhere that was let in by the API server. What
//! it is comes first, on standard error: the other one knows whom it speaks with, and says nothing
//! before, since what is sent to a program that ends can cost its last words.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    process::{self, ExitCode},
    thread,
};

use anyhow::{Context as _, Result};

/// What comes before the version.
pub const GREETING: &str = "martlet ";

pub fn run(socket: &Path) -> Result<ExitCode> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("connecting to {}", socket.display()))?;
    eprintln!("{GREETING}{}", env!("CARGO_PKG_VERSION"));
    let to = stream.try_clone().context("using the connection in both directions")?;
    thread::spawn(move || {
        let _ = pass(io::stdin().lock(), &to);
        let _ = to.shutdown(Shutdown::Both);
        // Whoever asked has left; whatever is still said, nobody hears it.
        process::exit(0);
    });
    pass(&stream, io::stdout().lock()).context("passing on what is said")?;
    Ok(ExitCode::SUCCESS)
}

/// Everything as soon as it comes.
fn pass(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length]).and_then(|()| to.flush())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
