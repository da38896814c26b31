//! What is set for all nodes, and where they are.

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

fn zones(all: &[(&str, &str)]) -> Declaration {
    let zones = all.iter().map(|(node, zone)| (label(node), zone.parse().unwrap()));
    Declaration { zones: zones.collect(), ..declaration() }
}

#[test]
fn where_a_node_is_is_told_to_its_own_agent_and_to_no_other() {
    let mut agent = agent("one");
    let mut before = Table::of(zones(&[("one", "a"), ("two", "b")])).unwrap();
    let zone = |declared: &Declared| declared.directory.zone().map(ToString::to_string);
    let said = full(&before, 5);
    assert!(said.iter().filter_map(|message| message.here.as_ref()).all(|here| here.zone == "a"));
    assert_eq!(zone(&tell(&mut agent, said).unwrap()).as_deref(), Some("a"));
    for (version, all, expected) in [
        (6, vec![("one", "c"), ("two", "b")], Some("c")),
        (7, vec![("one", "c"), ("two", "a")], Some("c")),
        (8, vec![("two", "a")], None),
    ] {
        let now = Table::of(zones(&all)).unwrap();
        let changed = before.changed(&now);
        assert_eq!(changed.len(), 0, "no service is told again");
        let said = |node: &str| {
            let since = Scope::Since(version - 1, &changed);
            messages(&now, &label(node), 7, version, since).unwrap()
        };
        let is_about = |node: &str| said(node).iter().any(|message| message.here.is_some());
        assert_eq!((is_about("one"), is_about("two")), (version != 7, version == 7));
        let declared = tell(&mut agent, said("one")).unwrap();
        assert_eq!(zone(&declared).as_deref(), expected);
        before = now;
    }
}

#[test]
fn a_zone_that_is_none_and_what_is_near_where_only_the_own_node_counts_are_not_taken() {
    let mut agent = told_full();
    let mut said = full(&table(), 6);
    said.last_mut().unwrap().here = Some(proto::Here { zone: "a b".to_owned() });
    assert!(matches!(tell(&mut agent, said), Err(Refused::Malformed(_))));
    let mut said = full(&table(), 6);
    let service = said.iter_mut().find_map(|message| message.services.first_mut()).unwrap();
    let near = proto::NodeEndpoints { node: "one".to_owned(), endpoints: vec![] };
    (service.own_node_only, service.near_node) = (true, vec![near]);
    assert!(matches!(tell(&mut agent, said), Err(Refused::Malformed(_))));
    assert_eq!(agent.version(), 5);
}
