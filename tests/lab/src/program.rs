//! A program inside a namespace and a cgroup: started, watched, and never left behind.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sched::{CloneFlags, setns},
    sys::{
        prctl,
        resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
        signal::Signal,
    },
    unistd::Pid,
};
use serde_json::Value;

use crate::{cgroup, limits, netns::Netns, site::Site, wait::wait_for};

/// The lowest priority, as `nice` counts.
const LAST: i32 = 19;

static NEXT_LOG: AtomicU32 = AtomicU32::new(0);

/// What is to be started.
#[derive(Debug)]
pub struct Program {
    command: Command,
    name: String,
    log: PathBuf,
    netns: Netns,
    cgroup: PathBuf,
    site: Arc<Site>,
    capabilities: Option<Vec<u8>>,
}

/// What was started. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// What has ended.
#[derive(Debug)]
pub struct Finished {
    pub name: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A binary of this workspace: named by the environment (`MARTLET_AGENT`, `LAB_PROBE`, ...),
/// or beside the running one.
pub fn find_binary(name: &str) -> Result<PathBuf> {
    let variable = name.to_uppercase().replace('-', "_");
    if let Some(path) = env::var_os(&variable) {
        return Ok(path.into());
    }
    let own = env::current_exe().context("finding the running binary")?;
    // target/<profile>/x, or target/<profile>/deps/x for tests.
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "{name} is not beside {}: build the workspace's binaries, or set {variable}",
                own.display()
            )
        })
}

impl Program {
    pub(crate) fn new(
        site: &Arc<Site>,
        program: &Path,
        label: &str,
        netns: Netns,
        cgroup: PathBuf,
    ) -> Program {
        let short = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
        let number = NEXT_LOG.fetch_add(1, Ordering::Relaxed);
        let name = format!("{label}.{short}");
        let log = site.directory().join("logs").join(format!("{number:05}.{name}"));
        let mut command = Command::new(program);
        // A terminal's Ctrl-C is for the lab's owner, who then ends the programs in order.
        command.stdin(Stdio::null()).process_group(0);
        let site = site.clone();
        Program { command, name, log, netns, cgroup, site, capabilities: None }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Program {
        self.command.arg(argument);
        self
    }

    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Program {
        self.command.env(name, value);
        self
    }

    pub fn current_dir(mut self, path: impl AsRef<Path>) -> Program {
        self.command.current_dir(path);
        self
    }

    /// As a service manager would start it: with exactly these capabilities, by their numbers
    /// (linux/capability.h), and with the highest limits of locked memory and
    /// core files that there are.
    pub fn with_capabilities(mut self, numbers: &[u8]) -> Program {
        self.capabilities = Some(numbers.to_vec());
        self
    }

    /// Gives the program a pipe as its input; it stays open until [`Running::close_input`].
    pub fn with_input(mut self) -> Program {
        self.command.stdin(Stdio::piped());
        self
    }

    /// Gives the program a file as its input.
    pub fn input_file(mut self, path: &Path) -> Result<Program> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        self.command.stdin(file);
        Ok(self)
    }

    #[allow(unsafe_code)]
    pub fn spawn(mut self) -> Result<Running> {
        // Or the cgroup would be made anew, and the program outlive a lab that is being removed.
        let _adding = self.site.adding()?;
        cgroup::make(&self.cgroup)?;
        let stdout = self.log.with_added_extension("out");
        let stderr = self.log.with_added_extension("err");
        self.command.stdout(File::create(&stdout).context("making a log")?);
        self.command.stderr(File::create(&stderr).context("making a log")?);
        let netns = self.netns.file();
        let members = OpenOptions::new()
            .write(true)
            .open(self.cgroup.join("cgroup.procs"))
            .with_context(|| format!("opening the cgroup {}", self.cgroup.display()))?;
        let kept = self.capabilities.take();
        // SAFETY: between fork and exec only system calls on files opened before; nothing allocates.
        unsafe {
            self.command.pre_exec(move || {
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                (&members).write_all(b"0")?;
                setns(&*netns, CloneFlags::CLONE_NEWNET)?;
                kept.as_deref().map_or(Ok(()), keep_capabilities)
            });
        }
        let child = spawn_from_lasting_thread(self.command)
            .with_context(|| format!("starting {}", self.name))?;
        Ok(Running { child, name: self.name, stdout, stderr })
    }

    /// Runs to the end, whatever the exit status.
    pub fn run(self) -> Result<Finished> {
        self.run_within(limits::PROGRAM)
    }

