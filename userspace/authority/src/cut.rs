//! Where a process may die: before any system call that changes a file, and within a write.
//!
//! Tests let it die at each of these points in turn; otherwise nothing is here.

use std::io;

#[cfg(test)]
thread_local! {
    /// How many more steps the process lives.
    static LEFT: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
}

/// Before a system call.
#[cfg(not(test))]
pub fn here() -> io::Result<()> {
    Ok(())
}

/// Around a write, of which a part may be on the disk.
#[cfg(not(test))]
pub fn within(bytes: &[u8], write: impl FnOnce(&[u8]) -> io::Result<()>) -> io::Result<()> {
    write(bytes)
}

#[cfg(test)]
pub fn here() -> io::Result<()> {
    match LEFT.get() {
        None => Ok(()),
        Some(0) => Err(io::Error::other("the process is dead")),
        Some(left) => {
            LEFT.set(Some(left - 1));
            Ok(())
        }
    }
}

#[cfg(test)]
pub fn within(bytes: &[u8], write: impl FnOnce(&[u8]) -> io::Result<()>) -> io::Result<()> {
    match here() {
        Ok(()) => write(bytes),
        Err(dead) => write(&bytes[..bytes.len() / 2]).and(Err(dead)),
    }
}

/// Runs something that dies after so many steps; every later one fails, too. Whether it died.
#[cfg(test)]
pub fn after(steps: u32, run: impl FnOnce()) -> bool {
    LEFT.set(Some(steps));
    run();
    LEFT.replace(None) == Some(0)
}
