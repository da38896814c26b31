//! The command line is what docs/cli.md says.

use clap::CommandFactory;

use super::*;

const HEAD: &str = "\
# Command line

`martlet` asks the agent of this node, over its Unix socket; `martlet nodes`, `node` and `trust` ask a controller, and `martlet authority` needs neither.
Where there is no socket and a kubeconfig is, or where `--context`, `--kubeconfig`, `--node` or `--namespace-system` is given, it asks a cluster: all agents at once, and the controller, through the API server, as `kubectl exec` does.
This page is written from the program's own help: `MARTLET_BLESS=1 cargo test -p martlet-cli`.

Tables are for people: they may change, are colored on a terminal unless `NO_COLOR` is set, and are never cut off in a pipe.
Programs should ask for `-o json`: it is the agent's answer as it came, pretty only on a terminal, and its fields are only ever added to.
Of a cluster, whatever the number of its nodes, it is `{\"nodes\": [{\"node\": …, \"version\": …, \"answer\": …}, …]}`, with `error` instead of `answer` for a node that did not answer; records that are followed have a `node` each.
Errors go to standard error, with a hint where there is something to do.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut all = Args::command().term_width(100);
    all.build();
    describe(&mut page, &mut all);
    page
}

fn describe(page: &mut String, command: &mut clap::Command) {
    let name = command.get_bin_name().unwrap_or("martlet").to_owned();
    let help = command.render_help();
    page.push_str(&format!("\n## {name}\n\n```\n{}\n```\n", help.to_string().trim_end()));
    for below in command
        .get_subcommands_mut()
        .filter(|below| below.get_name() != "help" && !below.is_hide_set())
    {
        describe(page, below);
    }
}

#[test]
fn the_page_in_docs_is_what_the_help_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
    if std::env::var_os("MARTLET_BLESS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(found, page(), "docs/cli.md is out of date; run the tests with MARTLET_BLESS=1");
}

#[test]
fn the_command_line_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn the_socket_may_be_named_before_and_after_the_command() {
    for line in [["martlet", "--socket", "/a", "status"], ["martlet", "status", "--socket", "/a"]] {
        assert_eq!(Args::try_parse_from(line).unwrap().reach.socket, Some(PathBuf::from("/a")));
    }
}

#[test]
fn what_is_not_known_is_refused() {
    for line in [
        &["martlet"][..],
        &["martlet", "dance"],
        &["martlet", "status", "-o", "yaml"],
        &["martlet", "status", "--watch"],
        &["martlet", "authority", "init", "/a"],
        &["martlet", "authority", "init", "/a", "--trust-domain", "Prod"],
        &["martlet", "authority", "init", "/a", "--trust-domain", "a.org", "--root-key", "/k"],
        &["martlet", "authority", "csr"],
        &["martlet", "authority", "install", "/a"],
        &["martlet", "authority", "log", "verify", "/a", "--anchor", "7:short"],
    ] {
        assert!(Args::try_parse_from(line).is_err(), "{line:?}");
    }
}
