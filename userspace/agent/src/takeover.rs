//! An agent takes over from one that lives, so that nothing is refused or reset meanwhile.
//!
//! ```text
//!   successor                                        predecessor
//!       │ Ask: may I?  ────────────────────────────────▶ │ serves
//!       │ ◀───────────────────────────────── Yes, No, or Layout
//!       │ loads its programs                             │
//!       │ Take  ───────────────────────────────────────▶ │ serves, and changes nothing in the kernel
//!       │ ◀─────────────────────── Handed, with listeners, sign of life, hold on the pins
//!       │ attaches, enrolls                              │
//!       │ Ready ───────────────────────────────────────▶ │ accepts no more: it has handed over
//!       │ ◀───────────────────────────── Yours, or TakenBack if that took too long
//!       │ accepts                                        │ carries what is open to its end
//!       │ ◀───────────────────────────────────── Draining, again and again, until its end
//! ```
//!
//! Until it has heard Ready the predecessor goes on as before if the other is gone; what that has
//! changed is put back as if somebody else had changed it. A predecessor says a last word before it
//! closes, so that an end without one is its death: the successor goes on then, since it has all that
//! was handed over.
//!
//! | file | what it does |
//! |---|---|
//! | `channel` | words and descriptors, each with a deadline |
//! | `door` | where a living agent is asked |
//! | `given` | what it gives, in words |
//! | `predecessor` | asking |
//! | `way` | what an agent in a pod does with one that can't hand over |

mod channel;
mod door;
mod given;
mod predecessor;
mod way;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use martlet_kernel::layout;
use martlet_model::{Label, TrustDomain};
use martlet_standalone::NodeFile;
use serde::{Deserialize, Serialize};

use given::Stays;

pub use door::{Door, Successor};
pub use given::{Given, Received};
pub use predecessor::{Drains, Predecessor, Taking, find};
pub use way::{Way, make_way};

/// Who an agent says it is. Only one that is the same in all of it may take over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub node: Label,
    pub trust_domain: TrustDomain,
    /// Of the kernel's maps.
    pub layout: u32,
    pub pin: PathBuf,
    /// The file system that the pins are on: two containers may see two by one path.
    pub device: Option<u64>,
    /// What starts this agent again when it has ended, if that has a name, as a pod.
    pub instance: Option<String>,
    pub version: String,
}

impl Claim {
    pub fn of(file: &NodeFile, instance: Option<String>) -> Self {
        let pin = &file.settings.pin;
        Self {
            node: file.settings.name.clone(),
            trust_domain: file.trust_domain.clone(),
            layout: layout(),
            pin: pin.clone(),
            device: device(pin),
            instance,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// What the agent that has this claim answers to somebody else's. `before`: what it has taken over
    /// from itself.
    fn answer(&self, other: &Self, before: Option<&str>) -> Word {
        let device = device(&self.pin);
        let no = match () {
            () if other.node != self.node => format!("it is the agent of the node {}", self.node),
            () if other.trust_domain != self.trust_domain => {
                format!("it is of the trust domain {}", self.trust_domain)
            }
            () if other.pin != self.pin || other.device != device => {
                format!("its pins are elsewhere, in {}", self.pin.display())
            }
            () if other.instance.is_some() && other.instance.as_deref() == before => {
                "it has taken over from this very instance, which is to be removed".to_owned()
            }
            () if other.layout != self.layout => {
                return Word::Layout { layout: self.layout, instance: self.instance.clone() };
            }
            () => return Word::Yes { instance: self.instance.clone() },
        };
        Word::No(no)
    }
}

fn device(pin: &Path) -> Option<u64> {
    fs::metadata(pin).ok().map(|found| found.dev())
}

/// What the two say to each other. A word that one of them does not know ends the takeover.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Ask(Claim),
    Take(Claim),
    Yes {
        instance: Option<String>,
    },
    No(String),
    /// No: the maps have another layout, this one.
    Layout {
        layout: u32,
        instance: Option<String>,
    },
    /// With as many descriptors as there are names.
    Handed {
        pieces: Vec<String>,
        is_last: bool,
        /// Beside pieces that an agent does not know, it passes over these.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        stayings: Vec<Stays>,
    },
    Ready {
        /// Whether the successor serves the listener for metrics.
        metrics: bool,
    },
    Yours,
    TakenBack(String),
    /// How many connections are open still.
    Draining(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        Claim {
            node: "one".parse().unwrap(),
            trust_domain: "a.org".parse().unwrap(),
            layout: 3,
            pin: "/proc".into(),
            device: device(Path::new("/proc")),
            instance: Some("pod-1".to_owned()),
            version: "0".to_owned(),
        }
    }

    fn refused(other: Claim, before: Option<&str>) -> String {
        match claim().answer(&other, before) {
            Word::No(why) => why,
            word => panic!("{word:?}"),
        }
    }

    #[test]
    fn only_an_agent_of_the_same_node_domain_and_pins_may_take_over() {
        let other = Claim { version: "1".to_owned(), instance: None, ..claim() };
        let yes = Word::Yes { instance: Some("pod-1".to_owned()) };
        assert_eq!(claim().answer(&other, None), yes);
        let node = refused(Claim { node: "two".parse().unwrap(), ..claim() }, None);
        assert!(node.contains("the node one"), "{node}");
        let domain = Claim { trust_domain: "b.org".parse().unwrap(), ..claim() };
        assert!(refused(domain, None).contains("a.org"));
        for elsewhere in [
            Claim { pin: "/sys".into(), ..claim() },
            Claim { device: device(Path::new("/sys")), ..claim() },
            Claim { device: None, ..claim() },
        ] {
            assert!(refused(elsewhere, None).contains("/proc"));
        }
    }

    #[test]
    fn another_layout_is_said_to_be_one_and_nothing_else_is() {
        let layout = Word::Layout { layout: 3, instance: Some("pod-1".to_owned()) };
        assert_eq!(claim().answer(&Claim { layout: 4, ..claim() }, None), layout);
        let both = Claim { layout: 4, node: "two".parse().unwrap(), ..claim() };
        assert!(refused(both, None).contains("the node one"), "a stranger is not waited for");
    }

    #[test]
    fn whom_this_agent_has_taken_over_from_does_not_take_over_again() {
        let back = Claim { instance: Some("pod-0".to_owned()), ..claim() };
        assert!(refused(back.clone(), Some("pod-0")).contains("removed"));
        assert!(matches!(claim().answer(&back, Some("pod-2")), Word::Yes { .. }));
        let other = Claim { layout: 4, ..back };
        assert!(refused(other, Some("pod-0")).contains("removed"), "whatever its layout is");
        let nameless = Claim { instance: None, ..claim() };
        assert!(matches!(claim().answer(&nameless, None), Word::Yes { .. }));
    }
}
