//! What is declared now, and what changed lately: enough to tell each agent what it does not know.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use martlet_model::Label;
use tokio::sync::watch;

use crate::{
    Telling, limits,
    message::Malformed,
    table::{Changed, Scope, Table, Whole, messages},
};

/// By how much an agent's word can raise the version. A node that lies makes no difference: versions
/// have 64 bits.
const MOST_RAISED: u64 = 1 << 32;

#[derive(Debug)]
pub struct World {
    /// Of this controller since it started: others count their versions for themselves.
    instance: u64,
    now: Mutex<Now>,
    /// What was told whole last. Whoever needs it while it is made waits, and makes none.
    whole: Mutex<Option<Arc<Whole>>>,
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct Now {
    table: Arc<Table>,
    version: u64,
    changes: VecDeque<Change>,
}

/// From a version to the next.
#[derive(Debug)]
struct Change {
    from: u64,
    changed: Changed,
}

/// What is to be told to an agent.
pub struct News {
    pub version: u64,
    pub messages: Vec<Telling>,
}

impl World {
    pub fn new(instance: u64) -> Self {
        let now = Now { table: Arc::default(), version: 0, changes: VecDeque::new() };
        Self {
            instance,
            now: Mutex::new(now),
            whole: Mutex::default(),
            version: watch::Sender::new(0),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version that holds it: the present one if it is no news.
    pub fn declare(&self, table: Table) -> u64 {
        let mut now = self.now();
        let changed = now.table.changed(&table);
        if changed.is_empty() {
            return now.version;
        }
        now.table = Arc::new(table);
        let next = now.version + 1;
        self.advance(&mut now, next, changed)
    }

    fn advance(&self, now: &mut Now, version: u64, changed: Changed) -> u64 {
        now.changes.push_back(Change { from: now.version, changed });
        if now.changes.len() > limits::CHANGES {
            now.changes.pop_front();
        }
        now.version = version;
        self.version.send_replace(version);
        version
    }

    /// Where an agent knows a greater version, of another controller or of this one before it lost
    /// its memory, what is said now gets a greater one still.
    pub fn raise(&self, instance: u64, known: u64) {
        let mut now = self.now();
        if instance == self.instance || now.version == 0 || known < now.version {
            return;
        }
        if known - now.version <= MOST_RAISED
            && let Some(next) = known.checked_add(1)
        {
            self.advance(&mut now, next, Changed::default());
        }
    }

    /// What was declared last.
    pub fn table(&self) -> Arc<Table> {
        self.now().table.clone()
    }

    pub fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Whether an agent has to be told everything.
    pub fn is_far(&self, instance: u64, known: u64) -> bool {
        let now = self.now();
        let is_near = known == now.version || now.changes.iter().any(|change| change.from == known);
        instance != self.instance || !is_near
    }

    /// `None`: the agent knows everything, or nothing is declared yet.
    pub fn news(&self, node: &Label, instance: u64, known: u64) -> Result<Option<News>, Malformed> {
        let (table, version, changed) = {
            let now = self.now();
            if now.version == 0 || instance == self.instance && known == now.version {
                return Ok(None);
            }
            let is_ours = instance == self.instance && known != 0;
            let changed = is_ours.then(|| now.since(known)).flatten();
            (now.table.clone(), now.version, changed)
        };
        let Some(changed) = changed else { return self.everything(node).map(Some) };
        let scope = Scope::Since(known, &changed);
        let said = messages(&table, node, self.instance, version, scope)?;
        Ok(Some(News { version, messages: said.into_iter().map(Telling::from).collect() }))
    }

    /// What is the same for all nodes is made once, and again when too much has changed since.
    fn everything(&self, node: &Label) -> Result<News, Malformed> {
        let mut kept = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let (table, version, changed) = {
            let now = self.now();
            let changed = kept.as_ref().and_then(|whole| now.since(whole.version));
            (now.table.clone(), now.version, changed)
        };
        let is_near = |changed: &Changed| changed.len() <= limits::WHOLE_BEHIND;
        let (whole, changed) = match (kept.as_ref(), changed.filter(is_near)) {
            (Some(whole), Some(changed)) => (whole.clone(), changed),
            _ => {
                let whole = Arc::new(Whole::of(&table, version));
                *kept = Some(whole.clone());
                (whole, Changed::default())
            }
        };
        drop(kept);
        let messages = whole.messages(&table, node, self.instance, version, &changed)?;
        Ok(News { version, messages })
    }

    pub fn instance(&self) -> u64 {
        self.instance
    }
}

impl Now {
    /// `None` if it is too long ago, or never was.
    fn since(&self, known: u64) -> Option<Changed> {
        if known == self.version {
            return Some(Changed::default());
        }
        let first = self.changes.iter().position(|change| change.from == known)?;
        let mut sum = Changed::default();
        self.changes.range(first..).for_each(|change| sum.add(&change.changed));
        Some(sum)
    }
}
