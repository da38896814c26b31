//! Words between two agents: one JSON value a line, and descriptors beside.

use std::{collections::VecDeque, future::Future, os::fd::OwnedFd, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use martlet_kernel::{is_of_own_user, pass, receive};
use tokio::{
    io::{AsyncWriteExt as _, Interest},
    net::UnixStream,
    time::timeout,
};

use super::Word;
use crate::limits::{TAKEOVER_ANSWER, TAKEOVER_FILES, TAKEOVER_LINE};

#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    /// What has come and was not heard yet.
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Channel {
    /// With a process of the own user; of another one nothing is heard.
    pub fn new(stream: UnixStream) -> Result<Self> {
        let is_own = is_of_own_user(&stream).context("asking who is at the other end")?;
        ensure!(is_own, "another user is at the other end");
        Ok(Self { stream, bytes: Vec::new(), fds: VecDeque::new() })
    }

    /// The descriptors go with the first byte.
    pub async fn say(&mut self, word: &Word, fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<()> {
        let mut line = serde_json::to_vec(word).context("writing a word")?;
        line.push(b'\n');
        in_time(TAKEOVER_ANSWER, async {
            let stream = &mut self.stream;
            let sent = loop {
                stream.writable().await?;
                match stream.try_io(Interest::WRITABLE, || pass(&*stream, &line, fds)) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    sent => break sent?,
                }
            };
            Ok(stream.write_all(&line[sent..]).await?)
        })
        .await
    }

    /// `None` at the end.
    pub async fn hear(&mut self, patience: Duration) -> Result<Option<Word>> {
        in_time(patience, self.next()).await
    }

    /// The same, however long it takes.
    pub async fn next(&mut self) -> Result<Option<Word>> {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                let word = serde_json::from_slice(&line);
                return Ok(Some(word.context("reading what the other agent says")?));
            }
            ensure!(self.bytes.len() < TAKEOVER_LINE, "the other agent says too much");
            let mut buffer = vec![0; TAKEOVER_LINE];
            self.stream.readable().await?;
            let read = || receive(&self.stream, &mut buffer);
            match self.stream.try_io(Interest::READABLE, read) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
                Ok((0, _)) => return Ok(None),
                Ok((count, fds)) => {
                    self.bytes.extend_from_slice(&buffer[..count]);
                    self.fds.extend(fds);
                    ensure!(
                        self.fds.len() <= TAKEOVER_FILES,
                        "the other agent hands over too much"
                    );
                }
            }
        }
    }

    /// The descriptors that came with a word that was heard.
    pub fn take(&mut self, count: usize) -> Result<Vec<OwnedFd>> {
        if self.fds.len() < count {
            bail!("the other agent names more than it hands over");
        }
        Ok(self.fds.drain(..count).collect())
    }
}

async fn in_time<T>(patience: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(patience, work).await.context("the other agent does not answer in time")?
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, Seek as _},
        os::fd::AsFd as _,
    };

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one).unwrap(), Channel::new(other).unwrap())
    }

    #[tokio::test]
    async fn words_arrive_in_order_with_what_was_handed_over_and_then_the_end() {
        let (mut one, mut other) = pair();
        let file = File::open("/proc/self/comm").unwrap();
        let handed = |is_last| Word::Handed {
            pieces: vec!["a".to_owned(); 60],
            is_last,
            stayings: Vec::new(),
        };
        let talk = async {
            for is_last in [false, false, true] {
                one.say(&handed(is_last), &[file.as_fd(); 60]).await.unwrap();
            }
            one.say(&Word::Yours, &[]).await.unwrap();
            drop(one);
        };
        let listen = async {
            for is_last in [false, false, true] {
                let heard = other.hear(TAKEOVER_ANSWER).await.unwrap();
                assert_eq!(heard, Some(handed(is_last)));
                let fds = other.take(60).unwrap();
                let (mut file, mut text) =
                    (File::from(fds.into_iter().next_back().unwrap()), String::new());
                file.rewind().unwrap();
                file.read_to_string(&mut text).unwrap();
                assert!(!text.is_empty());
            }
            assert_eq!(other.hear(TAKEOVER_ANSWER).await.unwrap(), Some(Word::Yours));
            assert!(other.take(1).is_err(), "nothing more was handed over");
            assert_eq!(other.hear(TAKEOVER_ANSWER).await.unwrap(), None);
        };
        tokio::join!(talk, listen);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_word_and_what_does_not_come_is_an_error() {
        let (mut one, mut other) = pair();
        one.stream.write_all(b"{\"sing\":1}\n").await.unwrap();
        assert!(other.hear(TAKEOVER_ANSWER).await.is_err());
        assert!(other.hear(TAKEOVER_ANSWER).await.is_err(), "silence");
        let long = vec![b'x'; TAKEOVER_LINE];
        let (said, heard) = tokio::join!(one.stream.write_all(&long), other.next());
        assert!(said.is_ok() && heard.unwrap_err().to_string().contains("too much"));
    }
}
