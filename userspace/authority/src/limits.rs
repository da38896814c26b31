//! Every bound and deadline of the authority.

use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

/// How long a leaf lives unless the request says less.
pub const LEAF_LIFETIME: Duration = DAY;

/// An issuer that is stolen speaks for everybody of its trust domain for this long at most.
pub const ISSUER_LIFETIME: Duration = Duration::from_secs(7 * DAY.as_secs());

pub const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * DAY.as_secs());

/// What the owner of an offline root may sign at most if he says that he means it.
pub const INSTALLED_ISSUER_LIFETIME: Duration = Duration::from_secs(366 * DAY.as_secs());

/// How often other trust domains should look for new roots of ours.
pub const REFRESH_HINT: Duration = Duration::from_secs(300);

/// For so long a new root is shown before it issues, if other domains are trusted: time for them to look
/// twice, each a tenth later than they should.
pub const SHOWN: Duration = Duration::from_secs(2 * 330);

/// Clocks of nodes differ a little; a certificate is good at once on all of them.
pub const BACKDATED: Duration = Duration::from_secs(60);

/// A request with a P-384 key and a few extensions that nobody reads has less than 2 KiB.
pub const CSR_BYTES: usize = 8 * 1024;

/// What may be asked for at once: the pods of a node that starts, twice over.
pub const BATCH: usize = 512;

/// How many certificates a node may ask for at once, and then each second. A node that starts asks
/// for 250, and for as many once more if its answers were lost.
pub const NODE_BURST: u32 = 1024;
pub const NODE_PER_SECOND: u32 = 32;

/// Of refusals for asking too much, one line of the log is written in this time for each node.
pub const SUMMED: Duration = Duration::from_secs(10);

/// How many nodes are told apart when asks are counted.
pub const COUNTED_NODES: usize = 100_000;

/// How long an attestor may take for all that is asked at once: it looks into memory, or asks an API
/// server. Less than the half minute for which a node waits.
pub const ATTESTATION: Duration = Duration::from_secs(15);

/// One file of the log is at most about this long.
pub const LOG_FILE_BYTES: u64 = 16 << 20;

/// How long a line of the log may be when it is read.
pub const LOG_LINE_BYTES: usize = 16 << 10;

/// How many things that are wrong with a log are listed.
pub const LOG_PROBLEMS: usize = 20;

/// What a file of certificates or a key may hold.
pub const FILE_BYTES: u64 = 1 << 20;

/// How long a command may take that signs or decrypts: it may ask a service far away.
pub const COMMAND: Duration = Duration::from_secs(20);

/// How much of a command's answer is read: a key or a signature.
pub const COMMAND_BYTES: usize = 64 << 10;

/// How much of a command's complaint is repeated.
pub const COMPLAINT_BYTES: usize = 400;
