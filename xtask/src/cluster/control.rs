//! The control plane: etcd, API server, controllers, scheduler, name server, and the way in.

use std::{
    net::TcpListener,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{
    certificates::{Authority, kubeconfig},
    groups::Groups,
    kubectl,
    launch::{Launched, launch},
    network,
    place::{CONTROL, Place, SERVICES},
    wait,
};

/// Answers names of services; asks the API server for them.
const NAME_SERVER: &str = include_str!("names.py");

/// Accepts on the machine's loopback, and connects inside of the cluster.
const DOOR: &str = include_str!("door.py");

/// Brings it up, and gives its authority, which nodes need.
pub fn up(place: &Place, groups: &Groups, programs: &Path) -> Result<Authority> {
    let authority = Authority::of(place)?;
    authority.issue_all()?;
    network::make_control(place)?;
    groups.make_control()?;
    let plane = Plane { place, groups, programs, authority: &authority };
    let mut etcd = plane.etcd()?;
    let mut server = plane.api_server()?;
    let mut door = plane.door()?;
    let log = server.log().to_owned();
    wait::until("the API server", 90, &log, || {
        etcd.check()?;
        server.check()?;
        door.check()?;
        Ok(kubectl::output(place, &["get", "--raw", "/readyz"]).is_ok())
    })?;
    plane.controllers()?;
    plane.scheduler()?;
    plane.name_server()?;
    kubectl::apply(place, &name_service())?;
    Ok(authority)
}

struct Plane<'a> {
    place: &'a Place,
    groups: &'a Groups,
    programs: &'a Path,
    authority: &'a Authority,
}

impl Plane<'_> {
    fn start(&self, name: &str, stdin: Stdio, command: &Command) -> Result<Launched> {
        let netns = self.place.netns();
        launch(self.place, &self.groups.control(), &netns, name, stdin, command)
    }

    fn program(&self, name: &str) -> Command {
        Command::new(self.programs.join(name))
    }

    /// `--name=path` for files of the authority.
    fn key(&self, option: &str, file: &str) -> String {
        format!("--{option}={}", self.authority.path(file).display())
    }

    fn etcd(&self) -> Result<Launched> {
        const CLIENTS: &str = "http://127.0.0.1:2379";
        const PEERS: &str = "http://127.0.0.1:2380";
        let mut etcd = self.program("etcd");
        etcd.arg("--data-dir").arg(self.place.path("etcd")).arg("--unsafe-no-fsync");
        etcd.args(["--listen-client-urls", CLIENTS, "--advertise-client-urls", CLIENTS]);
        etcd.args(["--listen-peer-urls", PEERS, "--initial-advertise-peer-urls", PEERS]);
        etcd.args(["--initial-cluster", &format!("default={PEERS}")]);
        self.start("etcd", Stdio::null(), &etcd)
    }

    fn api_server(&self) -> Result<Launched> {
        let mut server = self.program("kube-apiserver");
        server.args([
            "--etcd-servers=http://127.0.0.1:2379",
            "--bind-address=0.0.0.0",
            "--secure-port=6443",
            "--allow-privileged=true",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--kubelet-preferred-address-types=InternalIP",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            // Services that answer for the API may be pods, to which there is a route.
            "--enable-aggregator-routing=true",
        ]);
        server.arg(format!("--advertise-address={CONTROL}"));
        server.arg(format!("--service-cluster-ip-range={SERVICES}"));
        for (option, file) in [
            ("client-ca-file", "ca.crt"),
            ("tls-cert-file", "server.crt"),
            ("tls-private-key-file", "server.key"),
            ("service-account-key-file", "accounts.pub"),
            ("service-account-signing-key-file", "accounts.key"),
            ("kubelet-client-certificate", "kubelet-client.crt"),
            ("kubelet-client-key", "kubelet-client.key"),
            ("requestheader-client-ca-file", "ca.crt"),
            ("proxy-client-cert-file", "aggregator.crt"),
            ("proxy-client-key-file", "aggregator.key"),
        ] {
            server.arg(self.key(option, file));
        }
        self.start("kube-apiserver", Stdio::null(), &server)
    }

    fn controllers(&self) -> Result<Launched> {
        let mut controllers = self.program("kube-controller-manager");
        self.access(&mut controllers, "controllers")?;
        controllers.args([
            "--use-service-account-credentials=true",
            // A node that is gone is known as gone within a test's patience.
            "--node-monitor-grace-period=20s",
        ]);
        controllers.arg(format!("--service-cluster-ip-range={SERVICES}"));
        for (option, file) in [
            ("service-account-private-key-file", "accounts.key"),
            ("root-ca-file", "ca.crt"),
            ("cluster-signing-cert-file", "ca.crt"),
            ("cluster-signing-key-file", "ca.key"),
        ] {
            controllers.arg(self.key(option, file));
        }
        self.start("kube-controller-manager", Stdio::null(), &controllers)
    }

    fn scheduler(&self) -> Result<Launched> {
        let mut scheduler = self.program("kube-scheduler");
        self.access(&mut scheduler, "scheduler")?;
        self.start("kube-scheduler", Stdio::null(), &scheduler)
    }

    /// As whom a program of the control plane asks the API server. There is only one of each.
    fn access(&self, command: &mut Command, file: &str) -> Result<()> {
        let path = self.inner_kubeconfig(file)?;
        for option in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
            command.arg(format!("--{option}={}", path.display()));
        }
        command.args(["--bind-address=127.0.0.1", "--leader-elect=false"]);
        Ok(())
    }

    fn inner_kubeconfig(&self, file: &str) -> Result<PathBuf> {
        let text = kubeconfig(&format!("{CONTROL}:6443"), &self.authority.path(""), file);
        self.place.write(&format!("{file}.kubeconfig"), &text)
    }

    fn name_server(&self) -> Result<Launched> {
        let script = self.place.write("names.py", NAME_SERVER)?;
        let mut server = Command::new("/usr/bin/python3");
        server.arg(script).arg(CONTROL).arg(format!("{CONTROL}:6443"));
        server.args(["ca.crt", "names.crt", "names.key"].map(|file| self.authority.path(file)));
        self.start("names", Stdio::null(), &server)
    }

    /// The listener is made here, on the machine's loopback, and handed on.
    fn door(&self) -> Result<Launched> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listening on loopback")?;
        let address = listener.local_addr().context("asking for the listener's address")?;
        let script = self.place.write("door.py", DOOR)?;
        let mut door = Command::new("/usr/bin/python3");
        door.arg(script).args(["127.0.0.1", "6443"]);
        let door = self.start("door", OwnedFd::from(listener).into(), &door)?;
        let text = kubeconfig(&address.to_string(), &self.authority.path(""), "admin");
        super::place::write(&self.place.kubeconfig(), &text)?;
        Ok(door)
    }
}

/// The name server as pods know it.
fn name_service() -> String {
    let names = super::place::NAMES;
    let ports = "[{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]";
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system}}
spec: {{clusterIP: {names}, ports: {ports}}}
---
apiVersion: v1
kind: Endpoints
metadata: {{name: kube-dns, namespace: kube-system}}
subsets:
- addresses: [{{ip: {CONTROL}}}]
  ports: {ports}
"
    )
}
