//! A server and clients over loopback, as controller and agents are.

mod arrivals;
mod flood;
mod following;
mod issuing;
mod joining;
mod standings;
mod strangers;
mod world;
