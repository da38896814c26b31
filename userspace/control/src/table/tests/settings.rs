//! What is set for all nodes.

use martlet_model::Failure;

use super::*;

#[test]
fn how_nodes_fail_is_told_when_it_is_set_and_when_it_is_set_no_more() {
    let mut agent = agent("one");
    assert_eq!(tell(&mut agent, full(&table(), 5)).unwrap().failure, None);
    let mut before = table();
    for (version, failure) in [(6, Some(Failure::Open)), (7, Some(Failure::Closed)), (8, None)] {
        let now = Table::of(Declaration { failure, ..declaration() }).unwrap();
        let changed = before.changed(&now);
        assert_eq!(changed.len(), 0, "nothing else is told again");
        let since = Scope::Since(version - 1, &changed);
        let said = messages(&now, &label("one"), 7, version, since).unwrap();
        assert_eq!(tell(&mut agent, said).unwrap().failure, failure);
        // Whoever begins anew hears the same.
        let declared = tell(&mut super::agent("one"), full(&now, version)).unwrap();
        assert_eq!(declared.failure, failure);
        before = now;
    }
}

#[test]
fn a_way_to_fail_that_is_not_known_is_not_taken() {
    let mut agent = told_full();
    let table = Table::of(Declaration { failure: Some(Failure::Open), ..declaration() }).unwrap();
    let mut said = full(&table, 6);
    said.last_mut().unwrap().settings = Some(proto::Settings { failure: 9 });
    assert!(matches!(tell(&mut agent, said), Err(Refused::Malformed(_))));
    assert_eq!(agent.version(), 5, "what was in effect still is");
}
