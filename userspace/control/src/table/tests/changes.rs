//! What is made of a change is what would be made of everything.

use martlet_model::Outsider;

use super::*;
use crate::Inventory;

#[derive(Debug, Clone)]
enum Step {
    Workload(u8, u8, u8),
    NoWorkload(u8),
    Service(u8, u8),
    NoService(u8, u8),
    Policy(u8, Action),
    NoPolicy(u8),
    Outsider(u8, u8),
    NoOutsider(u8),
    Zone(u8, u8),
    Trust(u64),
    Failure(Option<martlet_model::Failure>),
}

/// Few names and addresses, so that they meet each other.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (name, node, address) = (0..5_u8, 0..2_u8, 0..7_u8);
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
    let failure = prop_oneof![Just(None), Just(Some(martlet_model::Failure::Open))];
    let step = prop_oneof![
        4 => (name.clone(), node.clone(), address.clone())
            .prop_map(|(name, node, address)| Step::Workload(name, node, address)),
        2 => name.clone().prop_map(Step::NoWorkload),
        2 => (address.clone(), 80..82_u8).prop_map(|(address, port)| Step::Service(address, port)),
        1 => (address, 80..82_u8).prop_map(|(address, port)| Step::NoService(address, port)),
        1 => (name.clone(), action).prop_map(|(name, action)| Step::Policy(name, action)),
        1 => name.clone().prop_map(Step::NoPolicy),
        1 => (name.clone(), node.clone()).prop_map(|(name, node)| Step::Outsider(name, node)),
        1 => name.prop_map(Step::NoOutsider),
        1 => (node, 0..3_u8).prop_map(|(node, zone)| Step::Zone(node, zone)),
        1 => (2..5_u64).prop_map(Step::Trust),
        1 => failure.prop_map(Step::Failure),
    ];
    prop::collection::vec(step, 1..60)
}

fn key(number: u8) -> WorkloadName {
    WorkloadName { namespace: label("shop"), name: label(&format!("w{number}")) }
}

fn node(number: u8) -> &'static str {
    ["one", "two"][usize::from(number)]
}

fn take(all: &mut Inventory, step: Step) {
    match step {
        Step::Workload(name, on, address) => {
            let address = format!("10.0.0.{address}");
            let one = workload(&format!("w{name}"), node(on), &address);
            all.local.insert(key(name), Arc::new(local(&one)));
            all.workloads.insert(key(name), one);
        }
        Step::NoWorkload(name) => {
            all.local.remove(&key(name));
            all.workloads.remove(&key(name));
        }
        Step::Service(address, port) => {
            let one = service(&format!("10.0.0.{address}:{port}"));
            all.services.insert(one.address, one);
        }
        Step::NoService(address, port) => {
            let at = SocketAddr::from(([10, 0, 0, address], u16::from(port)));
            all.services.remove(&at);
        }
        Step::Policy(name, action) => {
            let one = Policy { action, ..(*policy(&format!("p{name}"))).clone() };
            all.policies.insert((one.namespace.clone(), one.name.clone()), Arc::new(one));
        }
        Step::NoPolicy(name) => {
            all.policies.remove(&(label("shop"), label(&format!("p{name}"))));
        }
        Step::Outsider(name, on) => {
            let netns = NetnsSource::Pod("uid".into());
            let one = Outsider { name: key(name), node: label(node(on)), netns };
            all.outside.insert(key(name), Arc::new(one));
        }
        Step::NoOutsider(name) => drop(all.outside.remove(&key(name))),
        Step::Zone(on, 0) => drop(all.zones.remove(&label(node(on)))),
        Step::Zone(on, zone) => {
            all.zones.insert(label(node(on)), format!("z{zone}").parse().unwrap());
        }
        Step::Trust(version) => all.trust = trust(version.max(all.trust.version)),
        Step::Failure(failure) => all.failure = failure,
    }
}

/// The same, sharing nothing with it.
fn anew(all: &Inventory) -> Inventory {
    Inventory {
        workloads: all
            .workloads
            .iter()
            .map(|(k, v)| (k.clone(), Arc::new((**v).clone())))
            .collect(),
        services: all.services.iter().map(|(k, v)| (*k, Arc::new((**v).clone()))).collect(),
        policies: all.policies.iter().map(|(k, v)| (k.clone(), Arc::new((**v).clone()))).collect(),
        local: all.local.iter().map(|(k, v)| (k.clone(), Arc::new((**v).clone()))).collect(),
        outside: all.outside.iter().map(|(k, v)| (k.clone(), Arc::new((**v).clone()))).collect(),
        trust: all.trust.clone(),
        failure: all.failure,
        zones: all.zones.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
    }
}

fn whole(table: &Table) -> impl PartialEq + std::fmt::Debug + '_ {
    let Table { workloads, services, policies, locals, outside, trust, .. } = table;
    let Table { failure, zones, directory, set, .. } = table;
    (workloads, services, policies, locals, outside, trust, (failure, zones, directory, set))
}

/// What an agent works with.
fn in_effect(declared: &Declared) -> impl PartialEq + std::fmt::Debug + '_ {
    let Declared { directory, policies, local, outside, trust, failure, .. } = declared;
    (directory, policies, local, outside, trust, failure)
}

proptest! {
    #[test]
    fn a_table_made_of_the_one_before_is_the_one_made_of_everything(steps in steps()) {
        let mut all = Inventory { trust: trust(1), ..Inventory::default() };
        let mut before = Table::after(&Table::default(), all.clone()).unwrap();
        let (mut agent, mut version) = (agent("one"), 1);
        let (whole_before, mut since_whole) = (Whole::of(&before, 1), Changed::default());
        tell(&mut agent, full(&before, version)).unwrap();
        for step in steps {
            let kept = all.clone();
            take(&mut all, step);
            let made = Table::after(&before, all.clone());
            let from_nothing = Table::after(&Table::default(), anew(&all));
            prop_assert_eq!(made.is_ok(), from_nothing.is_ok());
            let (Ok(made), Ok(from_nothing)) = (made, from_nothing) else {
                // What contradicts itself is not told; it goes on with what was.
                all = kept;
                continue;
            };
            prop_assert_eq!(whole(&made), whole(&from_nothing));
            prop_assert!(made.changed(&from_nothing).is_empty());
            let changed = before.changed(&made);
            prop_assert_eq!(&changed, &before.changed(&from_nothing));
            // And so it is for an agent that is told the change.
            let since = Scope::Since(version, &changed);
            let said = messages(&made, &label("one"), 7, version + 1, since).unwrap();
            version += 1;
            let declared = tell(&mut agent, said).unwrap();
            let first = tell(&mut super::agent("one"), full(&from_nothing, version)).unwrap();
            prop_assert_eq!(in_effect(&declared), in_effect(&first));
            // And for one that is told what was encoded before, and what is other since.
            since_whole.add(&changed);
            let node = label("one");
            let told = whole_before.messages(&made, &node, 7, version, &since_whole).unwrap();
            let told = told.iter().map(prost::Message::encode_to_vec);
            let told = told.map(|said| prost::Message::decode(said.as_slice()).unwrap()).collect();
            let told = tell(&mut super::agent("one"), told).unwrap();
            prop_assert_eq!(in_effect(&told), in_effect(&first));
            before = made;
        }
    }
}
