//! The program that is measured.

use std::{
    fmt, fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use data_encoding::BASE64;
use martlet_authority::{Authority, trust::Store};
use martlet_model::TrustDomain;
use martlet_played::Played;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

pub struct Controller {
    child: Child,
    directory: TempDir,
    pub address: SocketAddr,
    /// Its own, which nodes' certificates are made with.
    pub authority: Arc<Authority>,
    pub domain: TrustDomain,
}

/// What it has used.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub cpu: Duration,
    resident: u64,
    most: u64,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cpu, now, most) = (self.cpu.as_secs_f64(), self.resident >> 20, self.most >> 20);
        write!(f, "{cpu:.1} s of CPU, {now} MiB resident (at most {most})")
    }
}

impl Controller {
    pub fn start(program: &Path, api: &Played) -> Result<Self> {
        let domain: TrustDomain = "scale.example".parse().context("a trust domain")?;
        let directory = TempDir::new().context("making a directory")?;
        let at = |name: &str| directory.path().join(name);
        let made = at("made");
        let store = Store::open(&made, &domain, SystemTime::now()).context("making a root")?;
        api.apply("v1", "secrets", secret(&made)?);
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        fs::write(at("kubeconfig"), api.kubeconfig())?;
        let file = format!(
            "trustDomain: {domain}\nlisten: [\"{address}\"]\nstate: {}\nsocket: {}\nmetrics: \"off\"\nkubernetes: {{}}\n",
            at("state").display(),
            at("socket").display(),
        );
        fs::write(at("controller.yaml"), file)?;
        let log = fs::File::create(at("log"))?;
        let child = Command::new(program)
            .arg("--config")
            .arg(at("controller.yaml"))
            .env("KUBECONFIG", at("kubeconfig"))
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let authority = store.authority();
        Ok(Self { child, directory, address, authority, domain })
    }

    pub async fn until_listening(&mut self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        while TcpStream::connect(self.address).is_err() {
            ensure!(Instant::now() < until, "it does not listen: {}", self.log());
            if let Some(status) = self.child.try_wait()? {
                bail!("it has ended, {status}: {}", self.log());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub fn usage(&self) -> Result<Usage> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let stat = fs::read_to_string(process.join("stat")).context("reading its times")?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks: u64 =
            fields.iter().skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum();
        let status = fs::read_to_string(process.join("status")).context("reading its memory")?;
        let kibibytes = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse().ok()
        };
        let resident = kibibytes("VmRSS:").context("it has memory")? << 10;
        let most = kibibytes("VmHWM:").context("it has had memory")? << 10;
        // A hundred ticks are a second, on every Linux that this runs on.
        Ok(Usage { cpu: Duration::from_millis(ticks * 10), resident, most })
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The authority as the controller keeps it in its cluster.
fn secret(made: &Path) -> Result<Value> {
    let (mut data, mut open) = (Map::new(), vec![(made.to_owned(), String::new())]);
    while let Some((at, prefix)) = open.pop() {
        for entry in fs::read_dir(at)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                open.push((entry.path(), format!("{name}__")));
            } else if name != "lock" {
                data.insert(name, json!(BASE64.encode(&fs::read(entry.path())?)));
            }
        }
    }
    Ok(json!({
        "metadata": { "namespace": "martlet-system", "name": "martlet-authority" },
        "data": data,
    }))
}
