//! Two ends of a connection, as they are named on the command line.

use std::fmt;

use martlet_model::WorkloadName;

/// A pod or a service, and one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    pub name: WorkloadName,
    pub port: u16,
}

impl fmt::Display for Called {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

pub fn caller(text: &str) -> Result<WorkloadName, String> {
    let wrong = || format!("{text:?} is no pod: write NAMESPACE/POD");
    let (namespace, name) = text.split_once('/').ok_or_else(wrong)?;
    let label = |part: &str| part.parse().map_err(|_| wrong());
    Ok(WorkloadName { namespace: label(namespace)?, name: label(name)? })
}

pub fn called(text: &str) -> Result<Called, String> {
    let wrong = || format!("{text:?} is no port of a pod or service: write NAMESPACE/NAME:PORT");
    let (name, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let name = caller(name).map_err(|_| wrong())?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    Ok(Called { name, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_written_as_kubectl_writes_them() {
        let read = called("shop/web-0:8080").unwrap();
        assert_eq!((read.name.to_string().as_str(), read.port), ("shop/web-0", 8080));
        assert_eq!(read.to_string(), "shop/web-0:8080");
        assert!(caller("shop/web-0").is_ok());
        for bad in ["web", "shop/", "/web", "Shop/web", "shop/web/1"] {
            assert!(caller(bad).is_err(), "{bad}");
        }
        for bad in ["shop/web", "shop/web:", "shop/web:0", "shop/web:70000", "web:80"] {
            assert!(called(bad).is_err(), "{bad}");
        }
    }
}
