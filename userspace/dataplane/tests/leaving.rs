//! An agent that has handed over: what it took is carried to its end, and its lanes are left without
//! anything being lost.

#![allow(clippy::unwrap_used)]

mod world;

use std::{sync::atomic::Ordering, time::Duration};

use martlet_model::Closed;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use crate::world::{PATIENCE, World, greet, is_reset, read_all, until, warm, world};

const ROUNDS: usize = 200;

/// One connection, and its answer.
async fn exchange(world: &World) -> std::io::Result<()> {
    let mut caller = TcpStream::connect(world.entrance).await?;
    caller.write_all(b"hello").await?;
    caller.shutdown().await?;
    let answer = read_all(&mut caller).await?;
    assert_eq!(answer, b"hello");
    Ok(())
}

async fn echo(world: &World) {
    loop {
        let (mut callee, _) = world.application.accept().await.unwrap();
        tokio::spawn(async move {
            let (mut read, mut write) = callee.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
    }
}

#[tokio::test]
async fn callers_that_open_one_connection_after_the_other_lose_none_to_a_callee_that_leaves() {
    let world = world().await;
    let calling = async {
        for _ in 0..ROUNDS {
            exchange(&world).await.unwrap();
        }
        let before = world.here.stats().handshakes_originated.load(Ordering::Relaxed);
        let leaving = tokio::spawn({
            let there = world.there.clone();
            async move { there.leave(PATIENCE).await }
        });
        for _ in 0..ROUNDS {
            exchange(&world).await.unwrap();
        }
        let after = world.here.stats().handshakes_originated.load(Ordering::Relaxed);
        assert!(after - before + 1 >= ROUNDS as u64, "a lane is left with its connection");
        until("no lane is left", || world.here.idle_lanes() == 0).await;
        timeout(PATIENCE, leaving).await.unwrap().unwrap();
    };
    tokio::select! {
        () = calling => {}
        () = echo(&world) => {}
    }
}

#[tokio::test]
async fn what_is_open_goes_on_at_either_end_that_leaves_and_idle_lanes_do_not_stay() {
    let mut world = world().await;
    warm(&mut world).await;
    let (mut caller, mut callee) = world.open().await;
    greet(&mut caller, &mut callee).await;
    let leaving = [world.here.clone(), world.there.clone()]
        .map(|end| tokio::spawn(async move { end.leave(PATIENCE).await }));
    until("both are leaving", || world.here.idle_lanes() == 0).await;
    for _ in 0..3 {
        greet(&mut caller, &mut callee).await;
    }
    assert!(leaving.iter().all(|end| !end.is_finished()));
    caller.shutdown().await.unwrap();
    callee.write_all(b"bye").await.unwrap();
    drop(callee);
    assert_eq!(read_all(&mut caller).await.unwrap(), b"bye");
    for end in leaving {
        timeout(PATIENCE, end).await.unwrap().unwrap();
    }
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::Finished, Closed::Finished));
}

#[tokio::test]
async fn an_idle_lane_is_left_when_it_was_quiet_for_long_enough() {
    let mut world = world().await;
    warm(&mut world).await;
    let leaving = tokio::spawn({
        let there = world.there.clone();
        async move { there.leave(PATIENCE).await }
    });
    until("the lane has left", || world.here.idle_lanes() == 0).await;
    timeout(PATIENCE, leaving).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_open_after_the_patience_is_ended() {
    let mut world = world().await;
    let (mut caller, mut callee) = world.open().await;
    greet(&mut caller, &mut callee).await;
    world.there.leave(Duration::from_millis(10)).await;
    is_reset(&mut caller).await;
    is_reset(&mut callee).await;
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::Draining, Closed::Draining));
}
