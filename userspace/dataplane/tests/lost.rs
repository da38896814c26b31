//! Idle lanes whose far end has gone without a word, as with a network namespace that is removed.

#![allow(clippy::unwrap_used)]

mod world;

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use martlet_model::Closed;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

use crate::world::{World, greet, is_reset, listener, read_all, until, warm, world};

/// A way to web that can end in nothing: what goes over it is then swallowed, and nothing comes back.
struct Road {
    ends: watch::Sender<bool>,
}

impl Road {
    async fn to_web(world: &World) -> Self {
        let (entry, at) = listener().await;
        world.roads_here.to.lock().unwrap().insert("10.0.0.3:8080".parse().unwrap(), at);
        let (ends, ended) = watch::channel(false);
        let gate = world.gate;
        tokio::spawn(async move {
            while let Ok((near, _)) = entry.accept().await {
                let far = TcpStream::connect(gate).await.unwrap();
                let ((near_read, near_write), (far_read, far_write)) =
                    (near.into_split(), far.into_split());
                tokio::spawn(carry(near_read, far_write, ended.clone()));
                tokio::spawn(carry(far_read, near_write, ended.clone()));
            }
        });
        Self { ends }
    }

    /// Who has the address now is reached by new connections.
    fn end(self, world: &World) {
        self.ends.send(true).unwrap();
        world.roads_here.to.lock().unwrap().clear();
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, ended: watch::Receiver<bool>) {
    let mut buffer = [0; 4096];
    while let Ok(count) = from.read(&mut buffer).await {
        let passes = !*ended.borrow();
        if count == 0 || (passes && to.write_all(&buffer[..count]).await.is_err()) {
            return;
        }
    }
}

/// Until the lanes are asked before they are used.
async fn age() {
    let since = Instant::now();
    until("the lanes are old enough", || since.elapsed() > Duration::from_millis(150)).await;
}

fn handshakes(world: &World) -> u64 {
    world.here.stats().handshakes_originated.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_connection_never_goes_over_an_idle_lane_that_leads_nowhere() {
    let mut world = world().await;
    let road = Road::to_web(&world).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(world.open().await);
    }
    for (mut caller, callee) in open {
        caller.shutdown().await.unwrap();
        drop(callee);
        read_all(&mut caller).await.unwrap();
        world.records().await;
    }
    until("three lanes are idle", || world.here.idle_lanes() == 3).await;
    road.end(&world);
    age().await;
    let (mut caller, mut callee) = world.open().await;
    greet(&mut caller, &mut callee).await;
    assert_eq!((handshakes(&world), world.here.idle_lanes()), (4, 0), "all went the same way");
    caller.shutdown().await.unwrap();
    drop(callee);
    read_all(&mut caller).await.unwrap();
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::Finished, Closed::Finished));
    assert!(!here.warm && !there.warm);
}

#[tokio::test]
async fn a_lane_that_answers_is_used_however_long_it_was_idle() {
    let mut world = world().await;
    let _road = Road::to_web(&world).await;
    for round in 0..3 {
        let (mut caller, mut callee) = world.open().await;
        greet(&mut caller, &mut callee).await;
        caller.shutdown().await.unwrap();
        drop(callee);
        read_all(&mut caller).await.unwrap();
        let (here, there) = world.records().await;
        assert_eq!((here.warm, there.warm), (round > 0, round > 0), "round {round}");
        until("the lane is idle", || world.here.idle_lanes() == 1).await;
        age().await;
    }
    assert_eq!(handshakes(&world), 1);
}

#[tokio::test]
async fn where_nobody_is_reached_any_more_the_connection_is_refused_and_does_not_hang() {
    let mut world = world().await;
    let road = Road::to_web(&world).await;
    warm(&mut world).await;
    road.end(&world);
    let (nobody, at) = listener().await;
    drop(nobody);
    world.roads_here.to.lock().unwrap().insert("10.0.0.3:8080".parse().unwrap(), at);
    age().await;
    is_reset(&mut world.call().await).await;
    assert_eq!(world.record_here().await.closed, Closed::DialRefused);
}
