//! Who may take over and who may not, as a living agent answers, and as one that starts is answered.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Agent, Mesh, Stage, wait_for};
use serde_json::{Value, json};

use super::{PATIENCE, traffic::Traffic};

const ANSWER: Duration = Duration::from_secs(20);

/// One end of the conversation, spoken by hand.
pub struct Talk(BufReader<UnixStream>);

impl Talk {
    pub fn with(agent: &Agent) -> Result<Talk> {
        Talk::over(UnixStream::connect(door(agent)).context("knocking")?)
    }

    pub fn over(stream: UnixStream) -> Result<Talk> {
        stream.set_read_timeout(Some(ANSWER))?;
        Ok(Talk(BufReader::new(stream)))
    }

    pub fn say(&mut self, word: &Value) -> Result<()> {
        Ok(self.0.get_mut().write_all(format!("{word}\n").as_bytes())?)
    }

    /// `null` at the end.
    pub fn hear(&mut self) -> Result<Value> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Ok(Value::Null),
            _ => Ok(serde_json::from_str(&line)?),
        }
    }

    pub fn ask(&mut self, word: &Value) -> Result<Value> {
        self.say(word)?;
        self.hear()
    }

    /// What is handed over to one that wants the place.
    fn take(&mut self, claim: &Value) -> Result<Vec<String>> {
        ensure!(self.ask(&json!({ "take": claim }))?["yes"].is_object());
        let mut pieces = Vec::new();
        loop {
            let word = self.hear()?;
            let part = word["handed"]["pieces"].as_array().context(word.to_string())?;
            pieces.extend(part.iter().filter_map(|piece| Some(piece.as_str()?.to_owned())));
            if word["handed"]["is_last"] == true {
                return Ok(pieces);
            }
        }
    }
}

/// A successor that has got all and says nothing more; when it is dropped it is gone.
pub fn silent_successor(agent: &Agent) -> Result<impl Sized> {
    let mut talk = Talk::with(agent)?;
    talk.take(&claim(agent, layout(agent)?)?)?;
    Ok(talk)
}

pub fn door(agent: &Agent) -> PathBuf {
    agent.socket().with_file_name("takeover.sock")
}

/// What a good successor of this agent says of itself.
pub fn claim(agent: &Agent, layout: u64) -> Result<Value> {
    let pin = agent.node().pin();
    let device = std::fs::metadata(&pin)?.dev();
    Ok(json!({
        "node": agent.node().name(),
        "trust_domain": "lab.martlet.dev",
        "layout": layout,
        "pin": pin,
        "device": device,
        "instance": null,
        "version": "9.9.9",
    }))
}

/// As the directory below the pins says it.
pub fn layout(agent: &Agent) -> Result<u64> {
    let entry = std::fs::read_dir(agent.node().pin())?.next().context("a version is pinned")??;
    let name = entry.file_name();
    Ok(name.to_string_lossy().trim_start_matches('v').parse()?)
}

pub fn wait_for_log(agent: &Agent, text: &str) -> Result<()> {
    let heard = wait_for(text, PATIENCE, || Ok(agent.log().contains(text).then_some(())));
    heard.with_context(|| agent.log())
}

#[test]
fn only_the_same_node_domain_pins_and_layout_may_take_over_and_others_hear_why() -> Result<()> {
    let stage = Stage::set("strict")?;
    let agent = &stage.two;
    let number = layout(agent)?;
    let good = claim(agent, number)?;
    ensure!(Talk::with(agent)?.ask(&json!({ "ask": good }))?["yes"].is_object());
    for (field, value, why) in [
        ("node", json!("another"), "the node two"),
        ("trust_domain", json!("other.org"), "lab.martlet.dev"),
        ("pin", json!("/sys/fs/bpf/elsewhere"), "its pins are elsewhere"),
        ("device", json!(1), "its pins are elsewhere"),
    ] {
        let mut other = good.clone();
        other[field] = value;
        for word in ["ask", "take"] {
            let answer = Talk::with(agent)?.ask(&json!({ word: other }))?;
            let said = answer["no"].as_str().unwrap_or_default();
            ensure!(said.contains(why), "{field}: {answer}");
        }
    }
    let other = claim(agent, number + 1)?;
    let answer = Talk::with(agent)?.ask(&json!({ "take": other }))?;
    ensure!(answer["layout"]["layout"] == number, "{answer}");
    let mode = std::fs::metadata(door(agent))?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    wait_for_log(agent, "another agent was told that it can't take over")
}

