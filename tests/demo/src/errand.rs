//! What the callers do, and what must stay secret: an unmodified curl posts a header and a body
//! that nobody has seen before, and gets an answer that nobody has seen before.

use std::fs;

use anyhow::{Context, Result, ensure};
use martlet_lab::{Canaries, Finished, Pod};

use crate::stage::texts;

/// Secrets in the body of one request.
const IN_BODY: usize = 31;
/// Requests that are ever made in one half of the story.
const REQUESTS: usize = 16;

/// What is said before the agents are there, and what is said afterwards.
pub struct Secrets {
    pub before: Half,
    pub after: Half,
}

/// The secrets of one half: that of the answer, then 32 for each request.
pub struct Half {
    pub canaries: Canaries,
    path: &'static str,
    texts: Vec<String>,
    used: usize,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Errand {
    pub path: &'static str,
    answer: String,
    header: String,
    body: Vec<String>,
}

impl Secrets {
    pub fn random() -> Secrets {
        Secrets { before: Half::random("before"), after: Half::random("after") }
    }

    pub fn answers(&self) -> [(&'static str, String); 2] {
        [&self.before, &self.after].map(|half| (half.path, half.texts[0].clone()))
    }
}

impl Half {
    fn random(path: &'static str) -> Half {
        let canaries = Canaries::printable(1 + REQUESTS * (1 + IN_BODY));
        Half { texts: texts(&canaries), canaries, path, used: 1 }
    }

    /// The next request, with secrets of its own.
    pub fn errand(&mut self) -> Result<Errand> {
        let end = self.used + 1 + IN_BODY;
        let own = self.texts.get(self.used..end).context("there are no secrets left")?;
        self.used = end;
        Ok(Errand {
            path: self.path,
            answer: self.texts[0].clone(),
            header: own[0].clone(),
            body: own[1..].to_vec(),
        })
    }

    /// How many secrets have been told so far, that of the answer included.
    pub fn told(&self) -> usize {
        self.used
    }
}

impl Errand {
    /// Runs curl in a pod, to whatever end.
    pub fn run(&self, from: &Pod, to: &str) -> Result<Finished> {
        let body = from.directory()?.join("body");
        fs::write(&body, self.body.join("\n")).context("writing the body of a request")?;
        let curl = from.command("curl").args(["--silent", "--show-error", "--fail"]);
        let curl = curl.args(["--max-time", "20", "--header", &format!("Secret: {}", self.header)]);
        let curl = curl.arg("--data-binary").arg(format!("@{}", body.display()));
        curl.arg(format!("http://{to}/{}", self.path)).run()
    }

    /// The same; the answer must be the right one, and must name the pod as the caller.
    pub fn succeed(&self, from: &Pod, to: &str) -> Result<()> {
        let answer = self.run(from, to)?.success().with_context(|| failed(from, to))?;
        ensure!(answer.contains(&self.answer), "{}: answered {answer:?}", failed(from, to));
        let caller = format!("Hello {},", from.v4());
        ensure!(answer.starts_with(&caller), "nginx does not see {} but {answer:?}", from.v4());
        Ok(())
    }

    /// The same; it must fail, and what curl says about that is given.
    pub fn fail(&self, from: &Pod, to: &str) -> Result<String> {
        let finished = self.run(from, to)?;
        ensure!(!finished.status.success(), "{} reached {to}, and must not", from.name());
        Ok(finished.stderr.trim().to_owned())
    }
}

fn failed(from: &Pod, to: &str) -> String {
    format!("curl from {} to {to}", from.name())
}
