//! What one end does with a connection, and what it saw.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use crc32fast::Hasher;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use crate::{
    dial::{self, Dial, Failed},
    facts::{self, Facts},
    pattern::Pattern,
};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Sends back what comes, until the other end finishes.
    Echo,
    /// Sends a line first, then echoes: as MySQL, SSH and SMTP do.
    Greet,
    /// Sends back the first bytes that come, and closes at once.
    Once,
    /// Sends, finishes, then reads until the other end finishes.
    Send,
    /// Reads until the other end finishes.
    Receive,
    /// Reads until the other end finishes, only then sends, and finishes.
    Late,
    /// Sends and reads at the same time.
    Duplex,
    /// Sends canaries one by one, waiting for the answer to each.
    Ask,
    /// Answers each canary with one of its own.
    Answer,
    /// Sends, waits for `--after` bytes, and resets.
    Reset,
    /// Reads nothing until the connection has failed; then what there is.
    Stall,
    /// Closes at once.
    Close,
}

#[derive(Args, Clone)]
pub struct Exchange {
    /// What to do with the connection.
    #[arg(long = "then", value_enum, default_value = "echo")]
    pub kind: Kind,
    /// How much to send.
    #[arg(long, default_value_t = 0)]
    pub bytes: u64,
    /// The most to write at once.
    #[arg(long, default_value_t = 65_536)]
    pub chunk: usize,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How much to wait for before a reset.
    #[arg(long, default_value_t = 0)]
    pub after: u64,
    /// The most to read in a second; 0 is as fast as it comes.
    #[arg(long, default_value_t = 0)]
    pub read_rate: u64,
    /// 32-byte canaries to send, back to back.
    #[arg(long)]
    pub canaries: Option<PathBuf>,
    /// The answers to expect.
    #[arg(long)]
    pub replies: Option<PathBuf>,
    /// The longest wait for one read or write; 0 is for ever.
    #[arg(long, default_value_t = 60_000)]
    pub timeout_ms: u64,
}

#[derive(Args)]
pub struct Connect {
    #[command(flatten)]
    dial: Dial,
    #[command(flatten)]
    exchange: Exchange,
    /// Keeps the connection open, doing nothing, before the exchange.
    #[arg(long, default_value_t = 0)]
    idle_ms: u64,
}

impl Connect {
    pub fn run(self) -> Result<()> {
        let begun = Instant::now();
        let pattern = Pattern::new(self.exchange.seed);
        let first = pattern.next(self.exchange.chunk.min(self.exchange.bytes as usize));
        let (stream, already) = match self.dial.connect(first) {
            Ok(connected) => connected,
            Err(Failed { error, local }) => {
                let facts = json!({
                    "connected": false,
                    "local": local,
                    "error": facts::name(&error),
                    "connect_us": facts::micros(begun.elapsed()),
                });
                crate::print(&facts);
                return Ok(());
            }
        };
        let connect = begun.elapsed();
        thread::sleep(Duration::from_millis(self.idle_ms));
        let mut seen = self.exchange.perform(stream, already)?.to_json();
        seen["connected"] = true.into();
        seen["connect_us"] = facts::micros(connect).into();
        seen["duration_us"] = facts::micros(begun.elapsed()).into();
        crate::print(&seen);
        Ok(())
    }
}

impl Exchange {
    /// `already` bytes of the pattern went out with the SYN.
    pub fn perform(&self, stream: TcpStream, already: usize) -> Result<Facts> {
        let timeout = (self.timeout_ms > 0).then(|| Duration::from_millis(self.timeout_ms));
        stream.set_read_timeout(timeout)?;
        stream.set_write_timeout(timeout)?;
        let mut end = End {
            facts: Facts::of(&stream),
            stream,
            sent: Hasher::new(),
            received: Hasher::new(),
            begun: Instant::now(),
        };
        match self.kind {
            Kind::Echo => end.echo(),
            Kind::Greet => {
                end.write(b"220 lab ready\r\n");
                end.echo();
            }
            Kind::Once => {
                let mut buffer = [0; 1024];
                let count = end.read(&mut buffer);
                end.write(&buffer[..count]);
            }
            Kind::Send => {
                end.send(self, already);
                end.finish();
                end.receive(self.read_rate);
            }
            Kind::Receive => end.receive(self.read_rate),
            Kind::Late => {
                end.receive(self.read_rate);
                end.send(self, 0);
                end.finish();
            }
            Kind::Duplex => end.duplex(self, already)?,
            Kind::Ask => end.ask(self)?,
            Kind::Answer => end.answer(self)?,
            Kind::Reset => {
                end.send(self, already);
                while end.facts.received < self.after && end.read(&mut [0; 1024]) > 0 {}
                return end.reset();
            }
            Kind::Stall => {
                end.wait_for_failure(self.timeout_ms)?;
                end.receive(0);
            }
            Kind::Close => {}
        }
        Ok(end.close())
    }
}

/// One end of a connection, and what it has seen.
struct End {
    stream: TcpStream,
    facts: Facts,
    sent: Hasher,
    received: Hasher,
    begun: Instant,
}

