//! Which tests run in a virtual machine. Whatever does not is named, with the reason.

use std::path::PathBuf;

use super::Program;

/// Programs about what the kernel does, of a size that an emulated processor can carry.
const RUN: &[&str] = &[
    "adoption",
    "detours",
    "entrances",
    "escape",
    "guard",
    "mesh",
    "ports",
    "services",
    "steering",
    "strict",
    "tampering",
    "undecided",
    "verdicts",
];

const MANY_AGENTS: &str = "it starts many real agents, each of which takes long to emulate";

/// The reasons for the others.
const LEFT_OUT: &[(&str, &str)] = &[
    ("connections", MANY_AGENTS),
    ("crowds", "an emulated processor carries no crowd"),
    ("endings", "it is about the relay, which is the same on every kernel"),
    ("failing_open", MANY_AGENTS),
    ("life", MANY_AGENTS),
    ("redeclared", MANY_AGENTS),
    ("refusals", MANY_AGENTS),
    ("software", "what other people's programs do is the same on every kernel"),
    ("traces", "it is about the agent, which is the same on every kernel"),
    ("wire", "an emulated processor carries too few canaries; mesh looks for some"),
];

/// All that run here, or those that are wanted. Says what is left out.
pub fn choose(all: Vec<(String, PathBuf)>, wanted: &[String]) -> Vec<Program> {
    let mut programs = Vec::new();
    for (name, path) in all {
        let runs = match wanted {
            [] => RUN.contains(&name.as_str()),
            wanted => wanted.contains(&name),
        };
        if runs {
            programs.push(Program { name, path });
        } else if wanted.is_empty() {
            println!("left out: {name}: {}", why(&name));
        }
    }
    programs
}

fn why(name: &str) -> &'static str {
    let known = LEFT_OUT.iter().find(|left| left.0 == name);
    known.map_or("nobody has tried it here yet", |left| left.1)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_runs_and_what_is_left_out_exists_and_is_not_the_same() {
        crate::command::enter_workspace().unwrap();
        for name in RUN.iter().copied().chain(LEFT_OUT.iter().map(|left| left.0)) {
            let files = ["", "/main"].map(|end| format!("tests/kernel/tests/{name}{end}.rs"));
            assert!(files.iter().any(|file| Path::new(file).is_file()), "{name}");
        }
        assert!(LEFT_OUT.iter().all(|left| !RUN.contains(&left.0)));
    }

    #[test]
    fn whoever_names_a_program_gets_it_and_nothing_else() {
        let all = ["guard", "software"].map(|name| (name.to_owned(), PathBuf::new())).to_vec();
        let names = |wanted: &[String]| {
            let programs = choose(all.clone(), wanted);
            programs.into_iter().map(|program| program.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["guard"]);
        assert_eq!(names(&["software".to_owned()]), ["software"]);
    }
}
