//! The order of a run: what changes on the machine while it runs must hit all subjects alike.

use crate::{
    row::{Row, Turn},
    subject::Subject,
};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    pub row: &'static Row,
    pub subject: Subject,
    pub round: u32,
}

impl Step {
    /// Two builds under the same load have it at the same time, but where a row looks at how long it
    /// lasts.
    pub fn is_together_with(&self, next: &Step) -> bool {
        let is_same = (self.row, self.round) == (next.row, next.round);
        let are_builds = [self, next].iter().all(|step| step.subject.has_agents());
        is_same && are_builds && self.row.turn == Turn::EachRound
    }
}

/// Subjects take turns within each row, and each round another one begins.
pub fn steps(rows: &[&'static Row], subjects: &[Subject], rounds: u32) -> Vec<Step> {
    let once = [(Turn::Before, 0)];
    let repeated = (0..rounds).map(|round| (Turn::EachRound, round));
    let last = [(Turn::Long, 0), (Turn::After, 0)];
    let mut steps = Vec::new();
    for (turn, round) in once.into_iter().chain(repeated).chain(last) {
        let due = rows.iter().enumerate().filter(|(_, row)| row.turn == turn);
        for (position, row) in due {
            let order = rotated(row, subjects, position + round as usize);
            steps.extend(order.into_iter().map(|subject| Step { row, subject, round }));
        }
    }
    steps
}

fn rotated(row: &Row, subjects: &[Subject], by: usize) -> Vec<Subject> {
    let mut order: Vec<_> =
        subjects.iter().copied().filter(|subject| row.measures(*subject)).collect();
    order.sort();
    if !order.is_empty() {
        let by = by % order.len();
        order.rotate_left(by);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{ROWS, find};

    #[test]
    fn every_subject_is_measured_in_every_round_and_begins_in_its_turn() {
        let row = find("bulk-1").unwrap();
        let steps = steps(&[row], &Subject::ALL, 3);
        assert_eq!(steps.len(), 9);
        let mut first: Vec<_> = steps.chunks(3).map(|round| round[0].subject).collect();
        first.sort();
        assert_eq!(first, [Subject::Direct, Subject::Haproxy, Subject::Martlet]);
        for round in steps.chunks(3) {
            let mut subjects: Vec<_> = round.iter().map(|step| step.subject).collect();
            subjects.sort();
            assert_eq!(subjects, [Subject::Direct, Subject::Haproxy, Subject::Martlet]);
        }
    }

    #[test]
    fn another_build_takes_turns_with_ours_wherever_that_is_measured() {
        let rows: Vec<_> = ROWS.iter().collect();
        let steps = steps(&rows, &[Subject::Earlier, Subject::Martlet], 2);
        let of = |subject| {
            steps.iter().filter(move |step| step.subject == subject).map(|step| step.row.name)
        };
        let (mut ours, mut others): (Vec<_>, Vec<_>) =
            (of(Subject::Martlet).collect(), of(Subject::Earlier).collect());
        ours.sort();
        others.sort();
        assert_eq!(ours, others);
        assert!(!ours.is_empty());
    }

    #[test]
    fn two_builds_have_a_load_at_the_same_time_and_all_else_is_alone() {
        let rows: Vec<_> = ROWS.iter().collect();
        let steps = steps(&rows, &[Subject::Earlier, Subject::Martlet], 2);
        let together: Vec<_> = steps.chunk_by(Step::is_together_with).collect();
        assert!(together.iter().all(|steps| match steps {
            [one] => one.row.turn != Turn::EachRound,
            [one, other] => one.subject != other.subject && one.row.turn == Turn::EachRound,
            _ => false,
        }));
        assert!(together.iter().any(|steps| steps.len() == 2));
    }

    #[test]
    fn long_rows_run_once_and_memory_comes_first() {
        let rows: Vec<_> = ROWS.iter().collect();
        let steps = steps(&rows, &Subject::ALL, 5);
        assert_eq!(steps[0].row.name, "idle");
        assert_eq!(steps.iter().filter(|step| step.row.name == "long-client").count(), 3);
        assert_eq!(steps.iter().filter(|step| step.row.name == "outside").count(), 10);
    }

    #[test]
    fn subjects_that_are_not_wanted_are_left_out() {
        let rows: Vec<_> = ROWS.iter().collect();
        let steps = steps(&rows, &[Subject::Direct], 2);
        assert!(steps.iter().all(|step| step.subject == Subject::Direct));
        assert!(steps.iter().all(|step| step.row.name != "crowd"));
    }
}
