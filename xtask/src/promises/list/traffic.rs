//! What goes over the wire, and what is refused there: promises 1 to 5.

use super::{
    ADOPTION, CONNECTIONS, DETOURS, ENTRANCES, ESCAPE, FAILING_OPEN, FAULT_CLAIMS, FAULTS, FIRST,
    GUARD, KUBERNETES_CHURN, KUBERNETES_CNI, KUBERNETES_MESH, LIFE, PROBES, REDECLARED, REFUSALS,
    REWRITTEN, STEERING, STRICT, UNDECIDED, WIRE,
};
use crate::promises::{Promise, Test};

pub const PROMISES: &[Promise] = &[
    Promise {
        number: 1,
        promise: "No plaintext byte between two enrolled pods is seen on the wire, also while an \
                  agent on either side starts, crashes, hangs, is upgraded, runs out of files, \
                  memory or disk, or has an expired certificate.",
        bar: "0 in 1,000 seeded faults of each kind",
        tests: &[
            Test(
                WIRE,
                "none_of_ten_thousand_canaries_is_seen_between_enrolled_pods_and_all_are_without",
            ),
            Test(
                LIFE,
                "without_the_far_agent_its_pods_are_refused_and_never_plain_while_all_else_flows",
            ),
            Test(
                LIFE,
                "without_its_own_agent_a_pod_is_refused_by_enrolled_pods_and_reaches_all_others",
            ),
            Test(
                LIFE,
                "a_stopping_agent_serves_until_what_was_open_ends_and_leaves_its_pods_closed",
            ),
            Test(
                FAULTS,
                "killed_agents_leak_nothing_reset_what_was_open_and_serve_when_started_again",
            ),
            Test(
                FAULTS,
                "an_agent_that_is_told_to_end_leaks_nothing_and_serves_when_started_again",
            ),
            Test(FAULTS, "a_hanging_agent_lets_nothing_pass_and_serves_when_it_goes_on"),
            Test(FAULTS, "an_agent_that_is_killed_for_its_memory_leaks_nothing"),
            Test(
                FAULTS,
                "an_agent_without_file_descriptors_leaks_nothing_and_serves_when_it_has_some",
            ),
            Test(FAULTS, "an_agent_on_a_full_disk_serves_and_can_be_started_again"),
            Test(
                FAULTS,
                "an_agent_whose_system_calls_fail_leaks_nothing_and_serves_when_they_work",
            ),
            Test(FAULTS, "lost_packets_leak_nothing"),
            Test(FAULTS, "a_cut_between_nodes_leaks_nothing_and_service_is_back_after_it"),
            Test(FAULTS, "bad_files_of_the_authority_are_noticed_and_change_nothing"),
            Test(FAULTS, "agents_with_different_roots_refuse_each_other_until_they_agree"),
            Test(FAULTS, "a_bad_node_file_is_refused_and_interrupts_nothing"),
            Test(FAULTS, "a_clock_that_jumps_leaks_nothing_and_service_is_back_when_it_is_right"),
            Test(
                FAULTS,
                "an_agent_that_takes_over_from_another_leaks_nothing_and_interrupts_nothing",
            ),
            Test(
                FAULTS,
                "agents_that_are_killed_while_one_takes_over_leak_nothing_and_one_of_them_serves",
            ),
            Test(
                FAULTS,
                "an_agent_with_another_layout_of_the_maps_than_the_last_leaks_nothing_and_serves",
            ),
            Test(FAULTS, "pins_that_are_removed_are_put_back_and_nothing_is_plain_meanwhile"),
            Test(STRICT, "a_permissive_pod_loses_what_nobody_steered_and_keeps_what_is_older"),
            Test(FAULT_CLAIMS, "without_enrollment_the_sniffer_sees_every_secret"),
            Test(
                FAULT_CLAIMS,
                "an_expired_agent_refuses_with_its_own_reason_and_recovers_by_itself",
            ),
            Test(FAULT_CLAIMS, "who_calls_a_pod_whose_agent_hangs_is_refused_at_a_deadline"),
        ],
        missing: "the full number of faults, which only `cargo xtask test --long` strikes: 30 of \
                  each kind otherwise",
    },
    Promise {
        number: 2,
        promise: "No packet of a pod that is to be enrolled reaches an enrolled destination before \
                  its enrolment is decided.",
        bar: "0 packets",
        tests: &[
            Test(FIRST, "pods_that_dial_from_their_first_instruction_are_refused_or_carried"),
            Test(UNDECIDED, "an_undecided_pod_reaches_all_but_the_mesh"),
            Test(
                ESCAPE,
                "packets_of_a_pod_that_is_to_be_enrolled_and_is_not_yet_reach_no_strict_pod",
            ),
            Test(
                UNDECIDED,
                "a_pod_that_is_made_while_no_agent_runs_is_closed_and_what_was_outside_stays_so",
            ),
            Test(REDECLARED, "a_pod_that_is_declared_anew_and_cannot_be_enrolled_stays_closed"),
            Test(ADOPTION, "a_pod_that_could_not_be_enrolled_again_stays_closed"),
            Test(KUBERNETES_CNI, "no_pod_has_a_network_before_its_nodes_agent_is_ready"),
            Test(
                KUBERNETES_CHURN,
                "with_the_plugin_of_the_network_pods_are_enrolled_when_they_start",
            ),
        ],
        missing: "packets by raw sockets to a permissive pod, which takes plaintext from anybody; \
                  UDP, which passes between enrolled pods, too, unless it is refused by `udp`",
    },
    Promise {
        number: 3,
        promise: "Every way around steering is refused or leads through mTLS: raw and packet \
                  sockets, sockets from another cgroup or handed over, marks, MPTCP, fast open, \
                  io_uring, mapped addresses, repair mode, aliases, fragments, tunnels, nested \
                  namespaces.",
        bar: "0 bytes delivered in clear to a strict pod",
        tests: &[
            Test(ESCAPE, "packets_made_by_hand_reach_no_strict_pod"),
            Test(ESCAPE, "sockets_that_avoid_steering_reach_no_strict_pod"),
            Test(DETOURS, "sockets_that_come_from_elsewhere_reach_no_strict_pod"),
            Test(DETOURS, "what_is_built_inside_a_pod_reaches_no_strict_pod"),
            Test(
                REWRITTEN,
                "what_the_agent_gives_an_application_leaves_its_pod_for_no_enrolled_pod",
            ),
            Test(CONNECTIONS, "every_kind_of_connect_is_carried"),
            Test(CONNECTIONS, "a_client_with_mptcp_is_carried_but_sees_the_agent_as_its_peer"),
            Test(STEERING, "a_socket_bound_to_a_second_address_is_steered"),
        ],
        missing: "tunnels over UDP on ports that are not known for them, which pass as UDP",
    },
    Promise {
        number: 4,
        promise: "Nobody who is not authenticated delivers a byte to an application of a strict \
                  pod by any path: its address, a service, a port of the node, the loopback \
                  routes, the node's address, IPv6, the host's namespace, the same node, a \
                  look-alike of the kubelet. The kubelet's own probe passes.",
        bar: "0 bytes; probes 100 %",
        tests: &[
            Test(REFUSALS, "strict_refuses_plaintext_while_mtls_callers_use_the_same_port"),
            Test(ENTRANCES, "nobody_who_is_not_enrolled_delivers_a_byte_to_a_strict_pod"),
            Test(STEERING, "plaintext_is_refused_when_strict_and_let_in_when_permissive"),
            Test(STEERING, "an_address_that_was_not_declared_is_refused_when_strict"),
            Test(GUARD, "a_strict_pod_gets_answers_from_outside_the_mesh_and_nothing_else"),
            Test(PROBES, "the_prober_passes_at_a_declared_port_and_nobody_and_nothing_else_does"),
            Test(PROBES, "an_http_probe_by_an_unmodified_program_is_answered"),
            Test(PROBES, "probes_pass_without_an_agent_and_after_a_restart_and_look_alikes_do_not"),
            Test(PROBES, "nobody_adds_to_the_probers_connection_or_opens_one_with_its_address"),
            Test(PROBES, "a_mark_and_the_probers_old_port_make_nobody_the_prober"),
            Test(KUBERNETES_MESH, "a_labelled_namespace_speaks_mtls_and_nobody_gets_around_it"),
        ],
        missing: "",
    },
    Promise {
        number: 5,
        promise: "With the agent dead, new connections between enrolled pods are refused, and all \
                  other traffic flows.",
        bar: "0 passed",
        tests: &[
            Test(
                LIFE,
                "without_the_far_agent_its_pods_are_refused_and_never_plain_while_all_else_flows",
            ),
            Test(
                LIFE,
                "without_its_own_agent_a_pod_is_refused_by_enrolled_pods_and_reaches_all_others",
            ),
            Test(STEERING, "without_an_agent_enrolled_pods_are_refused_and_all_else_flows"),
            Test(
                FAULTS,
                "killed_agents_leak_nothing_reset_what_was_open_and_serve_when_started_again",
            ),
            Test(
                FAULTS,
                "an_agent_that_is_told_to_end_leaks_nothing_and_serves_when_started_again",
            ),
            Test(FAULTS, "an_agent_that_is_killed_for_its_memory_leaks_nothing"),
            Test(FAILING_OPEN, "a_strict_pod_is_closed_both_ways_on_nodes_that_fail_open"),
        ],
        missing: "",
    },
];