#[test]
fn a_successor_that_is_silent_or_gone_or_talks_nonsense_changes_nothing() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let mut traffic = Traffic::start(&stage)?;
    let claim = claim(&stage.two, layout(&stage.two)?)?;
    // Gone at once, gone when it has all, and one that says what has no place there.
    drop(Talk::with(&stage.two)?);
    Talk::with(&stage.two)?.say(&json!({ "take": claim }))?;
    let mut talk = Talk::with(&stage.two)?;
    let pieces = talk.take(&claim)?;
    let far = stage.far.v4();
    for piece in ["hold", "life", "metrics", "plugins", &format!("inbound {far}")] {
        let piece = piece.to_owned();
        ensure!(pieces.contains(&piece), "{piece} is not among {pieces:?}");
    }
    drop(talk);
    traffic.goes_on("after one that was gone")?;
    let mut talk = Talk::with(&stage.two)?;
    talk.take(&claim)?;
    ensure!(talk.ask(&json!({ "sing": 1 }))?["taken_back"].is_string());
    ensure!(Talk::with(&stage.two)?.ask(&json!({ "sing": 1 }))?.is_null());
    traffic.goes_on("after one that talked nonsense")?;
    // Silent.
    let mut talk = Talk::with(&stage.two)?;
    talk.0.get_ref().set_read_timeout(Some(3 * ANSWER))?;
    talk.take(&claim)?;
    let heard = talk.hear()?;
    ensure!(heard["taken_back"].as_str().is_some_and(|why| why.contains("in time")), "{heard}");
    traffic.goes_on("after one that was silent")?;
    let failures = stage.two.metric("martlet_takeovers_total", &["result=\"failure\""])?;
    ensure!(failures >= 3.0, "{failures}");
    // And a good one comes to its end.
    let _carrying = stage.two.succeed()?;
    traffic.goes_on("after a good one")?;
    let successes = stage.two.metric("martlet_takeovers_total", &["result=\"success\""])?;
    ensure!(successes == 1.0, "{successes}");
    Ok(())
}

#[test]
fn a_second_agent_of_another_node_or_of_another_place_is_refused_and_hears_why() -> Result<()> {
    let stage = Stage::set("strict")?;
    let mut traffic = Traffic::start(&stage)?;
    let elsewhere = stage.two.node().directory()?.join("elsewhere");
    std::fs::create_dir_all(&elsewhere)?;
    let file = stage.mesh.node_file(stage.two.node())?;
    let foreign = Mesh::new(&stage.lab, "other.org")?;
    for (change, why) in [
        (json!({ "node": { "name": "another" } }), "it is the agent of the node two"),
        (
            json!({ "trustDomain": "other.org", "authority": { "directory": foreign.authority() } }),
            "it is of the trust domain lab.martlet.dev",
        ),
        (json!({ "node": { "pin": stage.one.node().pin() } }), "its pins are elsewhere"),
        // Not by the other one's door: the hold on the pins keeps it out.
        (json!({ "node": { "socket": elsewhere.join("agent.sock") } }), "in use by another agent"),
    ] {
        let mut other = file.clone();
        for part in ["workloads", "services", "policies", "outside"] {
            other[part] = json!([]);
        }
        other["node"]["metrics"] = json!("127.0.0.1:15021");
        merge(&mut other, &change);
        let path = elsewhere.join("node.yaml");
        std::fs::write(&path, other.to_string())?;
        let second = stage.two.program_with(&path)?.run_within(PATIENCE)?;
        let is_told = second.stderr.contains(why);
        ensure!(!second.status.success() && is_told, "{why}: {}", second.stderr);
    }
    traffic.goes_on("beside two that were refused")?;
    traffic.end()?;
    Ok(())
}

fn merge(into: &mut Value, change: &Value) {
    match change.as_object() {
        Some(fields) => fields.iter().for_each(|(name, value)| merge(&mut into[name], value)),
        None => *into = change.clone(),
    }
}

#[test]
fn an_agent_waits_for_one_with_another_layout_and_starts_when_that_is_gone() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    stage.two.stop()?.success()?;
    let door = door(&stage.two);
    let other = UnixListener::bind(&door)?;
    stage.two.launch()?;
    let mut talk = Talk::over(other.accept()?.0)?;
    ensure!(talk.hear()?["ask"]["node"] == "two");
    talk.say(&json!({ "layout": { "layout": 4_000_000_000_u32, "instance": null } }))?;
    wait_for_log(&stage.two, "waiting until it is stopped")?;
    drop((talk, other));
    stage.two.wait_until_ready()
}

#[test]
fn an_agent_goes_on_without_a_predecessor_that_dies_and_not_beside_one_that_lives() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    stage.two.stop()?.success()?;
    let door = door(&stage.two);
    let yes = json!({ "yes": { "instance": null } });
    let handed = json!({ "handed": { "pieces": [], "is_last": true } });
    for lives in [true, false] {
        // Stale, as one that has died leaves it.
        let _ = std::fs::remove_file(&door);
        let other = UnixListener::bind(&door)?;
        stage.two.launch()?;
        let mut talk = Talk::over(other.accept()?.0)?;
        ensure!(talk.hear()?["ask"]["node"] == "two");
        talk.say(&yes)?;
        let mut talk = Talk::over(other.accept()?.0)?;
        ensure!(talk.hear()?["take"]["node"] == "two");
        talk.say(&yes)?;
        talk.say(&handed)?;
        ensure!(talk.hear()?["ready"]["metrics"] == false);
        if lives {
            drop(talk);
            let ended = stage.two.wait_for_end()?;
            ensure!(!ended.status.success() && ended.stderr.contains("lives"), "{}", ended.stderr);
        } else {
            drop((other, talk));
            stage.two.wait_until_ready()?;
            wait_for_log(&stage.two, "has died")?;
        }
    }
    Ok(())
}
