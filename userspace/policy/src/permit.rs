//! The proof that policy allowed a connection.

/// Only this crate can make one, so nothing is relayed that was not decided here.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    policy: Option<String>,
}

impl Permit {
    pub(crate) fn new(policy: Option<String>) -> Self {
        Self { policy }
    }

    /// The policy and rule that allowed it; `None` if no policy selects the called workload.
    pub fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }
}
