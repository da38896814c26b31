//! Runs a command of the user's that signs, encrypts or decrypts: bytes in, bytes out, no shell.

use std::{
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use crate::{
    AuthorityError, CommandError,
    limits::{COMMAND, COMMAND_BYTES, COMPLAINT_BYTES},
};

/// Between two looks whether a command has ended that has closed its output already.
const LOOK: Duration = Duration::from_millis(2);

/// What the command wrote to its standard output. Program first, by its whole path.
pub fn run(command: &[String], input: &[u8]) -> Result<Zeroizing<Vec<u8>>, AuthorityError> {
    let failed = |source| AuthorityError::Command { command: command.join(" "), source };
    run_for(command, input, COMMAND).map_err(failed)
}

fn run_for(
    command: &[String],
    input: &[u8],
    patience: Duration,
) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    let until = Instant::now() + patience;
    let (program, arguments) = command.split_first().ok_or_else(|| {
        CommandError::Start(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is empty"))
    })?;
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(CommandError::Start)?;
    let answered = converse(&mut child, input, until, patience);
    if answered.is_err() {
        // It may have ended meanwhile; either way it is waited for, so that none is left over.
        let _ = child.kill();
        let _ = child.wait();
    }
    answered
}

/// Each pipe has a thread, so that none waits for another. They end with the command's pipes.
fn converse(
    child: &mut Child,
    input: &[u8],
    until: Instant,
    patience: Duration,
) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    let late = || CommandError::Deadline(patience.as_secs());
    let (to, answers) = mpsc::channel();
    if let (Some(mut stdin), input) = (child.stdin.take(), Zeroizing::new(input.to_vec())) {
        // A command that does not want its input says so by its answer.
        thread::spawn(move || stdin.write_all(&input).is_ok());
    }
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut bytes = Zeroizing::new(Vec::with_capacity(COMMAND_BYTES + 1));
            let read = stdout.take(COMMAND_BYTES as u64 + 1).read_to_end(&mut bytes);
            to.send(read.map(|_| bytes))
        });
    }
    let (to, complaints) = mpsc::channel();
    if let Some(stderr) = child.stderr.take() {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.take(COMPLAINT_BYTES as u64).read_to_end(&mut bytes);
            to.send(bytes)
        });
    }
    let left = || until.saturating_duration_since(Instant::now());
    let answer = answers.recv_timeout(left()).map_err(|_| late())?.map_err(CommandError::Io)?;
    if answer.len() > COMMAND_BYTES {
        return Err(CommandError::TooMuch(COMMAND_BYTES));
    }
    let status = loop {
        match child.try_wait().map_err(CommandError::Io)? {
            Some(status) => break status,
            None if left().is_zero() => return Err(late()),
            None => thread::sleep(LOOK),
        }
    };
    if status.success() {
        return Ok(answer);
    }
    let complaint = complaints.recv_timeout(left()).unwrap_or_default();
    let complaint = String::from_utf8_lossy(&complaint).trim().replace('\n', " ");
    Err(CommandError::Failed { status: status.to_string(), complaint })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, CommandError> {
        let command = ["/bin/sh", "-c", script].map(str::to_owned);
        run_for(&command, input, Duration::from_secs(20))
    }

    #[test]
    fn what_goes_in_comes_out() {
        assert_eq!(shell("cat", b"bytes \0 too").unwrap().as_slice(), b"bytes \0 too");
        assert_eq!(shell("echo without reading", &[0; 1 << 20]).unwrap().len(), 16);
    }

    #[test]
    fn a_command_that_fails_is_repeated_with_its_complaint() {
        let error = shell("echo no such key >&2; exit 3", b"").unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such key"), "{error}");
        let error = run_for(&["/nowhere".to_owned()], b"", COMMAND).unwrap_err();
        assert!(matches!(error, CommandError::Start(_)));
        assert!(matches!(run_for(&[], b"", COMMAND), Err(CommandError::Start(_))));
    }

    #[test]
    fn a_command_that_talks_for_ever_is_ended() {
        assert!(matches!(shell("cat /dev/zero", b""), Err(CommandError::TooMuch(_))));
    }

    #[test]
    fn a_command_that_gives_no_answer_is_ended() {
        let command = ["/bin/sleep", "1000"].map(str::to_owned);
        let error = run_for(&command, b"", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, CommandError::Deadline(_)), "{error}");
        let closed = ["/bin/sh", "-c", "exec >&-; exec sleep 1000"].map(str::to_owned);
        let error = run_for(&closed, b"", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, CommandError::Deadline(_)), "{error}");
    }
}
