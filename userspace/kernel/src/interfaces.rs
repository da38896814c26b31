//! The interfaces of a network namespace, and where their other ends are, as rtnetlink(7) says it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use crate::{
    Netns,
    netlink::{NLM_F_ACK, NLM_F_DUMP, Netlink, attribute, attributes_of, number, text},
};

/// Message types and attributes of include/uapi/linux/{rtnetlink,if_link,net_namespace}.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_LINK_NETNSID: u16 = 37;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;
const IFF_LOOPBACK: u32 = 8;
/// `TC_H_CLSACT`, and the handle of such a qdisc.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;

/// `struct ifinfomsg`
const LINK_HEADER: usize = 16;
/// `struct tcmsg`
const FILTER_HEADER: usize = 20;
/// `struct rtgenmsg`, with its padding.
const NETNS_HEADER: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    pub is_loopback: bool,
    /// `None` for a device of the machine.
    pub kind: Option<String>,
    /// What it is connected to, or lies on.
    pub link: Option<u32>,
    /// The number of the other network namespace in which that is; `None` if it is in this one.
    pub link_netns: Option<u32>,
}

/// A filter of a qdisc.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// The number of its program, if it is one of BPF.
    pub program: Option<u32>,
    pub name: String,
}

/// Asks about one network namespace.
pub struct Interfaces(Netlink);

impl Interfaces {
    pub fn open(netns: &Netns) -> io::Result<Self> {
        Ok(Self(Netlink::open(netns, libc::NETLINK_ROUTE)?))
    }

    pub fn all(&self) -> io::Result<Vec<Interface>> {
        let answers = self.0.ask(RTM_GETLINK, NLM_F_DUMP, &[0; LINK_HEADER], RTM_NEWLINK)?;
        Ok(answers.iter().filter_map(|answer| interface(answer)).collect())
    }

    /// `None` if there is no such interface.
    pub fn get(&self, index: u32) -> io::Result<Option<Interface>> {
        let mut header = [0; LINK_HEADER];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        match self.0.ask(RTM_GETLINK, 0, &header, RTM_NEWLINK) {
            Ok(answers) => Ok(answers.first().and_then(|answer| interface(answer))),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// By which number this namespace knows another one; `None` if it does not know it.
    pub fn netns_id(&self, other: &impl AsFd) -> io::Result<Option<u32>> {
        let mut body = vec![0; NETNS_HEADER];
        body.extend(attribute(NETNSA_FD, &other.as_fd().as_raw_fd().to_ne_bytes()));
        let answers = self.0.ask(RTM_GETNSID, 0, &body, RTM_NEWNSID)?;
        let attributes = answers.first().and_then(|answer| answer.get(NETNS_HEADER..));
        let id =
            attributes.and_then(|all| attributes_of(all).find(|(kind, _)| *kind == NETNSA_NSID));
        // -1: not known.
        Ok(id.and_then(|(_, value)| number(value)).filter(|id| id.cast_signed() >= 0))
    }

    /// An interface's filters below a parent, in the order in which they run.
    pub fn filters(&self, interface: u32, parent: u32) -> io::Result<Vec<Filter>> {
        let header = traffic_header(interface, 0, parent);
        let answers = self.0.ask(RTM_GETTFILTER, NLM_F_DUMP, &header, RTM_NEWTFILTER)?;
        Ok(answers.iter().filter_map(|answer| filter(answer)).collect())
    }

    /// Deletes an interface's clsact qdisc, with all filters.
    pub fn delete_clsact(&self, interface: u32) -> io::Result<()> {
        let header = traffic_header(interface, CLSACT_HANDLE, CLSACT);
        self.0.ask(RTM_DELQDISC, NLM_F_ACK, &header, 0).map(drop)
    }
}

fn interface(message: &[u8]) -> Option<Interface> {
    let flags = number(message.get(8..12)?)?;
    let mut interface = Interface {
        index: number(message.get(4..8)?)?,
        is_loopback: flags & IFF_LOOPBACK != 0,
        ..Interface::default()
    };
    for (kind, value) in attributes_of(message.get(LINK_HEADER..)?) {
        match kind {
            IFLA_IFNAME => interface.name = text(value),
            IFLA_LINK => interface.link = number(value),
            IFLA_LINK_NETNSID => interface.link_netns = number(value),
            IFLA_LINKINFO => {
                let kind = attributes_of(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                interface.kind = kind.map(|(_, value)| text(value));
            }
            _ => {}
        }
    }
    Some(interface)
}

/// `struct tcmsg` without family and information.
fn traffic_header(interface: u32, handle: u32, parent: u32) -> [u8; FILTER_HEADER] {
    let mut header = [0; FILTER_HEADER];
    header[4..8].copy_from_slice(&interface.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header
}

/// `None` for what is said of all filters of a priority, which has no handle.
fn filter(message: &[u8]) -> Option<Filter> {
    if number(message.get(8..12)?)? == 0 {
        return None;
    }
    let mut found = Filter::default();
    let mut attributes = attributes_of(message.get(FILTER_HEADER..)?);
    let options = attributes.find(|(kind, _)| *kind == TCA_OPTIONS);
    for (kind, value) in options.into_iter().flat_map(|(_, options)| attributes_of(options)) {
        match kind {
            TCA_BPF_ID => found.program = number(value),
            TCA_BPF_NAME => found.name = text(value),
            _ => {}
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::nested;

    #[test]
    fn an_interface_is_read_from_its_attributes() {
        let mut message = vec![0; LINK_HEADER];
        message[4] = 7;
        message.extend(attribute(IFLA_IFNAME, b"eth0\0"));
        message.extend(attribute(IFLA_LINK, &9_u32.to_ne_bytes()));
        message.extend(attribute(IFLA_LINK_NETNSID, &2_u32.to_ne_bytes()));
        let info = attribute(IFLA_INFO_KIND, b"veth");
        message.extend(nested(IFLA_LINKINFO, &info));
        let expected = Interface {
            index: 7,
            name: "eth0".to_owned(),
            is_loopback: false,
            kind: Some("veth".to_owned()),
            link: Some(9),
            link_netns: Some(2),
        };
        assert_eq!(interface(&message), Some(expected));
        // Cut short, a message gives what is there and never panics.
        for length in 0..message.len() {
            let _ = interface(&message[..length]);
        }
    }

    #[test]
    fn the_loopback_interface_is_known_by_its_flag() -> io::Result<()> {
        let netns = Netns::open(std::path::Path::new("/proc/thread-self/ns/net"))
            .map_err(io::Error::other)?;
        let all = Interfaces::open(&netns)?.all()?;
        let names: Vec<_> =
            all.iter().filter(|one| one.is_loopback).map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["lo"]);
        Ok(())
    }
}
