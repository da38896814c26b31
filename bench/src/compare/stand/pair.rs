//! Two pods: one from which connections come, one with the servers that take them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use martlet_lab::{Pod, Running, find_binary};

/// What the server pod has. Each subject has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Sends back what comes.
    Echo,
    /// Swallows what comes, and says in the end how much it was.
    Sink,
    /// Sends one message back and closes.
    EchoAndClose,
}

pub struct Pair {
    client: Pod,
    server: Pod,
    _servers: Vec<Running>,
    proxies: Vec<Running>,
    /// What a port is raised by where a proxy in the client's pod takes it.
    by_proxy: Option<u16>,
}

/// As many source ports as there are, and none that must rest for a minute.
const FAVORS: &[(&str, &str)] =
    &[("ipv4/ip_local_port_range", "1024 65535"), ("ipv4/tcp_tw_reuse", "1")];

impl Service {
    pub const ALL: [Service; 3] = [Service::Echo, Service::Sink, Service::EchoAndClose];

    pub fn port(self) -> u16 {
        match self {
            Service::Echo => 8080,
            Service::Sink => 8081,
            Service::EchoAndClose => 8082,
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Service::Echo => &["--mode", "echo"],
            Service::Sink => &["--mode", "sink"],
            Service::EchoAndClose => &["--mode", "echo", "--close", "server"],
        }
    }
}

impl Pair {
    /// Starts the servers.
    pub fn start(client: Pod, server: Pod) -> Result<Pair> {
        let load = find_binary("martlet-load")?;
        let mut servers = Vec::new();
        for service in Service::ALL {
            let listen = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), service.port());
            let program = server.command(&load).arg("server").args(service.arguments());
            let mut running = program.args(["--listen", &listen.to_string()]).spawn()?;
            running.wait_until_listening().context("starting a server")?;
            servers.push(running);
        }
        Ok(Pair { client, server, _servers: servers, proxies: Vec::new(), by_proxy: None })
    }

    /// Has the client go through these from now on.
    pub fn set_proxies(&mut self, proxies: Vec<Running>, raised_by: u16) {
        self.proxies = proxies;
        self.by_proxy = Some(raised_by);
    }

    pub fn client(&self) -> &Pod {
        &self.client
    }

    pub fn server(&self) -> &Pod {
        &self.server
    }

    pub fn proxies(&self) -> Vec<u32> {
        self.proxies.iter().map(Running::pid).collect()
    }

    /// Where the client finds a service.
    pub fn address(&self, service: Service) -> SocketAddr {
        match self.by_proxy {
            Some(raise) => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), service.port() + raise),
            None => SocketAddr::new(self.server.v4(), service.port()),
        }
    }

    /// For rows that ask what a connection costs, and not when ports run out.
    pub fn favor(&self) -> Result<()> {
        self.client.netns().set_sysctls(FAVORS)?;
        self.server.netns().set_sysctls(FAVORS)
    }
}