impl End {
    /// 0 at the end, whatever the end is: the facts know.
    fn read(&mut self, buffer: &mut [u8]) -> usize {
        match self.stream.read(buffer) {
            Ok(0) => {
                self.facts.is_finished = true;
                0
            }
            Ok(count) => {
                self.facts.first_byte.get_or_insert_with(|| self.begun.elapsed());
                self.facts.received += count as u64;
                self.received.update(&buffer[..count]);
                let room = 64_usize.saturating_sub(self.facts.beginning.len());
                self.facts.beginning.extend_from_slice(&buffer[..count.min(room)]);
                count
            }
            // The end of the ring by which it has connected interrupts a read.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read(buffer),
            Err(error) => {
                self.facts.read_error = Some(facts::name(&error));
                0
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> bool {
        match self.stream.write_all(bytes) {
            Ok(()) => {
                self.sent.update(bytes);
                self.facts.sent += bytes.len() as u64;
                true
            }
            Err(error) => {
                self.facts.write_error = Some(facts::name(&error));
                false
            }
        }
    }

    fn finish(&mut self) {
        if let Err(error) = self.stream.shutdown(Shutdown::Write) {
            self.facts.write_error.get_or_insert_with(|| facts::name(&error));
        }
    }

    fn echo(&mut self) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = self.read(&mut buffer);
            if count == 0 || !self.write(&buffer[..count]) {
                return;
            }
        }
    }

    fn send(&mut self, exchange: &Exchange, already: usize) {
        let mut pattern = Pattern::new(exchange.seed);
        self.sent.update(pattern.next(already));
        self.facts.sent += already as u64;
        pattern.advance(already);
        while self.facts.sent < exchange.bytes {
            let left = usize::try_from(exchange.bytes - self.facts.sent).unwrap_or(usize::MAX);
            let piece = pattern.next(exchange.chunk.min(left));
            let count = piece.len();
            if !self.write(piece) {
                return;
            }
            pattern.advance(count);
        }
    }

    fn receive(&mut self, rate: u64) {
        let size = if rate == 0 { 256 << 10 } else { (rate / 20).clamp(1, 64 << 10) as usize };
        let mut buffer = vec![0; size];
        loop {
            let count = self.read(&mut buffer);
            if count == 0 {
                return;
            }
            if rate > 0 {
                thread::sleep(Duration::from_secs_f64(count as f64 / rate as f64));
            }
        }
    }

    /// The kernel tells of a failure without being asked for anything else (poll(2)).
    fn wait_for_failure(&mut self, timeout_ms: u64) -> io::Result<()> {
        let mut waiting = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        let timeout = PollTimeout::try_from(timeout_ms).unwrap_or(PollTimeout::MAX);
        if poll(&mut waiting, timeout)? == 0 {
            self.facts.read_error = Some("no failure in time".into());
        }
        Ok(())
    }

    fn duplex(&mut self, exchange: &Exchange, already: usize) -> io::Result<()> {
        let mut sender = End {
            stream: self.stream.try_clone()?,
            facts: Facts::default(),
            sent: Hasher::new(),
            received: Hasher::new(),
            begun: self.begun,
        };
        let sender = thread::scope(|scope| {
            let sending = scope.spawn(move || {
                sender.send(exchange, already);
                sender.finish();
                sender
            });
            self.receive(exchange.read_rate);
            sending.join()
        });
        let Ok(sender) = sender else {
            return Err(io::Error::other("the sending thread panicked"));
        };
        self.facts.sent = sender.facts.sent;
        self.facts.write_error = sender.facts.write_error;
        self.sent = sender.sent;
        Ok(())
    }

    fn ask(&mut self, exchange: &Exchange) -> Result<()> {
        let questions = read_canaries(exchange.canaries.as_ref())?;
        let answers = read_canaries(exchange.replies.as_ref())?;
        for (number, question) in questions.iter().enumerate() {
            let mut reply = [0; 32];
            if !question.chunks(exchange.chunk).all(|piece| self.write(piece))
                || !self.read_full(&mut reply)
            {
                break;
            }
            self.facts.mismatches +=
                u64::from(answers.get(number).is_some_and(|answer| *answer != reply));
        }
        self.finish();
        self.receive(0);
        Ok(())
    }

    fn answer(&mut self, exchange: &Exchange) -> Result<()> {
        let answers = read_canaries(exchange.canaries.as_ref())?;
        let questions = read_canaries(exchange.replies.as_ref())?;
        let mut question = [0; 32];
        for answer in answers.iter().cycle() {
            if !self.read_full(&mut question) {
                break;
            }
            let is_wrong = exchange.replies.is_some() && !questions.contains(&question);
            self.facts.mismatches += u64::from(is_wrong);
            if !answer.chunks(exchange.chunk).all(|piece| self.write(piece)) {
                break;
            }
        }
        Ok(())
    }

    fn read_full(&mut self, buffer: &mut [u8]) -> bool {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]) {
                0 => return false,
                count => filled += count,
            }
        }
        true
    }

    fn close(mut self) -> Facts {
        // Once a write has been told of a reset, a read only says that nothing more comes.
        self.facts.is_finished &= self.facts.write_error.is_none();
        self.facts.sent_checksum = self.sent.finalize();
        self.facts.received_checksum = self.received.finalize();
        self.facts
    }

    fn reset(self) -> Result<Facts> {
        let End { stream, mut facts, sent, received, .. } = self;
        dial::reset(stream)?;
        facts.sent_checksum = sent.finalize();
        facts.received_checksum = received.finalize();
        Ok(facts)
    }
}

fn read_canaries(path: Option<&PathBuf>) -> io::Result<Vec<[u8; 32]>> {
    let Some(path) = path else { return Ok(Vec::new()) };
    Ok(fs::read(path)?.as_chunks::<32>().0.to_vec())
}
