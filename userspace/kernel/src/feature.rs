//! What Martlet needs of a kernel, each by its name. A missing one makes the agent not ready.

use std::{fmt, path::Path, str::FromStr};

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_map_supported, is_program_supported},
    util::KernelVersion,
};

use crate::{node::Settings, sockets};

macro_rules! features {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Feature { $($(#[$doc])* $variant,)* }

        impl Feature {
            pub const ALL: &'static [Feature] = &[$(Feature::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Feature::$variant => $name,)* }
            }
        }
    };
}

features! {
    /// 5.15 is the first long-term kernel where `sock_ops` can ask for the namespace's cookie.
    Version = "linux-5.15";
    Btf = "btf";
    CgroupV2 = "cgroup-v2";
    /// connect and getpeername hooks.
    SockAddr = "cgroup-sock-addr";
    SockOps = "sock-ops";
    SkLookup = "sk-lookup";
    SkStorage = "sk-storage";
    SockHash = "sockhash";
    /// Programs on interfaces: the guard.
    SchedCls = "sched-cls";
    /// Links to interfaces. Without it the guard is a filter of clsact.
    Tcx = "tcx";
    /// Ending the connections of others. Without it what is plaintext in a pod that becomes strict
    /// is refused, and not reset.
    SockDestroy = "sock-destroy";
}

/// A feature that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub feature: Feature,
    pub why: String,
}

impl Feature {
    /// Whether there is nothing else to do what it does.
    pub fn is_needed(self) -> bool {
        !matches!(self, Feature::Tcx | Feature::SockDestroy)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel feature {} is missing: {}", self.feature.as_str(), self.why)
    }
}

impl FromStr for Feature {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Feature::ALL.iter().copied().find(|feature| feature.as_str() == text);
        known.ok_or_else(|| {
            let names: Vec<_> = Feature::ALL.iter().map(|feature| feature.as_str()).collect();
            format!("unknown kernel feature {text:?}; known: {}", names.join(", "))
        })
    }
}

/// Asks the kernel for each feature; those in `settings.without` are taken as missing.
pub fn missing_features(settings: &Settings) -> Vec<Missing> {
    let probe =
        |feature: &Feature| why(settings, *feature).map(|why| Missing { feature: *feature, why });
    Feature::ALL.iter().filter(|feature| feature.is_needed()).filter_map(probe).collect()
}

pub(crate) fn has_feature(settings: &Settings, feature: Feature) -> bool {
    why(settings, feature).is_none()
}

fn why(settings: &Settings, feature: Feature) -> Option<String> {
    match settings.without.contains(&feature) {
        true => Some("masked by an option".to_owned()),
        false => why_missing(feature, &settings.cgroup),
    }
}

fn why_missing(feature: Feature, cgroup: &Path) -> Option<String> {
    match feature {
        Feature::Version => older_than(KernelVersion::new(5, 15, 0)),
        Feature::Btf => {
            let path = Path::new("/sys/kernel/btf/vmlinux");
            (!path.exists()).then(|| format!("{} does not exist", path.display()))
        }
        Feature::CgroupV2 => no_cgroup2(cgroup),
        Feature::SockAddr => program(ProgramType::CgroupSockAddr),
        Feature::SockOps => program(ProgramType::SockOps),
        Feature::SkLookup => program(ProgramType::SkLookup),
        Feature::SkStorage => map(MapType::SkStorage),
        Feature::SockHash => map(MapType::SockHash),
        Feature::SchedCls => program(ProgramType::SchedClassifier),
        Feature::SockDestroy => match sockets::can_destroy() {
            Ok(true) => None,
            Ok(false) => Some("the kernel was built without INET_DIAG_DESTROY".to_owned()),
            Err(error) => Some(format!("asking the kernel failed: {error}")),
        },
        Feature::Tcx => older_than(KernelVersion::new(6, 6, 0)),
    }
}

fn older_than(wanted: KernelVersion) -> Option<String> {
    match KernelVersion::current() {
        Ok(version) if version >= wanted => None,
        Ok(_) => Some("this kernel is older".to_owned()),
        Err(error) => Some(format!("asking the kernel failed: {error}")),
    }
}

fn no_cgroup2(path: &Path) -> Option<String> {
    match nix::sys::statfs::statfs(path) {
        Ok(found) if found.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC => None,
        Ok(_) => Some(format!("{} is no cgroup v2 file system", path.display())),
        Err(error) => Some(format!("{}: {error}", path.display())),
    }
}

fn program(kind: ProgramType) -> Option<String> {
    match is_program_supported(kind) {
        Ok(true) => None,
        Ok(false) => Some("the kernel does not load such a program".to_owned()),
        Err(error) => Some(format!("asking the kernel failed: {error}")),
    }
}

fn map(kind: MapType) -> Option<String> {
    match is_map_supported(kind) {
        Ok(true) => None,
        Ok(false) => Some("the kernel does not make such a map".to_owned()),
        Err(error) => Some(format!("asking the kernel failed: {error}")),
    }
}
