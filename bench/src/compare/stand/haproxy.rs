//! HAProxy as a pair of sidecars: TCP in, mTLS between the two pods, TCP out.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use martlet_bench::limits;
use martlet_lab::{Pod, Running, wait_for};

use super::{
    certificates::Certificates,
    pair::{Pair, Service},
};
use crate::machine::find_haproxy;

/// In the client's pod: the services' ports plus this, on loopback.
const NEAR: u16 = 1000;
/// In the server's pod, for the other HAProxy only.
const FAR: u16 = 2000;

/// As many connections as open files allow, which is what HAProxy does unless told otherwise.
/// One thread, as nobody else has more; one cipher, the cheapest; each connection shakes hands
/// anew, as it must where the caller's certificate decides.
const GENERAL: &str = "\
global
    nbthread 1
    tune.ssl.cachesize 0
    ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-server-options ssl-min-ver TLSv1.3 no-tls-tickets
    ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256

defaults
    mode tcp
    backlog 4096
    timeout connect 10s
    timeout client 1h
    timeout server 1h
";

#[derive(Debug)]
pub struct Haproxies {
    binary: PathBuf,
    certificates: Certificates,
}

impl Haproxies {
    pub fn prepare(directory: &Path) -> Result<Haproxies> {
        let binary = find_haproxy()?;
        Ok(Haproxies { binary, certificates: Certificates::make(directory)? })
    }

    /// Starts both and waits until they listen.
    pub fn put_between(&self, pair: &mut Pair) -> Result<()> {
        let certificates = &self.certificates;
        let far = self.start(pair.server(), &far_side(certificates))?;
        let near = self.start(pair.client(), &near_side(certificates, pair.server()))?;
        let mut proxies = vec![near, far];
        for (running, (pod, raise)) in
            proxies.iter_mut().zip([(pair.client(), NEAR), (pair.server(), FAR)])
        {
            for service in Service::ALL {
                wait_until_listening(running, pod, service.port() + raise)?;
            }
        }
        pair.set_proxies(proxies, NEAR);
        Ok(())
    }

    fn start(&self, pod: &Pod, sides: &str) -> Result<Running> {
        let file = pod.directory()?.join("haproxy.cfg");
        fs::write(&file, format!("{GENERAL}{sides}")).context("writing HAProxy's file")?;
        pod.command(&self.binary).args(["-db", "-f"]).arg(file).spawn()
    }
}

fn near_side(certificates: &Certificates, server: &Pod) -> String {
    let (own, root) = (certificates.pair("client"), certificates.root());
    let mut text = String::new();
    for service in Service::ALL {
        let _ = write!(
            text,
            "\nlisten near-{port}\n    \
             bind 127.0.0.1:{bind}\n    \
             server far {server}:{far} ssl crt {own} ca-file {root} verify required \
             verifyhost server no-ssl-reuse\n",
            port = service.port(),
            bind = service.port() + NEAR,
            server = server.v4(),
            far = service.port() + FAR,
            own = own.display(),
            root = root.display(),
        );
    }
    text
}

fn far_side(certificates: &Certificates) -> String {
    let (own, root) = (certificates.pair("server"), certificates.root());
    let mut text = String::new();
    for service in Service::ALL {
        let _ = write!(
            text,
            "\nlisten far-{port}\n    \
             bind 0.0.0.0:{bind} ssl crt {own} ca-file {root} verify required\n    \
             server application 127.0.0.1:{port}\n",
            port = service.port(),
            bind = service.port() + FAR,
            own = own.display(),
            root = root.display(),
        );
    }
    text
}

fn wait_until_listening(haproxy: &mut Running, pod: &Pod, port: u16) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    wait_for("HAProxy to listen", limits::READY, || {
        if !haproxy.is_running() {
            bail!("it has ended: {}{}", haproxy.stderr(), haproxy.stdout());
        }
        let connected = pod.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)))?;
        Ok(connected.is_ok().then_some(()))
    })
}
