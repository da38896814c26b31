//! What Martlet promises, what would count as kept, and the tests that show it.
//!
//! A test belongs here when it would fail if the promise were broken. What is still missing is said
//! beside the tests, so that nobody takes a part for the whole.

use super::{Promise, Test};

const CORPUS: &str = "userspace/identity/tests/corpus/main.rs";
const JUDGED_ELSEWHERE: &str = "userspace/identity/tests/corpus/openssl.rs";
const MUTATIONS: &str = "userspace/identity/tests/corpus/mutations.rs";
const SPIFFE: &str = "userspace/model/tests/spiffe/main.rs";
const AUTHORITY: &str = "userspace/authority/tests/authority.rs";
const AUTHORITY_KEYS: &str = "userspace/authority/tests/keys.rs";
const REGISTRAR: &str = "userspace/authority/tests/registrar.rs";
const HANDSHAKES: &str = "userspace/identity/tests/handshakes.rs";
const LAPSES: &str = "userspace/dataplane/tests/lapses.rs";
const STANDALONE: &str = "userspace/standalone/tests/refused.rs";

const ADOPTION: &str = "tests/kernel/tests/adoption.rs";
const CHURN: &str = "tests/kernel/tests/churn.rs";
const CLUSTER: &str = "tests/kernel/tests/cluster.rs";
const CONNECTIONS: &str = "tests/kernel/tests/connections.rs";
const DETOURS: &str = "tests/kernel/tests/detours.rs";
const ENTRANCES: &str = "tests/kernel/tests/entrances.rs";
const BOUNDS: &str = "tests/kernel/tests/bounds.rs";
const ESCAPE: &str = "tests/kernel/tests/escape.rs";
const FAILING_OPEN: &str = "tests/kernel/tests/failing_open.rs";
const FAULTS: &str = "tests/kernel/tests/faults/main.rs";
const FAULT_CLAIMS: &str = "tests/kernel/tests/faults/claims.rs";
const FIRST: &str = "tests/kernel/tests/first.rs";
const GUARD: &str = "tests/kernel/tests/guard.rs";
const KEPT_KEYS: &str = "tests/kernel/tests/kept_keys.rs";
const KEYS: &str = "tests/kernel/tests/keys.rs";
const LIFE: &str = "tests/kernel/tests/life.rs";
const PRIVILEGES: &str = "tests/kernel/tests/privileges.rs";
const PROBES: &str = "tests/kernel/tests/probes.rs";
const QUOTAS: &str = "tests/kernel/tests/quotas.rs";
const REDECLARED: &str = "tests/kernel/tests/redeclared.rs";
const REFUSALS: &str = "tests/kernel/tests/refusals.rs";
const REWRITTEN: &str = "tests/kernel/tests/rewritten.rs";
const STEERING: &str = "tests/kernel/tests/steering.rs";
const STRICT: &str = "tests/kernel/tests/strict.rs";
const TAMPERING: &str = "tests/kernel/tests/tampering.rs";
const UNDECIDED: &str = "tests/kernel/tests/undecided.rs";
const UNINSTALL: &str = "tests/kernel/tests/uninstall.rs";
const WIRE: &str = "tests/kernel/tests/wire.rs";

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
            Test(LIFE, "a_stopping_agent_lets_live_connections_finish_and_leaves_its_pods_closed"),
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
                "an_agent_that_is_replaced_by_another_leaks_nothing_and_never_runs_beside_it",
            ),
            Test(FAULTS, "pins_that_are_removed_are_put_back_and_nothing_is_plain_meanwhile"),
            Test(FAULT_CLAIMS, "without_enrollment_the_sniffer_sees_every_secret"),
            Test(
                FAULT_CLAIMS,
                "an_expired_agent_refuses_with_its_own_reason_and_recovers_by_itself",
            ),
            Test(FAULT_CLAIMS, "who_calls_a_pod_whose_agent_hangs_is_refused_at_a_deadline"),
        ],
        missing: "an upgrade to another layout of the maps while there is traffic; links that are \
                  unpinned while no agent runs, but for the guard's; the full number of faults, \
                  which only `cargo xtask test --long` strikes: 30 of each kind otherwise",
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
                UNDECIDED,
                "a_pod_that_is_made_while_no_agent_runs_is_closed_and_what_was_outside_stays_so",
            ),
            Test(REDECLARED, "a_pod_that_is_declared_anew_and_cannot_be_enrolled_stays_closed"),
            Test(ADOPTION, "a_pod_that_could_not_be_enrolled_again_stays_closed"),
        ],
        missing: "raw sockets and UDP of a pod that is not enrolled yet",
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
        ],
        missing: "a real kubelet",
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
    Promise {
        number: 6,
        promise: "A node gets certificates only for pods that are bound to it, alive, and have the \
                  UID that it names.",
        bar: "0 wrong in 40 combinations and 10,000 races",
        tests: &[
            Test(REGISTRAR, "a_node_gets_certificates_for_what_runs_on_it_and_for_nothing_else"),
            Test(REGISTRAR, "an_attestor_is_believed_only_as_far_as_its_answer_fits"),
            Test(REGISTRAR, "ten_thousand_moves_and_deletions_give_no_wrong_certificate"),
            Test(REGISTRAR, "a_change_between_both_answers_is_a_refusal"),
            Test(REGISTRAR, "a_request_that_is_no_proof_is_refused"),
        ],
        missing: "pods of a cluster: the API server is not asked yet",
    },
    Promise {
        number: 7,
        promise: "Private keys exist in the agent's memory, with a controller in the kernel's \
                  keyring until their certificate ends, and nowhere else.",
        bar: "0 found in logs, files, cores and /proc",
        tests: &[
            Test(KEYS, "no_private_key_is_in_any_artefact_and_a_planted_one_is_found"),
            Test(KEYS, "an_aborting_agent_leaves_no_core_where_another_program_leaves_one"),
            Test(KEYS, "a_key_is_in_memory_once_and_after_its_last_user_not_at_all"),
            Test(KEYS, "the_key_of_a_withdrawn_workload_is_gone_from_memory"),
            Test(KEYS, "the_key_of_a_renewed_certificate_is_gone_from_memory"),
            Test(
                KEPT_KEYS,
                "keys_that_outlive_their_agent_are_in_its_memory_once_and_in_no_artefact",
            ),
            Test(
                KEPT_KEYS,
                "a_withdrawn_workloads_key_is_gone_from_the_keyring_and_another_life_gets_another",
            ),
            Test(PRIVILEGES, "an_agent_with_exactly_its_capabilities_serves_and_can_do_no_more"),
            Test(PRIVILEGES, "without_a_capability_the_agent_is_not_ready_and_names_it"),
            Test(PRIVILEGES, "each_capability_is_needed_for_what_its_line_says"),
            Test(PRIVILEGES, "system_calls_outside_of_the_filter_fail_and_the_agents_own_work"),
            Test(
                PRIVILEGES,
                "only_the_agents_own_directories_and_the_networks_sysctls_can_be_written",
            ),
        ],
        missing: "swap, and the maps of the kernel programs",
    },
    Promise {
        number: 8,
        promise: "A pod with a used address never gets the identity or the bytes of the pod that \
                  had it before.",
        bar: "0 in 10,000 reuses",
        tests: &[
            Test(
                CHURN,
                "who_follows_at_an_address_gets_neither_identity_nor_bytes_of_who_was_there",
            ),
            Test(GUARD, "a_connection_with_the_same_addresses_and_ports_inherits_nothing"),
            Test(STEERING, "what_a_dead_agent_left_for_other_pods_is_forgotten"),
            Test(LAPSES, "a_workload_that_becomes_somebody_else_loses_its_open_connections"),
        ],
        missing: "the full number of reuses, which only `cargo xtask test --long` makes, and \
                  which has not been run to its end yet: 70 otherwise",
    },
    Promise {
        number: 9,
        promise: "A peer is one valid SPIFFE ID from a verified chain of its own trust domain; \
                  everything else is refused before an application byte.",
        bar: "100 % of the collection and of a fuzz of the grammar",
        tests: &[
            Test(
                CORPUS,
                "every_certificate_of_the_corpus_is_judged_as_the_manifest_says_by_both_sides",
            ),
            Test(CORPUS, "only_an_authority_is_taken_for_a_root"),
            Test(JUDGED_ELSEWHERE, "no_chain_is_believed_that_openssl_refuses"),
            Test(MUTATIONS, "no_certificate_of_which_a_byte_is_changed_is_believed"),
            Test(SPIFFE, "what_the_grammar_makes_and_its_mutations_are_judged_as_by_the_oracle"),
            Test(REFUSALS, "wrong_callers_are_refused_before_an_application_byte"),
            Test(REFUSALS, "wrong_servers_are_refused_before_an_application_byte"),
            Test(HANDSHAKES, "certificates_without_exactly_one_spiffe_id_are_refused"),
            Test(HANDSHAKES, "certificates_for_something_else_are_refused"),
            Test(HANDSHAKES, "certificates_out_of_their_time_are_refused"),
            Test(HANDSHAKES, "another_root_of_the_same_name_is_refused_by_both"),
            Test(AUTHORITY, "another_trust_domain_is_refused"),
        ],
        missing: "",
    },
    Promise {
        number: 10,
        promise: "A change of policy reaches new connections within a second and ends live ones \
                  within five, with 1,000 policies and 10,000 pods.",
        bar: "99 of 100 within",
        tests: &[
            Test(LIFE, "a_live_connection_that_policy_denies_is_reset_and_others_go_on"),
            Test(LAPSES, "a_permit_that_lapses_ends_what_is_open_at_both_ends"),
        ],
        missing: "the times, and the size",
    },
    Promise {
        number: 11,
        promise: "Policies are evaluated as a slow and obvious oracle does it.",
        bar: "0 differences in 100,000,000 random cases",
        tests: &[Test("userspace/policy/src/evaluate/tests.rs", "evaluation_equals_the_oracle")],
        missing: "the number of cases",
    },
    Promise {
        number: 12,
        promise: "An unknown, invalid, partial or unenforceable policy denies, and losing the \
                  control plane never widens anything.",
        bar: "0",
        tests: &[
            Test("userspace/policy/src/evaluate/tests.rs", "what_would_mean_nothing_is_refused"),
            Test(LIFE, "a_broken_node_file_changes_nothing_and_the_status_says_why"),
        ],
        missing: "there is no control plane yet",
    },
    Promise {
        number: 13,
        promise: "Expiry closes; renewal starts at half of a certificate's life; no connection \
                  outlives its peer's certificate by more than five minutes; a clock that jumps \
                  neither leaks nor panics.",
        bar: "shown with a clock of the test's own",
        tests: &[
            Test(AUTHORITY_KEYS, "issuers_live_a_week_and_renew_themselves_at_half_of_it"),
            Test(AUTHORITY_KEYS, "a_clock_that_was_wrong_for_years_leaves_nothing_behind"),
            Test(LIFE, "certificates_are_renewed_without_touching_live_connections"),
            Test(LAPSES, "an_expired_peer_opens_nothing_more_over_its_lane"),
            Test(LAPSES, "our_own_expired_certificate_opens_nothing_more_and_is_blamed"),
            Test("userspace/agent/src/renewal.rs", "a_clock_that_is_set_back_makes_it_due"),
            Test(FAULTS, "a_clock_that_jumps_leaks_nothing_and_service_is_back_when_it_is_right"),
            Test(
                FAULT_CLAIMS,
                "an_expired_agent_refuses_with_its_own_reason_and_recovers_by_itself",
            ),
        ],
        missing: "",
    },
    Promise {
        number: 14,
        promise: "During 24 hours without a control plane, and a restart of the agent in them, \
                  running pods keep full service.",
        bar: "0 failed",
        tests: &[
            Test(CLUSTER, "without_the_controller_all_goes_on_also_after_an_agent_was_killed"),
            Test(CLUSTER, "a_node_without_a_good_token_enrolls_nothing_and_says_why"),
        ],
        missing: "the full time: certificates live a day and are renewed at half of it, so they \
                  last for 12 hours at least; and new pods get none meanwhile",
    },
    Promise {
        number: 15,
        promise: "A planned upgrade of the agent fails no new connection and resets no \
                  established one within the time to drain.",
        bar: "0 of 1,000,000 requests and 0 of 10,000 streams, over 20 upgrades",
        tests: &[],
        missing: "",
    },
    Promise {
        number: 16,
        promise: "After a kill of the agent, its connections end by a reset within a second, and \
                  service is back within a second of its restart.",
        bar: "99 of 100 within",
        tests: &[
            Test(
                LIFE,
                "without_the_far_agent_its_pods_are_refused_and_never_plain_while_all_else_flows",
            ),
            Test(
                FAULTS,
                "killed_agents_leak_nothing_reset_what_was_open_and_serve_when_started_again",
            ),
            Test(
                "userspace/dataplane/src/socket.rs",
                "an_application_sees_an_orderly_end_only_if_there_was_one",
            ),
        ],
        missing: "the bar is not asserted, since a busy machine looks later: the figures say how \
                  many were within a second, and five seconds fail the test",
    },
    Promise {
        number: 17,
        promise: "One pod cannot make things worse for another: connections, handshakes and \
                  memory have quotas.",
        bar: "the other's p99 at most doubled, 0 errors",
        tests: &[
            Test(BOUNDS, "a_storm_of_handshakes_leaves_its_neighbor_alone"),
            Test(BOUNDS, "bulk_over_many_connections_leaves_its_neighbor_alone"),
            Test(BOUNDS, "connections_in_a_hurry_leave_their_neighbor_alone"),
            Test(BOUNDS, "silent_callers_leave_other_callers_of_the_same_server_alone"),
            Test(BOUNDS, "tiny_frames_leave_their_neighbor_alone"),
            Test(
                QUOTAS,
                "connections_in_flight_over_the_quota_are_refused_and_a_neighbors_are_not",
            ),
            Test(
                QUOTAS,
                "dials_to_an_application_over_the_quota_are_refused_and_a_neighbors_are_not",
            ),
            Test(QUOTAS, "ports_over_the_quota_are_not_reached_and_a_neighbors_are"),
            Test(QUOTAS, "a_flood_of_syns_makes_the_guard_forget_nothing_about_a_neighbor"),
        ],
        missing: "that p99 is at most doubled; 50,000 half-open connections",
    },
    Promise {
        number: 18,
        promise: "An agent on a kernel that lacks a needed feature is not ready and names it; \
                  it never serves a part in silence.",
        bar: "100 % of the features",
        tests: &[
            Test(LIFE, "an_agent_without_a_needed_feature_is_not_ready_and_names_it"),
            Test(ADOPTION, "each_missing_feature_is_named"),
            Test(GUARD, "where_the_kernel_has_no_tcx_the_guard_is_a_filter"),
        ],
        missing: "",
    },
    Promise {
        number: 19,
        promise: "Programs, links and map entries that somebody changed or removed are noticed, \
                  put back and reported.",
        bar: "within 5 s",
        tests: &[
            Test(GUARD, "a_guard_that_somebody_detached_is_put_back"),
            Test(ADOPTION, "a_link_to_another_cgroup_is_replaced"),
            Test(
                TAMPERING,
                "links_that_are_detached_replaced_or_unpinned_are_put_back_and_nothing_is_plain_meanwhile",
            ),
            Test(TAMPERING, "a_guard_that_is_detached_replaced_unpinned_or_overtaken_is_put_back"),
            Test(TAMPERING, "a_guard_that_is_a_filter_is_put_back_too"),
            Test(TAMPERING, "maps_that_are_unpinned_or_replaced_are_pinned_again"),
            Test(TAMPERING, "entries_that_are_removed_altered_or_added_are_put_right"),
            Test(TAMPERING, "members_that_are_removed_are_members_again"),
            Test(TAMPERING, "a_sysctl_a_listener_and_its_mark_are_put_back"),
            Test(TAMPERING, "a_pod_whose_listener_is_closed_is_enrolled_again"),
        ],
        missing: "entries of the maps that the programs write themselves, which nobody else can \
                  tell from right ones",
    },
    Promise {
        number: 20,
        promise: "Making a running pod strict ends its old plaintext connections.",
        bar: "within 1 s",
        tests: &[
            Test(GUARD, "plaintext_that_began_by_right_goes_on_until_the_pod_is_strict"),
            Test(
                LIFE,
                "what_is_open_goes_on_when_its_pods_are_enrolled_unless_strict_and_when_they_are_withdrawn",
            ),
            Test(
                STRICT,
                "a_pod_that_becomes_strict_keeps_what_it_opened_to_the_outside_and_has_inside",
            ),
            Test(
                STRICT,
                "a_strict_pods_connections_end_when_their_peer_joins_the_mesh_and_no_others",
            ),
            Test(STRICT, "the_agents_own_connections_are_never_closed"),
            Test(STRICT, "a_thousand_connections_are_closed_within_a_second"),
            Test(
                STRICT,
                "when_the_node_file_says_strict_old_plaintext_ends_within_a_second_and_is_recorded",
            ),
        ],
        missing: "",
    },
    Promise {
        number: 21,
        promise: "What the cluster's NetworkPolicies allow is not widened.",
        bar: "identical",
        tests: &[],
        missing: "the wire shows the applications' own addresses and ports; no cluster has been asked yet",
    },
    Promise {
        number: 22,
        promise: "Uninstalling leaves the node as it was found.",
        bar: "no difference",
        tests: &[
            Test(UNINSTALL, "after_uninstall_the_diff_is_empty_and_live_plaintext_goes_on"),
            Test(UNINSTALL, "a_crashed_agent_that_used_filters_leaves_nothing_after_uninstall"),
            Test(UNINSTALL, "a_qdisc_that_was_there_before_stays"),
            Test(UNINSTALL, "uninstall_works_when_half_is_gone_and_when_a_pod_is"),
            Test(UNINSTALL, "uninstall_can_stop_the_agent_first"),
        ],
        missing: "",
    },
    Promise {
        number: 23,
        promise: "Bad input of any kind, on any interface, is refused, counted, logged once, and \
                  harms nobody else.",
        bar: "100 % of the collections",
        tests: &[
            Test(STANDALONE, "bad_files_are_refused_with_place_and_remedy"),
            Test(REFUSALS, "wrong_callers_are_refused_before_an_application_byte"),
            Test(
                "userspace/telemetry/src/admin/tests.rs",
                "hostile_paths_are_refused_and_leave_the_server_working",
            ),
            Test(
                "userspace/dataplane/src/frame/tests.rs",
                "no_bytes_make_the_decoder_panic_and_cuts_change_nothing",
            ),
        ],
        missing: "collections for the kernel's maps and pins, floods",
    },
];
