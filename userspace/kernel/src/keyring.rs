//! Secrets that outlive the process, in the kernel's memory: never swapped, in no file, gone with the
//! machine, and gone at their time (keyrings(7), "user" keys).
//!
//! They are in the keyring of the agent's user, and only that user's processes can read them: those
//! that can read the agent's memory too. docs/privileges.md says more.

use std::{path::Path, time::Duration};

use linux_keyutils::{KeyError, KeyPermissionsBuilder, KeyRing, KeyRingIdentifier, Permission};
use martlet_model::Label;
use zeroize::Zeroizing;

use crate::KernelError;

/// What one agent keeps, told from what others of the same user keep by the prefix of its names.
#[derive(Debug, Clone)]
pub struct Keyring {
    prefix: String,
}

/// More than a "user" key can hold: `user_preparse` in
/// <https://github.com/torvalds/linux/blob/v6.12/security/keys/user_defined.c>.
const MAX_BYTES: usize = 32_768;
/// More than an agent has workloads.
const MAX_NAMES: usize = 65_536;

impl Keyring {
    /// Of the agent of a node whose programs are pinned at `pin`. Several nodes may be on one kernel,
    /// each with a file system for pins of its own, and the keyring is the same for all.
    pub fn of(pin: &Path, node: &Label) -> Self {
        Self { prefix: format!("{}{node}:", Self::of_all(pin).prefix) }
    }

    /// Of all agents whose programs are pinned at `pin`.
    pub fn of_all(pin: &Path) -> Self {
        Self { prefix: format!("martlet:{}:", pin.display()) }
    }

    /// Keeps a secret under a name for so long; one that was there is replaced.
    pub fn keep(&self, name: &str, secret: &[u8], time: Duration) -> Result<(), KernelError> {
        let seconds = usize::try_from(time.as_secs()).unwrap_or(usize::MAX).max(1);
        let kept = ring().and_then(|ring| {
            let key = ring.add_key(&self.full(name), secret)?;
            // Nobody may do more with it than whoever finds it in this keyring.
            let owner = KeyPermissionsBuilder::builder().posessor(Permission::ALL);
            key.set_timeout(seconds)?;
            key.set_perms(owner.build())
        });
        kept.map_err(KernelError::keyring("keeping a secret"))
    }

    /// `None` if it was never kept, or its time is over.
    pub fn find(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, KernelError> {
        let found = ring().and_then(|ring| {
            let key = ring.search(&self.full(name))?;
            let mut bytes = Zeroizing::new(vec![0; MAX_BYTES]);
            let length = key.read(&mut *bytes)?;
            bytes.truncate(length);
            Ok(bytes)
        });
        match found {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_absence(error) => Ok(None),
            Err(error) => Err(KernelError::keyring("finding a secret")(error)),
        }
    }

    /// Forgets a secret, if there is one.
    pub fn forget(&self, name: &str) -> Result<(), KernelError> {
        let forgotten = ring().and_then(|ring| ring.search(&self.full(name))?.invalidate());
        match forgotten {
            Err(error) if !is_absence(error) => {
                Err(KernelError::keyring("forgetting a secret")(error))
            }
            _ => Ok(()),
        }
    }

    /// What is kept.
    pub fn names(&self) -> Result<Vec<String>, KernelError> {
        let links = ring().and_then(|ring| ring.get_links(MAX_NAMES));
        let links = links.map_err(KernelError::keyring("looking through the keyring"))?;
        // Others come and go meanwhile.
        let about = links.iter().filter_map(|link| link.as_key()?.metadata().ok());
        let named = about.filter_map(|about| {
            about.get_description().strip_prefix(&self.prefix).map(str::to_owned)
        });
        Ok(named.collect())
    }

    /// Forgets all but these.
    pub fn forget_all_but(&self, is_wanted: impl Fn(&str) -> bool) -> Result<(), KernelError> {
        let names = self.names()?.into_iter();
        names.filter(|name| !is_wanted(name)).try_for_each(|name| self.forget(&name))
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// The user's, possessed by this thread: a service manager may have given the process a session that
/// does not lead to it.
fn ring() -> Result<KeyRing, KeyError> {
    let ring = KeyRing::from_special_id(KeyRingIdentifier::User, false)?;
    KeyRing::from_special_id(KeyRingIdentifier::Thread, true)?.link_keyring(ring)?;
    Ok(ring)
}

fn is_absence(error: KeyError) -> bool {
    matches!(error, KeyError::KeyDoesNotExist | KeyError::KeyExpired | KeyError::KeyRevoked)
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, thread};

    use super::*;

    fn pin() -> PathBuf {
        PathBuf::from(format!("/test/{}", std::process::id()))
    }

    /// Of a node; they all have the same pins.
    fn keyring(name: &str) -> Keyring {
        Keyring::of(&pin(), &name.parse().unwrap())
    }

    #[test]
    fn a_secret_is_found_by_its_name_in_every_thread_and_by_no_other_agent() {
        let mine = keyring("mine");
        mine.keep("shop/web", b"secret", Duration::from_secs(60)).unwrap();
        let same = mine.clone();
        let found = thread::spawn(move || same.find("shop/web").unwrap()).join().unwrap();
        assert_eq!(found.unwrap().as_slice(), b"secret");
        assert_eq!(mine.find("shop/cart").unwrap(), None);
        assert_eq!(keyring("other").find("shop/web").unwrap(), None);
        mine.keep("shop/web", b"another", Duration::from_secs(60)).unwrap();
        assert_eq!(mine.find("shop/web").unwrap().unwrap().as_slice(), b"another");
        mine.forget("shop/web").unwrap();
        assert_eq!(mine.find("shop/web").unwrap(), None);
        mine.forget("shop/web").unwrap();
    }

    #[test]
    fn a_secret_is_gone_at_its_time_and_can_be_kept_again() {
        let mine = keyring("short");
        mine.keep("shop/web", b"secret", Duration::ZERO).unwrap();
        assert!(mine.find("shop/web").unwrap().is_some());
        let began = std::time::Instant::now();
        while mine.find("shop/web").unwrap().is_some() {
            assert!(began.elapsed() < Duration::from_secs(20), "it is still there");
            thread::yield_now();
        }
        mine.keep("shop/web", b"another", Duration::from_secs(60)).unwrap();
        assert_eq!(mine.find("shop/web").unwrap().unwrap().as_slice(), b"another");
        mine.forget("shop/web").unwrap();
    }

    #[test]
    fn what_is_not_wanted_any_more_is_forgotten_and_nothing_of_others() {
        let (mine, other) = (keyring("few"), keyring("others"));
        for name in ["a", "b"] {
            mine.keep(name, b"secret", Duration::from_secs(60)).unwrap();
            other.keep(name, b"secret", Duration::from_secs(60)).unwrap();
        }
        mine.forget_all_but(|name| name == "a").unwrap();
        assert!(mine.find("a").unwrap().is_some() && mine.find("b").unwrap().is_none());
        assert!(other.find("b").unwrap().is_some());
        assert!(Keyring::of_all(&pin()).names().unwrap().contains(&"others:a".to_owned()));
        for keyring in [mine, other] {
            keyring.forget_all_but(|_| false).unwrap();
            assert!(keyring.find("a").unwrap().is_none());
        }
    }
}
