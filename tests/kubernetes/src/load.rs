//! A pod that calls another one again and again, and holds one connection to it, by itself: also
//! while no API server could tell it to.

use std::fmt;

use anyhow::{Context as _, Result};

use crate::Kubectl;

/// On which [`echo`] listens.
const ECHO_PORT: u16 = 9000;

/// Calls until it is stopped. Both loops write when they did what, in seconds since the machine began.
const CALLS: &str = r#"
rm -f /tmp/stop /tmp/calls /tmp/held
(while [ ! -e /tmp/stop ]; do
    read began _ < /proc/uptime
    timeout 5 wget -q -O /tmp/answer http://TO/ 2> /tmp/why && said=answered || said=$(head -n 1 /tmp/why)
    read ended _ < /proc/uptime
    echo "$began $ended $said"
    sleep 0.05
done > /tmp/calls 2>&1; touch /tmp/called) > /dev/null 2>&1 < /dev/null &
(while [ ! -e /tmp/stop ]; do echo held; sleep 0.2; done | nc HOLD 9000 > /tmp/held 2>&1
[ -e /tmp/stop ] || echo "was ended" >> /tmp/held) > /dev/null 2>&1 < /dev/null &
"#;

/// What a pod does until it is asked what has become of it.
pub struct Load<'a> {
    kubectl: &'a Kubectl,
    pod: String,
}

/// What has become of it.
pub struct Calls {
    all: Vec<Call>,
    /// How often what was said on the connection that is held came back.
    pub echoed: usize,
    /// Whether the connection that is held was ended, by anybody but its caller.
    pub was_ended: bool,
}

struct Call {
    began: f64,
    ended: f64,
    /// `None`: it was answered.
    failed: Option<String>,
}

/// Lets a pod send back what it gets, on the port that loads hold their connection to.
pub fn echo(kubectl: &Kubectl, pod: &str) -> Result<()> {
    let command = format!("nc -ll -p {ECHO_PORT} -e /bin/cat > /dev/null 2>&1 < /dev/null &");
    kubectl.exec(pod, &["sh", "-c", &command]).map(drop)
}

impl<'a> Load<'a> {
    /// `to`: an address whose port 80 is called. `hold`: the address of a pod that does [`echo`].
    pub fn start(kubectl: &'a Kubectl, pod: &str, to: &str, hold: &str) -> Result<Self> {
        let calls = CALLS.replace("TO", to).replace("HOLD", hold);
        kubectl.exec(pod, &["sh", "-c", &calls])?;
        Ok(Self { kubectl, pod: pod.to_owned() })
    }

    pub fn stop(self) -> Result<Calls> {
        let stop = "touch /tmp/stop; while [ ! -e /tmp/called ]; do sleep 0.1; done; rm /tmp/called; \
                    cat /tmp/calls; echo then; sort /tmp/held | uniq -c";
        let said = self.kubectl.exec(&self.pod, &["sh", "-c", stop])?;
        let (calls, held) = said.split_once("then\n").context("the load says both")?;
        let all = calls.lines().map(Call::read).collect::<Result<_>>()?;
        let count = |line: &str| line.split_whitespace().next()?.parse().ok();
        let echoed = held.lines().find(|line| line.contains("held")).and_then(count);
        let was_ended = held.contains("was ended");
        Ok(Calls { all, echoed: echoed.unwrap_or_default(), was_ended })
    }
}

impl Call {
    fn read(line: &str) -> Result<Self> {
        let mut fields = line.splitn(3, ' ');
        let mut next = || fields.next().with_context(|| format!("no call: {line}"));
        let (began, ended, said) = (next()?.parse()?, next()?.parse()?, next()?);
        let failed = (said != "answered").then(|| said.to_owned());
        Ok(Self { began, ended, failed })
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (answered, failed, broken) = (self.answered(), self.failed(), self.broken());
        let held = if self.was_ended { "ended" } else { "kept" };
        write!(to, "calls answered {answered}, failed {failed} (broken off {broken}), ")?;
        write!(to, "longest without an answer {:.1} s, ", self.longest_gap())?;
        write!(to, "held connection {held} after {} answers", self.echoed)
    }
}

impl Calls {
    pub fn answered(&self) -> usize {
        self.all.len() - self.failed()
    }

    pub fn failed(&self) -> usize {
        self.all.iter().filter(|call| call.failed.is_some()).count()
    }

    /// Those that were made before this time, in seconds since the machine began, and failed.
    pub fn failed_before(&self, time: f64) -> usize {
        self.all.iter().filter(|call| call.ended < time && call.failed.is_some()).count()
    }

    /// In which something else was said than that the connection could not be made.
    pub fn broken(&self) -> usize {
        let is_refused = |why: &String| why.contains("can't connect");
        self.all
            .iter()
            .filter_map(|call| call.failed.as_ref())
            .filter(|why| !is_refused(why))
            .count()
    }

    /// For how many seconds there was no answer.
    pub fn longest_gap(&self) -> f64 {
        let answered: Vec<_> = self.all.iter().filter(|call| call.failed.is_none()).collect();
        answered.windows(2).map(|two| two[1].ended - two[0].ended).fold(0.0, f64::max)
    }

    /// Of the first call to the last.
    pub fn lasted(&self) -> f64 {
        let (first, last) = (self.all.first(), self.all.last());
        first.zip(last).map_or(0.0, |(first, last)| last.ended - first.began)
    }
}

/// Seconds since the machine began: the same in every pod.
pub fn now() -> Result<f64> {
    let uptime = std::fs::read_to_string("/proc/uptime").context("asking for the time")?;
    uptime.split(' ').next().and_then(|text| text.parse().ok()).context("uptime is two numbers")
}
