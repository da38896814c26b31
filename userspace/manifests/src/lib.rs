//! What is installed into a cluster, as YAML.

#![forbid(unsafe_code)]
