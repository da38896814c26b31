//! What tests claim about the ends of a connection, as the probe has seen them.

use serde_json::Value;

/// Everything that each end sent has reached the other, in order, and both have finished.
#[track_caller]
pub fn assert_exchanged(client: &Value, server: &Value) {
    let both = format!("client {client}\nserver {server}");
    assert_eq!(client["connected"], true, "{both}");
    for (sender, receiver) in [(client, server), (server, client)] {
        assert_eq!(sender["sent"], receiver["received"], "{both}");
        assert_eq!(sender["sent_checksum"], receiver["received_checksum"], "{both}");
        assert_eq!(sender["finished"], true, "{both}");
        assert!(sender["read_error"].is_null() && sender["write_error"].is_null(), "{both}");
    }
}

/// The client was refused or reset in `connect()`, or reset at once without a single byte.
#[track_caller]
pub fn assert_refused(client: &Value) {
    assert_ne!(client["finished"], true, "an orderly end is no refusal: {client}");
    if client["connected"] == false {
        let error = client["error"].as_str().unwrap_or_default();
        assert!(["ECONNREFUSED", "ECONNRESET"].contains(&error), "{client}");
        return;
    }
    assert_eq!(client["received"], 0, "{client}");
    assert!(saw_reset(client), "{client}");
}

/// The connection ended for this end by a reset, not in an orderly way.
pub fn saw_reset(end: &Value) -> bool {
    let is_reset = |field: &str| matches!(end[field].as_str(), Some("ECONNRESET" | "EPIPE"));
    // `error` is that of `connect()`, if the reset was faster than its return.
    end["finished"] != true && ["error", "read_error", "write_error"].into_iter().any(is_reset)
}

#[track_caller]
pub fn assert_reset(end: &Value) {
    assert!(saw_reset(end), "there was no reset: {end}");
}
