//! A tiny HTTP/1.1 client for the agent's admin endpoints.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
};

use anyhow::{Context, Result, bail};

use crate::limits;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: String,
}

pub fn get_unix(socket: &Path, target: &str) -> Result<Response> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_read_timeout(Some(limits::HTTP))?;
    stream.set_write_timeout(Some(limits::HTTP))?;
    get(stream, target)
}

pub fn get_tcp(address: SocketAddr, target: &str) -> Result<Response> {
    let stream = TcpStream::connect_timeout(&address, limits::HTTP)
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(limits::HTTP))?;
    stream.set_write_timeout(Some(limits::HTTP))?;
    get(stream, target)
}

fn get(mut stream: impl Read + Write, target: &str) -> Result<Response> {
    let request = format!("GET {target} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("sending the request")?;
    let mut answer = Vec::new();
    stream.take(limits::HTTP_BODY).read_to_end(&mut answer).context("reading the answer")?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Response> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        bail!("the answer has no end of headers");
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let body = &answer[end + 4..];
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("the answer has no status")?;
    let is_chunked =
        head.lines().any(|line| line.starts_with("transfer-encoding:") && line.contains("chunked"));
    let body = if is_chunked { join_chunks(body)? } else { body.to_vec() };
    Ok(Response { status, body: String::from_utf8(body).context("the answer is not text")? })
}

fn join_chunks(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest
            .windows(2)
            .position(|window| window == b"\r\n")
            .context("a chunk has no length")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line])?.trim(), 16)?;
        rest = &rest[line + 2..];
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(..length).context("a chunk is cut off")?);
        rest = rest.get(length + 2..).context("a chunk is cut off")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_chunked_answers_are_read() {
        let plain = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        assert_eq!(plain, Response { status: 200, body: "hi".into() });
        let chunked =
            b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap(), Response { status: 503, body: "hi!".into() });
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_err());
    }
}
