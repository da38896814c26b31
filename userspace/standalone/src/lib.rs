//! The node file of standalone mode: from its text to values that can be trusted.
//!
//! Pure: it takes a text, does no IO and reads no clock. The file's shape is in `file`, what YAML
//! makes of the text in `yaml`, what must be true beyond the shape in `check`, and what is said
//! about a file that is refused in `problem`. The user's reference is `docs/node-file.md`.

#![forbid(unsafe_code)]

mod check;
mod controller_file;
mod directory_file;
mod federated;
mod file;
mod limits;
mod mark;
mod node_file;
mod problem;
mod yaml;

pub use controller_file::{ControllerFile, Hosts, InCluster, Knows};
pub use directory_file::DirectoryFile;
pub use federated::{BundleEndpoint, Federated, Proof, Shows};
pub use limits::MAX_FILE_BYTES;
pub use mark::Mark;
pub use node_file::{
    AccessLog, Controller, Joins, NodeFile, Outside, Places, ProberIs, Settings, Source, Traces,
    parse, parse_of, schema,
};
pub use problem::{Fault, NodeFileError, Problem};
