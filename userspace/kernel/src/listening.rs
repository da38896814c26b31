//! What an application listens on, read once from the kernel's tables for sockets that are older
//! than the programs. Later ones are seen by `establish`.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// `TCP_LISTEN` as `/proc/net/tcp` prints it.
const LISTEN: &str = "0A";

/// Bound address and port of every listening TCP socket in this thread's network namespace.
pub fn listening_here() -> io::Result<Vec<(IpAddr, u16)>> {
    let sockets = tables()?;
    let listening = sockets.iter().filter(|socket| socket.state == LISTEN);
    Ok(listening.map(|socket| (socket.local.ip(), socket.local.port())).collect())
}

#[derive(Debug, PartialEq, Eq)]
struct Socket {
    local: SocketAddr,
    state: String,
}

fn tables() -> io::Result<Vec<Socket>> {
    let mut found = parse(&fs::read_to_string("/proc/thread-self/net/tcp")?);
    match fs::read_to_string("/proc/thread-self/net/tcp6") {
        Ok(table) => found.extend(parse(&table)),
        // No IPv6 in this kernel.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(found)
}

fn parse(table: &str) -> Vec<Socket> {
    table.lines().skip(1).filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _remote) = (parse_end(fields.next()?)?, fields.next()?);
    Some(Socket { local, state: fields.next()?.to_owned() })
}

fn parse_end(field: &str) -> Option<SocketAddr> {
    let (address, port) = field.split_once(':')?;
    Some(SocketAddr::new(parse_address(address)?, u16::from_str_radix(port, 16).ok()?))
}

/// Words in the machine's byte order, printed in hex.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = hex.get(index * 8..index * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let octets: [u8; 16] = words.concat().try_into().ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_read_with_their_end_and_their_state() {
        let table = "  sl  local_address rem_address   st\n\
            0: 0100007F:1F90 00000000:0000 0A 0 0\n\
            1: 00000000:0050 00000000:0000 0A 0 0\n\
            2: 0201000A:C350 0101000A:0050 01 0 0\n\
            3: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 0\n\
            4: garbage\n";
        let expected = [
            ("127.0.0.1:8080", LISTEN),
            ("0.0.0.0:80", LISTEN),
            ("10.0.1.2:50000", "01"),
            ("[::]:443", LISTEN),
        ];
        let socket = |(local, state): (&str, &str)| Socket {
            local: local.parse().unwrap(),
            state: state.to_owned(),
        };
        assert_eq!(parse(table), expected.map(socket));
    }
}
