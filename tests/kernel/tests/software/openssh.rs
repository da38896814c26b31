//! OpenSSH, whose server speaks first: a command, and files copied both ways.

use std::{fs, path::Path};

use martlet_lab::Running;

use crate::stage::{Pair, Stage, Wire, prepare, wait_until_listening};

/// Debian's `sshd` insists on this directory, which only its service makes.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";

struct Server {
    _sshd: Running,
    _directory: MadeDirectory,
}

/// Removed again if it was not there before.
struct MadeDirectory(bool);

impl MadeDirectory {
    fn ensure() -> MadeDirectory {
        let is_missing = !Path::new(PRIVILEGE_SEPARATION).exists();
        if is_missing {
            fs::create_dir(PRIVILEGE_SEPARATION).unwrap();
        }
        MadeDirectory(is_missing)
    }
}

impl Drop for MadeDirectory {
    fn drop(&mut self) {
        if self.0 {
            let _ = fs::remove_dir(PRIVILEGE_SEPARATION);
        }
    }
}

fn serve(pair: &Pair) -> Server {
    let directory = pair.server.directory().unwrap();
    let [host_key, own_key] = ["host", "own"].map(|name| {
        let path = directory.join(name);
        let path = path.to_str().unwrap();
        prepare(pair.server.node(), "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", path]);
        path.to_owned()
    });
    let configuration = directory.join("sshd_config");
    let text = format!(
        "HostKey {host_key}\nAuthorizedKeysFile {own_key}.pub\nStrictModes no\nUsePAM no\n\
         PidFile none\nPermitRootLogin yes\nPasswordAuthentication no\n\
         Subsystem sftp internal-sftp\n"
    );
    fs::write(&configuration, text).unwrap();
    let made = MadeDirectory::ensure();
    // It executes itself again for every connection, and so wants its full path.
    let sshd = pair.server.command("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(configuration);
    let mut sshd = sshd.spawn().unwrap();
    wait_until_listening(&mut sshd, &pair.server, 22);
    Server { _sshd: sshd, _directory: made }
}

/// Options of `ssh` and `scp`: nothing of the machine's own, and only the right host key.
fn options(pair: &Pair) -> Vec<String> {
    let directory = pair.server.directory().unwrap();
    let key = fs::read_to_string(directory.join("host.pub")).unwrap();
    let known = directory.join("known_hosts");
    let hosts = pair.servers().map(|server| format!("{server} {key}"));
    fs::write(&known, hosts.concat()).unwrap();
    let known = format!("UserKnownHostsFile={}", known.display());
    let identity = directory.join("own");
    ["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", &known, "-i"]
        .map(str::to_owned)
        .into_iter()
        .chain([identity.to_str().unwrap().to_owned()])
        .collect()
}

fn ask(pair: &Pair, program: &str, arguments: &[&str]) -> String {
    let options = options(pair);
    let options = options.iter().map(String::as_str);
    pair.ask(program, &options.chain(arguments.iter().copied()).collect::<Vec<_>>())
}

#[test]
fn a_command_runs_and_sees_where_it_comes_from() {
    let stage = Stage::set();
    stage.compare(Wire::Watched, |pair| {
        let _sshd = serve(pair);
        [0, 1].map(|family| {
            let host = format!("root@{}", pair.servers()[family]);
            let told = ask(pair, "ssh", &[&host, "echo $SSH_CLIENT; seq 1 100000; exit 0"]);
            let (from, numbers) = told.split_once('\n').unwrap();
            let own = pair.client.addresses()[family].to_string();
            assert_eq!(from.split(' ').next().unwrap(), own);
            numbers.to_owned()
        })
    });
}

#[test]
fn files_are_copied_both_ways_unchanged() {
    let stage = Stage::set();
    let file = stage.file("twenty", 20_000_000);
    stage.compare(Wire::Watched, |pair| {
        let _sshd = serve(pair);
        let there = pair.server.directory().unwrap().join("there");
        let back = pair.client.directory().unwrap().join("back");
        let [file_text, back_text] = [&file, &back].map(|path| path.to_str().unwrap());
        let remote = format!("root@[{}]:{}", pair.servers()[1], there.display());
        ask(pair, "scp", &["-q", file_text, &remote]);
        ask(pair, "scp", &["-q", &remote, back_text]);
        let original = fs::read(&file).unwrap();
        assert!(original == fs::read(&there).unwrap(), "the copy there differs");
        assert!(original == fs::read(&back).unwrap(), "the copy back differs");
    });
}