    pub fn run_within(self, within: Duration) -> Result<Finished> {
        self.spawn()?.wait(within)
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// Its output as it is, for programs that do not print text.
    pub fn stdout_bytes(&self) -> Vec<u8> {
        fs::read(&self.stdout).unwrap_or_default()
    }

    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, signal)
            .with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// All of its threads run only when nobody else wants to.
    #[allow(unsafe_code)]
    pub fn be_last(&self) -> Result<()> {
        // SAFETY: a system call on numbers. The program leads a process group of its own.
        let failed = unsafe { libc::setpriority(libc::PRIO_PGRP, self.child.id(), LAST) };
        match failed {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()).context("setting a priority"),
        }
    }

    pub fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    pub fn kill(mut self) -> Result<Finished> {
        self.child.kill().context("killing")?;
        self.wait(limits::KILL)
    }

    pub fn wait(mut self, within: Duration) -> Result<Finished> {
        let status =
            wait_for("it to end", within, || Ok(self.child.try_wait()?)).with_context(|| {
                format!("running {}: {}{}", self.name, self.stdout(), self.stderr())
            })?;
        Ok(Finished {
            name: self.name.clone(),
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
        })
    }

    /// Waits until its output has what is looked for; fails at once when the program ends before.
    pub fn wait_for_stdout<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut look: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let found = wait_for(what, within, || {
            let ended = self.child.try_wait()?;
            match (look(&self.stdout()), ended) {
                (Some(found), _) => Ok(Some(found)),
                (None, Some(status)) => Err(anyhow!("it ended with {status}")),
                (None, None) => Ok(None),
            }
        });
        found.with_context(|| format!("running {}: {}{}", self.name, self.stdout(), self.stderr()))
    }

    /// The complete lines of its output behind a position, which moves on.
    pub fn new_lines(&self, position: &mut u64) -> Result<Vec<String>> {
        let mut file = File::open(&self.stdout).context("opening an output")?;
        file.seek(SeekFrom::Start(*position)).context("reading on in an output")?;
        let mut text = String::new();
        file.read_to_string(&mut text)
            .with_context(|| format!("reading what {} said", self.name))?;
        // The last line may still be on its way.
        let complete = text.rfind('\n').map_or("", |end| &text[..=end]);
        *position += complete.len() as u64;
        Ok(complete.lines().map(str::to_owned).collect())
    }

    /// Waits for the probe's (or any program's) first line of JSON: it is up.
    pub fn wait_until_listening(&mut self) -> Result<Value> {
        self.wait_for_stdout("the first line", limits::PATIENCE, |text| {
            let (line, _) = text.split_once('\n')?;
            serde_json::from_str(line).ok()
        })
    }

    /// All complete lines of JSON so far.
    pub fn json_lines(&self) -> Vec<Value> {
        json_lines(&self.stdout())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Its output, or an error with everything it said.
    pub fn success(self) -> Result<String> {
        if !self.status.success() {
            bail!("{} ended with {}: {}{}", self.name, self.status, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }

    /// The last line of its output, which is JSON.
    pub fn json(&self) -> Result<Value> {
        let last = json_lines(&self.stdout).pop();
        last.with_context(|| {
            format!("{} printed no JSON: {}{}", self.name, self.stdout, self.stderr)
        })
    }
}

/// Root has after exec(2) what its bounding set has.
#[allow(unsafe_code)]
fn keep_capabilities(kept: &[u8]) -> io::Result<()> {
    for limit in [Resource::RLIMIT_MEMLOCK, Resource::RLIMIT_CORE] {
        // As high as it gets, where nobody may raise them.
        let (_, hard) = getrlimit(limit)?;
        setrlimit(limit, RLIM_INFINITY, RLIM_INFINITY).or_else(|_| setrlimit(limit, hard, hard))?;
    }
    for number in (0..64).filter(|number| !kept.contains(number)) {
        // SAFETY: PR_CAPBSET_DROP takes a number only. Those that the kernel does not know fail.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
    }
    Ok(())
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// The kernel sends the parent-death signal when the *thread* that forked ends (prctl(2)),
/// so all programs are started from one thread that lasts as long as the process.
fn spawn_from_lasting_thread(command: Command) -> Result<Child> {
    static NURSERY: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let nursery = NURSERY.get_or_init(|| {
        let (jobs, waiting) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in waiting {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (answer, child) = mpsc::channel();
    nursery
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .context("the nursery has ended")?;
    Ok(child.recv().context("the nursery has ended")??)
}
