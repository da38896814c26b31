//! The kernel programs' lines about their verdicts: there when asked for, and only then.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use martlet_kernel::{Node, Settings};
use martlet_tests_kernel::{Lab, members, relay};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

/// Where `tracing` writes to, here.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Page {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One steered connection between two enrolled pods; what the programs wrote about it, if they do.
async fn lines(verbose: bool) -> Result<Option<String>> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let mut node = Node::start(&Settings { verbose, ..lab.settings.clone() })?;
    members(&node, &[&a, &b])?;
    let to = SocketAddr::new(b.v4, 8080);
    let listener = b.listen(to)?;
    for place in [&a, &b] {
        let (pod, listeners) = place.enroll(&node, true)?;
        relay(pod.dialer(), listeners);
    }
    let log = node.take_log();
    let _caller = a.connect(to).await?;
    timeout(PATIENCE, listener.accept()).await.context("accepting")??;
    let counters = node.counters()?;
    let steered = counters.iter().find(|c| c.verdict == "steered").context("the counter exists")?;
    assert_eq!(steered.count, 1, "with and without lines it is counted");
    let Some(log) = log else { return Ok(None) };
    let page = Page::default();
    let writer = page.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    // All verdicts are written by now; the last one is the application's.
    let reading = log.run();
    tokio::pin!(reading);
    let ended = timeout(PATIENCE, async {
        while !page.text().contains("client_attached") {
            tokio::select! {
                ended = &mut reading => return Some(ended),
                () = tokio::task::yield_now() => {}
            }
        }
        None
    });
    assert!(ended.await.context("reading the lines")?.is_none(), "the log does not end");
    let text = page.text();
    let expected =
        format!("hook=\"connect\" verdict=\"steered\" from={} to={} port=8080", a.v4, b.v4);
    assert!(text.contains(&expected), "{expected} is not in:\n{text}");
    let expected = format!("verdict=\"to_inbound\" from={} to={} port=8080", a.v4, b.v4);
    assert!(text.contains(&expected), "{expected} is not in:\n{text}");
    Ok(Some(text))
}

#[tokio::test]
async fn each_verdict_writes_a_line_when_verbose() -> Result<()> {
    let text = lines(true).await?.context("there is a log")?;
    assert_eq!(text.matches("verdict=\"steered\"").count(), 1, "{text}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_written_by_default() -> Result<()> {
    assert_eq!(lines(false).await?, None);
    Ok(())
}

#[tokio::test]
async fn an_agent_with_lines_adopts_what_one_without_has_left() -> Result<()> {
    let lab = Lab::new()?;
    drop(Node::start(&lab.settings)?);
    let mut node = Node::start(&Settings { verbose: true, ..lab.settings.clone() })?;
    assert!(node.hooks().iter().all(|hook| hook.attached && hook.adopted));
    assert!(node.take_log().is_some() && node.take_log().is_none());
    let version = std::fs::read_dir(&lab.settings.pin)?.next().context("a version is pinned")??;
    let pinned = std::fs::read_dir(version.path().join("maps"))?;
    let names: Vec<_> = pinned.flatten().map(|entry| entry.file_name()).collect();
    assert!(names.iter().any(|name| name == "LISTENING"), "{names:?}");
    assert!(!names.iter().any(|name| name == "AYA_LOGS"), "{names:?}");
    Ok(())
}
