//! What is checked of a cluster, and where docs/checks.md says what it means.

use martlet_model::report::{Check, CheckResult};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    ApiServer,
    ApiVersion,
    Rights,
    RightsToInstall,
    Kernel,
    System,
    PodSecurity,
    Definitions,
    Agents,
    Controller,
    Versions,
    ControlPlane,
    Clocks,
    Authority,
    Labels,
    Settings,
    Policies,
    Coverage,
    NodeAnswers,
    NodeAgent,
    NodeKernel,
    NodeConfiguration,
    NodeIdentity,
}

impl Topic {
    #[cfg(test)]
    pub const ALL: [Topic; 23] = [
        Topic::ApiServer,
        Topic::ApiVersion,
        Topic::Rights,
        Topic::RightsToInstall,
        Topic::Kernel,
        Topic::System,
        Topic::PodSecurity,
        Topic::Definitions,
        Topic::Agents,
        Topic::Controller,
        Topic::Versions,
        Topic::ControlPlane,
        Topic::Clocks,
        Topic::Authority,
        Topic::Labels,
        Topic::Settings,
        Topic::Policies,
        Topic::Coverage,
        Topic::NodeAnswers,
        Topic::NodeAgent,
        Topic::NodeKernel,
        Topic::NodeConfiguration,
        Topic::NodeIdentity,
    ];

    /// The heading in docs/checks.md, as links name it.
    pub fn anchor(self) -> &'static str {
        match self {
            Topic::ApiServer => "api-server",
            Topic::ApiVersion => "api-version",
            Topic::Rights => "rights",
            Topic::RightsToInstall => "rights-to-install",
            Topic::Kernel => "kernel",
            Topic::System => "namespace",
            Topic::PodSecurity => "pod-security",
            Topic::Definitions => "definitions",
            Topic::Agents => "agents",
            Topic::Controller => "controller",
            Topic::Versions => "versions",
            Topic::ControlPlane => "control-plane",
            Topic::Clocks => "clocks",
            Topic::Authority => "authority",
            Topic::Labels => "labels",
            Topic::Settings => "settings",
            Topic::Policies => "policies",
            Topic::Coverage => "coverage",
            Topic::NodeAnswers => "node-answers",
            Topic::NodeAgent => "node-agent",
            Topic::NodeKernel => "node-kernel",
            Topic::NodeConfiguration => "node-configuration",
            Topic::NodeIdentity => "node-identity",
        }
    }

    /// Of a category of an agent's own check.
    pub fn of_node(category: &str) -> Self {
        match category {
            "kernel" => Topic::NodeKernel,
            "configuration" => Topic::NodeConfiguration,
            "identity" => Topic::NodeIdentity,
            _ => Topic::NodeAgent,
        }
    }

    pub fn hint(self, what_to_do: &str) -> String {
        format!("{what_to_do}; docs/checks.md#{}", self.anchor())
    }

    pub fn good(self, description: impl Into<String>) -> Check {
        let description = description.into();
        Check { description, result: CheckResult::Success, error: None, hint: None }
    }

    pub fn bad(self, description: &str, why: impl Into<String>, what_to_do: &str) -> Check {
        Check {
            description: description.to_owned(),
            result: CheckResult::Error,
            error: Some(why.into()),
            hint: Some(self.hint(what_to_do)),
        }
    }

    pub fn doubtful(self, description: &str, why: impl Into<String>, what_to_do: &str) -> Check {
        Check { result: CheckResult::Warning, ..self.bad(description, why, what_to_do) }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    #[test]
    fn each_hint_leads_to_its_own_heading_and_each_heading_is_led_to() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/checks.md");
        let page = fs::read_to_string(path).unwrap();
        let headings = page.lines().filter_map(|line| line.strip_prefix("### "));
        let headings: Vec<_> =
            headings.map(|heading| heading.to_lowercase().replace(' ', "-")).collect();
        let anchors: BTreeSet<_> = Topic::ALL.iter().map(|topic| topic.anchor()).collect();
        assert_eq!(anchors.len(), Topic::ALL.len(), "an anchor stands for two topics");
        let found: BTreeSet<_> = headings.iter().map(String::as_str).collect();
        assert_eq!(found, anchors);
        assert_eq!(headings.len(), found.len(), "a heading stands there twice");
    }
}
