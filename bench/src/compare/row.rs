//! What is done to each subject: one load, or one look at memory or at a kernel program.

use crate::{
    settings::Settings,
    show::number,
    subject::Subject::{self, Direct, Earlier, Haproxy, Martlet, Outside},
};

#[derive(Debug, PartialEq)]
pub struct Row {
    pub name: &'static str,
    pub title: &'static str,
    pub work: Work,
    pub turn: Turn,
    pub subjects: &'static [Subject],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Send as much as goes over so many connections.
    Bulk(usize),
    /// 64 bytes there and back, over and over.
    RoundTrips(usize),
    /// Connect, one round trip, close; so many at a time.
    Connections(usize, Closer),
    /// Connections that stay open and silent.
    Idle(Crowd),
    /// Connections from an enrolled pod to a destination that is not in the mesh.
    ConnectHook,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closer {
    Client,
    Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crowd {
    Small,
    Large,
}

/// When a row has its turn. Memory is looked at before load has left its traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Before,
    EachRound,
    Long,
    After,
}

const ALL_BUT_OUTSIDE: &[Subject] = &[Direct, Haproxy, Martlet];

pub const ROWS: &[Row] = &[
    Row {
        name: "idle",
        title: "open connections",
        work: Work::Idle(Crowd::Small),
        turn: Turn::Before,
        subjects: &[Haproxy, Martlet],
    },
    Row {
        name: "bulk-1",
        title: "bulk, 1 connection",
        work: Work::Bulk(1),
        turn: Turn::EachRound,
        subjects: ALL_BUT_OUTSIDE,
    },
    Row {
        name: "bulk-8",
        title: "bulk, 8 connections",
        work: Work::Bulk(8),
        turn: Turn::EachRound,
        subjects: ALL_BUT_OUTSIDE,
    },
    Row {
        name: "trips-1",
        title: "round trips, 1 connection",
        work: Work::RoundTrips(1),
        turn: Turn::EachRound,
        subjects: ALL_BUT_OUTSIDE,
    },
    Row {
        name: "trips-32",
        title: "round trips, 32 connections",
        work: Work::RoundTrips(32),
        turn: Turn::EachRound,
        subjects: ALL_BUT_OUTSIDE,
    },
    Row {
        name: "connections-1",
        title: "connections, 1 at a time",
        work: Work::Connections(1, Closer::Client),
        turn: Turn::EachRound,
        subjects: ALL_BUT_OUTSIDE,
    },
    Row {
        name: "connections-32",
        title: "connections, 32 at a time",
        work: Work::Connections(32, Closer::Client),
        turn: Turn::EachRound,
        subjects: ALL_BUT_OUTSIDE,
    },
    Row {
        name: "outside",
        title: "the same outside the mesh, beside direct",
        work: Work::Connections(1, Closer::Client),
        turn: Turn::EachRound,
        subjects: &[Direct, Outside],
    },
    Row {
        name: "long-client",
        title: "connections, 32 at a time, client closes first",
        work: Work::Connections(32, Closer::Client),
        turn: Turn::Long,
        subjects: ALL_BUT_OUTSIDE,
    },
    Row {
        name: "long-server",
        title: "connections, 32 at a time, server closes first",
        work: Work::Connections(32, Closer::Server),
        turn: Turn::Long,
        subjects: ALL_BUT_OUTSIDE,
    },
    Row {
        name: "hook",
        title: "connect hook, destination not ours",
        work: Work::ConnectHook,
        turn: Turn::After,
        subjects: &[Martlet],
    },
    Row {
        name: "crowd",
        title: "open connections",
        work: Work::Idle(Crowd::Large),
        turn: Turn::After,
        subjects: &[Haproxy, Martlet],
    },
];

pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

impl Row {
    /// Another build of ours is measured wherever ours is.
    pub fn measures(&self, subject: Subject) -> bool {
        let subject = if subject == Earlier { Martlet } else { subject };
        self.subjects.contains(&subject)
    }

    /// What a reader is told.
    pub fn describe(&self, settings: &Settings) -> String {
        let title = self.title;
        match (self.work, self.turn) {
            (Work::Idle(Crowd::Small), _) => {
                format!("{} {title}", number(settings.few_connections as f64))
            }
            (Work::Idle(Crowd::Large), _) => {
                format!("{} {title}", number(settings.many_connections as f64))
            }
            (_, Turn::Long) => format!("{title}, {} s", settings.long_seconds),
            _ => title.to_owned(),
        }
    }
}
