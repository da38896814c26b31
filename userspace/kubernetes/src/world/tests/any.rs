//! What holds whatever the objects are, and in whichever order they come.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Namespace(seen::Namespace),
    NoNamespace(Label),
    Pod(seen::Pod),
    NoPod(WorkloadName),
    Service(seen::Service),
    NoService(ServiceKey),
    Slice(seen::Slice),
    NoSlice((Label, Label)),
    Policy(String, Value),
    NoPolicy(String),
}

fn take(world: &mut World, step: &Step) {
    match step.clone() {
        Step::Namespace(one) => world.set_namespace(one),
        Step::NoNamespace(name) => world.remove_namespace(&name),
        Step::Pod(one) => drop(world.set_pod(one)),
        Step::NoPod(name) => world.remove_pod(&name),
        Step::Service(one) => world.set_service(one),
        Step::NoService(key) => world.remove_service(&key),
        Step::Slice(one) => world.set_slice(one),
        Step::NoSlice(name) => world.remove_slice(&name),
        Step::Policy(name, spec) => world.set_policy(&policy(&name, spec)),
        Step::NoPolicy(text) => {
            let WorkloadName { namespace, name } = name(&text);
            world.remove_policy(&(namespace, name));
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let namespaces = || prop_oneof![Just("shop"), Just("bank")];
    let names = || (namespaces(), 0..3_u8).prop_map(|(of, number)| format!("{of}/x{number}"));
    let addresses = || (0..4_u8).prop_map(|last| format!("10.0.0.{last}"));
    let wanted = || {
        prop_oneof![
            Just(None),
            Just(Some(Wanted::Off)),
            Just(Some(Wanted::Enrolled(Mode::Strict))),
            Just(Some(Wanted::Enrolled(Mode::Permissive))),
        ]
    };
    // More of these than of anything else.
    let pods = (names(), addresses(), wanted(), 0..3_i64, any::<(bool, bool)>(), 0..2_u8)
        .prop_map(|(name, address, wanted, created, (is_over, is_on_host), app)| {
            let labels = [("app".to_owned(), app.to_string())].into();
            Step::Pod(seen::Pod {
                wanted,
                created,
                is_over,
                is_on_host,
                labels,
                ..pod(&name, &address)
            })
        })
        .boxed();
    let slices = (names(), names(), prop::collection::vec(addresses(), 0..3)).prop_map(
        |(name, of, addresses)| {
            let namespace = name.split_once('/').unwrap().0;
            let of = format!("{namespace}/{}", of.split_once('/').unwrap().1);
            let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
            Step::Slice(slice(&name, &of, &addresses))
        },
    );
    // Some share an address, with and without the same port.
    let services = (names(), addresses(), 80..82_u16).prop_map(|(name, address, port)| {
        let mut service = service(&name, &address);
        service.ports[0].port = port;
        Step::Service(service)
    });
    let specs = prop_oneof![
        Just(json!({"action": "Deny", "rules": [{}]})),
        Just(
            json!({"action": "Allow", "rules": [{"to": [{"ports": ["1"]}]}], "selector": {"matchLabels": {"app": "1"}}})
        ),
        Just(json!({"action": "Allow"})),
    ];
    let step = prop_oneof![
        (namespaces(), wanted()).prop_map(|(name, wanted)| {
            Step::Namespace(seen::Namespace { wanted, ..namespace(name, None) })
        }),
        namespaces().prop_map(|name| Step::NoNamespace(label(name))),
        pods.clone(),
        pods,
        names().prop_map(|text| Step::NoPod(name(&text))),
        services,
        names().prop_map(|text| Step::NoService(key(&text))),
        slices,
        names().prop_map(|text| {
            let WorkloadName { namespace, name } = name(&text);
            Step::NoSlice((namespace, name))
        }),
        (names(), specs).prop_map(|(name, spec)| Step::Policy(name, spec)),
        names().prop_map(Step::NoPolicy),
    ];
    prop::collection::vec(step, 1..40)
}

fn told(picture: Picture) -> impl PartialEq + fmt::Debug {
    let Picture { workloads, services, policies, local, outside, agents, .. } = picture;
    (workloads, services, policies, local, outside, agents)
}

/// No pod has another's address: who has it depends on who came first.
fn without_rivals(step: Step) -> Step {
    let Step::Pod(mut pod) = step else { return step };
    let (namespace, name) = (pod.name.namespace.as_str(), pod.name.name.as_str());
    let number = name.as_bytes().last().unwrap() - b'0' + if namespace == "shop" { 0 } else { 3 };
    // Some are agents of Martlet's own.
    if number == 5 {
        pod.name.namespace = label("martlet-system");
        pod.service_account = label("martlet-agent");
        pod.node = label(if pod.created == 0 { "one" } else { "two" });
    }
    Step::Pod(seen::Pod { addresses: vec![IpAddr::from([10, 0, 0, number])], ..pod })
}

/// Another world with the objects of this one, all told once, the last first.
fn anew(world: &World) -> World {
    let mut anew = super::world();
    world.namespaces.values().for_each(|one| anew.set_namespace(one.clone()));
    let mut slices: Vec<_> = world.slices.values().collect();
    slices.sort_by_key(|slice| std::cmp::Reverse((&slice.namespace, &slice.name)));
    slices.into_iter().for_each(|slice| anew.set_slice(slice.clone()));
    let mut services: Vec<_> = world.services.values().collect();
    services.sort_by_key(|service| std::cmp::Reverse(&service.key));
    services.into_iter().for_each(|service| anew.set_service(service.clone()));
    let mut pods: Vec<_> = world.pods.values().collect();
    pods.sort_by_key(|pod| std::cmp::Reverse(&pod.name));
    for pod in pods {
        anew.set_pod((**pod).clone());
    }
    anew
}

proptest! {
    /// Nobody can write objects that make the directory of all unusable.
    #[test]
    fn every_picture_makes_a_directory(steps in steps()) {
        let mut world = world();
        for step in &steps {
            take(&mut world, step);
            let picture = world.picture();
            let (workloads, services) = (picture.workloads.values(), picture.services.values());
            let directory = Directory::new(workloads.cloned(), services.cloned());
            prop_assert!(directory.is_ok(), "{:?}", directory.err());
            let policies = picture.policies.values().map(|policy| (**policy).clone()).collect();
            prop_assert!(PolicySet::new(policies).is_ok());
        }
    }

    /// What follows from the objects is the same as if all that rests on them were decided anew.
    #[test]
    fn deciding_only_what_changed_is_enough(steps in steps()) {
        let mut world = world();
        for step in &steps {
            take(&mut world, step);
            world.concerns();
        }
        let before = told(world.picture());
        let pods: Vec<_> = world.pods.keys().cloned().collect();
        pods.iter().for_each(|name| world.decide_pod(name));
        let services: Vec<_> = world.services.keys().cloned().collect();
        services.iter().for_each(|key| world.decide_service(key));
        prop_assert_eq!(before, told(world.picture()));
        let concerns = world.concerns();
        world.unsettled = [label("shop"), label("bank")].into();
        prop_assert_eq!(concerns, world.concerns());
    }

    /// What is told is what a world would tell that is told all objects at once.
    #[test]
    fn what_changed_bit_by_bit_is_as_if_it_had_been_so_from_the_beginning(steps in steps()) {
        let mut world = world();
        let mut policies = BTreeMap::new();
        for step in steps.into_iter().map(without_rivals) {
            match &step {
                Step::Policy(name, spec) => drop(policies.insert(name.clone(), spec.clone())),
                Step::NoPolicy(name) => drop(policies.remove(name)),
                _ => {}
            }
            take(&mut world, &step);
            let mut anew = anew(&world);
            policies.iter().for_each(|(name, spec)| anew.set_policy(&policy(name, spec.clone())));
            prop_assert_eq!(told(world.picture()), told(anew.picture()));
        }
    }

    /// When everything goes, nothing is left.
    #[test]
    fn nothing_stays_behind(steps in steps()) {
        let mut world = world();
        steps.iter().for_each(|step| take(&mut world, step));
        let names = || ["shop", "bank"].into_iter().flat_map(|of| (0..3).map(move |n| format!("{of}/x{n}")));
        for text in names() {
            let WorkloadName { namespace, name: own } = name(&text);
            world.remove_pod(&name(&text));
            world.remove_service(&key(&text));
            world.remove_slice(&(namespace.clone(), own.clone()));
            world.remove_policy(&(namespace, own));
        }
        for of in ["shop", "bank"] {
            world.remove_namespace(&label(of));
        }
        prop_assert!(world.pods.is_empty() && world.pods_in.is_empty() && world.claims.is_empty());
        prop_assert!(world.services.is_empty() && world.slices.is_empty() && world.slices_of.is_empty());
        prop_assert!(world.behind.is_empty() && world.virtual_addresses.is_empty());
        prop_assert!(world.outside.is_empty() && world.concerns().is_empty());
        prop_assert!(world.enrolled.is_empty() && world.listed.is_empty() && world.problems.is_empty());
        let picture = world.picture();
        prop_assert!(picture.workloads.is_empty() && picture.services.is_empty() && picture.policies.is_empty());
    }
}
