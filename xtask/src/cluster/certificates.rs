//! The cluster's own certificate authority, keys and kubeconfigs, made with openssl.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::place::{self, API, CONTROL, Place};

pub struct Authority {
    directory: PathBuf,
}

/// Whom a certificate is for, and who that is to the API server.
pub struct Holder<'a> {
    pub file: &'a str,
    pub user: &'a str,
    pub group: Option<&'a str>,
    /// `DNS:…` and `IP:…`, if it is a server's.
    pub names: &'a [String],
}

/// Everyone but nodes and servers.
const CLIENTS: &[(&str, &str, Option<&str>)] = &[
    ("admin", "admin", Some("system:masters")),
    ("controllers", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    ("proxy", "system:kube-proxy", None),
    // The API server's own rules let the account of a name server read services and endpoints.
    ("names", "system:serviceaccount:kube-system:kube-dns", None),
    ("kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters")),
    ("aggregator", "front-proxy-client", None),
];

impl Authority {
    pub fn of(place: &Place) -> Result<Self> {
        let authority = Self { directory: place.path("pki") };
        fs::create_dir_all(&authority.directory).context("making a directory for keys")?;
        if !authority.path("ca.crt").exists() {
            authority.openssl(&[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-keyout",
                "ca.key",
                "-out",
                "ca.crt",
                "-days",
                "3650",
                "-subj",
                "/CN=cluster",
            ])?;
        }
        if !authority.path("accounts.pub").exists() {
            authority.openssl(&["genrsa", "-out", "accounts.key", "2048"])?;
            let public = ["rsa", "-in", "accounts.key", "-pubout", "-out", "accounts.pub"];
            authority.openssl(&public)?;
        }
        Ok(authority)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// Of the control plane and of whoever uses the cluster.
    pub fn issue_all(&self) -> Result<()> {
        let api = ["", ".default", ".default.svc", ".default.svc.cluster.local"];
        let mut names: Vec<_> = api.iter().map(|end| format!("DNS:kubernetes{end}")).collect();
        names.push("DNS:localhost".to_owned());
        names.extend(["127.0.0.1", CONTROL, API].map(|address| format!("IP:{address}")));
        let server = Holder { file: "server", user: "kube-apiserver", group: None, names: &names };
        self.issue(&server)?;
        for &(file, user, group) in CLIENTS {
            self.issue(&Holder { file, user, group, names: &[] })?;
        }
        Ok(())
    }

    /// Once; a certificate that is there stays.
    pub fn issue(&self, holder: &Holder<'_>) -> Result<()> {
        let file = |end: &str| format!("{}.{end}", holder.file);
        if self.path(&file("crt")).exists() {
            return Ok(());
        }
        let group = holder.group.map_or(String::new(), |group| format!("/O={group}"));
        let subject = format!("{group}/CN={}", holder.user);
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            &file("key"),
            "-out",
            &file("csr"),
            "-subj",
            &subject,
        ])?;
        let mut extensions = "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n\
            extendedKeyUsage=serverAuth,clientAuth\n"
            .to_owned();
        if !holder.names.is_empty() {
            extensions += &format!("subjectAltName={}\n", holder.names.join(","));
        }
        place::write(&self.path(&file("ext")), &extensions)?;
        // The certificate last and in one step: it says that all is there.
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &file("csr"),
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "3650",
            "-extfile",
            &file("ext"),
            "-out",
            &file("new"),
        ])?;
        fs::rename(self.path(&file("new")), self.path(&file("crt"))).context("a certificate")
    }

    fn openssl(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .output()
            .context("starting openssl")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "openssl {}: {}", arguments[0], complaint.trim());
        Ok(())
    }
}

/// Its paths are those of whoever reads it: a node's differ from the machine's.
pub fn kubeconfig(server: &str, keys: &Path, file: &str) -> String {
    let keys = keys.display();
    format!(
        r#"apiVersion: v1
kind: Config
clusters:
- name: cluster
  cluster: {{server: "https://{server}", certificate-authority: "{keys}/ca.crt"}}
users:
- name: {file}
  user: {{client-certificate: "{keys}/{file}.crt", client-key: "{keys}/{file}.key"}}
contexts:
- name: cluster
  context: {{cluster: cluster, user: {file}}}
current-context: cluster
"#
    )
}
