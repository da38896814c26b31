//! One holder at most, whatever becomes of messages, answers and clocks.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn record(holder: &str, version: u64) -> Record {
    Record { holder: holder.to_owned(), version: version.to_string(), transitions: 0 }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_lease_that_nobody_holds_is_taken_at_once() {
    let mut election = Election::new("a".to_owned());
    let now = Instant::now();
    assert_eq!(election.look(None, now), Act::Take);
    assert_eq!(election.look(Some(&record("", 1)), now), Act::Take);
    assert!(!election.is_holder(now), "to want it is not to have it");
    election.won(now);
    assert!(election.is_holder(now));
}

#[test]
fn a_lease_that_is_not_renewed_is_taken_when_it_ends_by_who_has_watched_it() {
    let mut election = Election::new("b".to_owned());
    let now = Instant::now();
    assert_eq!(election.look(Some(&record("a", 1)), now), Act::Wait, "however old it is");
    assert_eq!(election.look(Some(&record("a", 2)), now + seconds(14)), Act::Wait);
    assert_eq!(election.look(Some(&record("a", 2)), now + seconds(28)), Act::Wait);
    assert_eq!(election.look(Some(&record("a", 2)), now + seconds(29)), Act::Take);
}

#[test]
fn a_holder_counts_from_before_it_asked_and_ends_before_others_begin() {
    let mut election = Election::new("a".to_owned());
    let asked = Instant::now();
    election.won(asked);
    assert!(election.is_holder(asked + limits::LEASE_RENEWED_WITHIN - seconds(1)));
    assert!(!election.is_holder(asked + limits::LEASE_RENEWED_WITHIN));
    assert!(limits::LEASE_RENEWED_WITHIN + seconds(5) <= limits::LEASE);
    election.won(asked + seconds(3));
    election.won(asked + seconds(1));
    assert_eq!(election.held_until(), Some(asked + seconds(3) + limits::LEASE_RENEWED_WITHIN));
}

#[test]
fn whoever_sees_anothers_name_holds_nothing() {
    let mut election = Election::new("a".to_owned());
    let now = Instant::now();
    election.won(now);
    assert_eq!(election.look(Some(&record("b", 7)), now), Act::Wait);
    assert!(!election.is_holder(now));
    election.won(now);
    election.step_down();
    assert!(!election.is_holder(now));
}

/// What happens to one of several.
#[derive(Debug, Clone)]
enum Step {
    Read,
    /// What was read arrives.
    Arrive,
    /// What it has sent reaches the server.
    Reach,
    /// The answer arrives, or is lost.
    Answer(bool),
    Release,
    /// It begins anew, and remembers nothing; what it has sent is still on its way.
    Restart,
}

#[derive(Debug)]
struct Replica {
    election: Election,
    /// How far its clock is from others', and how much faster it is, in thousandths.
    offset: Duration,
    rate: u32,
    read: Option<Option<Record>>,
    sent: Option<(Option<Record>, Instant)>,
    answer: Option<(bool, Instant)>,
    lives: u32,
}

impl Replica {
    fn now(&self, start: Instant, passed: Duration) -> Instant {
        start + self.offset + passed * (1000 + self.rate) / 1000
    }
}

struct Server {
    record: Option<Record>,
    version: u64,
}

impl Server {
    fn write(&mut self, holder: &str, over: Option<&Record>) -> bool {
        if self.record.as_ref() != over {
            return false;
        }
        self.version += 1;
        self.record = Some(record(holder, self.version));
        true
    }
}

fn happen(server: &mut Server, replica: &mut Replica, step: &Step, now: Instant, number: usize) {
    match step {
        Step::Read => replica.read = Some(server.record.clone()),
        Step::Arrive => {
            let Some(read) = replica.read.take() else { return };
            if replica.election.look(read.as_ref(), now) == Act::Take && replica.sent.is_none() {
                replica.sent = Some((read, now));
            }
        }
        Step::Reach => {
            let Some((over, asked)) = replica.sent.take() else { return };
            let taken = server.write(replica.election.me(), over.as_ref());
            replica.answer = Some((taken, asked));
        }
        Step::Answer(arrives) => {
            if let Some((true, asked)) = replica.answer.take().filter(|_| *arrives) {
                replica.election.won(asked);
            }
        }
        Step::Release => {
            if replica.election.is_holder(now) {
                replica.election.step_down();
                let over = server.record.clone();
                server.write("", over.as_ref());
            }
        }
        Step::Restart => {
            replica.lives += 1;
            replica.election = Election::new(format!("{number}.{}", replica.lives));
            (replica.read, replica.answer) = (None, None);
            // It was sent in the name of the one that is no more, and would be its word.
            replica.sent = None;
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step, u64)>> {
    let step = prop_oneof![
        4 => Just(Step::Read),
        4 => Just(Step::Arrive),
        4 => Just(Step::Reach),
        4 => prop::bool::weighted(0.8).prop_map(Step::Answer),
        1 => Just(Step::Release),
        1 => Just(Step::Restart),
    ];
    // Mostly soon after each other, now and then with a pause.
    let pause = prop_oneof![8 => 0_u64..800, 1 => 0_u64..20_000];
    prop::collection::vec((0_usize..3, step, pause), 1..400)
}

proptest! {
    /// Messages are late, lost and reordered; machines pause; clocks are apart and run up to a tenth
    /// faster than others.
    #[test]
    fn there_are_never_two_holders(
        steps in steps(),
        clocks in prop::collection::vec((0_u64..1_000_000, 0_u32..100), 3),
    ) {
        let (start, mut passed) = (Instant::now(), Duration::ZERO);
        let mut server = Server { record: None, version: 0 };
        let mut replicas: Vec<_> = clocks.iter().enumerate().map(|(number, (offset, rate))| Replica {
            election: Election::new(format!("{number}.0")),
            offset: Duration::from_millis(*offset),
            rate: *rate,
            read: None,
            sent: None,
            answer: None,
            lives: 0,
        }).collect();
        for (number, step, pause) in &steps {
            passed += Duration::from_millis(*pause);
            let now = replicas[*number].now(start, passed);
            happen(&mut server, &mut replicas[*number], step, now, *number);
            let holds = |one: &&Replica| one.election.is_holder(one.now(start, passed));
            let holders: Vec<_> = replicas.iter().filter(holds).map(|one| one.election.me()).collect();
            prop_assert!(holders.len() <= 1, "{holders:?} at {passed:?}");
        }
    }

    /// Where nothing is lost, somebody holds it in the end.
    #[test]
    fn somebody_holds_it_in_the_end(steps in steps()) {
        let (start, mut passed) = (Instant::now(), Duration::ZERO);
        let mut server = Server { record: None, version: 0 };
        let mut last = Replica {
            election: Election::new("z".to_owned()), offset: Duration::ZERO, rate: 0,
            read: None, sent: None, answer: None, lives: 0,
        };
        let mut other = Replica {
            election: Election::new("a".to_owned()), offset: Duration::ZERO, rate: 0,
            read: None, sent: None, answer: None, lives: 0,
        };
        for (_, step, pause) in &steps {
            passed += Duration::from_millis(*pause);
            happen(&mut server, &mut other, step, start + passed, 0);
        }
        // It is never heard of again.
        for _ in 0..=limits::LEASE.as_secs() + 1 {
            passed += seconds(1);
            for step in [Step::Read, Step::Arrive, Step::Reach, Step::Answer(true)] {
                happen(&mut server, &mut last, &step, start + passed, 1);
            }
        }
        prop_assert!(last.election.is_holder(start + passed));
    }
}
