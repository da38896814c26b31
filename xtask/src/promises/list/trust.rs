//! Who is who, and who may do what: promises 6 to 14.

use super::{
    ATTEST, AUTHORITY, AUTHORITY_KEYS, CERTIFICATES, CHURN, CLUSTER, CORPUS, FAULT_CLAIMS, FAULTS,
    GUARD, HANDSHAKES, JUDGED_ELSEWHERE, KEPT_KEYS, KEYS, KUBERNETES_CHURN, KUBERNETES_LIFE,
    KUBERNETES_POLICY, KUBERNETES_WORLD, LAPSES, LIFE, MUTATIONS, OUTAGE, PLACES, PRIVILEGES,
    REFUSALS, REGISTRAR, ROTATION, SPIFFE, STEERING, UNITS, WORKLOAD_API,
};
use crate::promises::{Promise, Test};

pub const PROMISES: &[Promise] = &[
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
            Test(
                CLUSTER,
                "what_the_controller_declares_is_taken_over_and_what_it_withdraws_is_forgotten",
            ),
            Test(CLUSTER, "a_node_without_a_good_token_enrolls_nothing_and_says_why"),
            Test(PLACES, "the_same_living_pod_may_have_a_certificate"),
            Test(PLACES, "no_other_pod_may_have_one"),
            Test(ATTEST, "an_agents_token_is_bound_to_its_pod"),
            Test(ATTEST, "no_other_token_is_an_agents"),
        ],
        missing: "races against the API server of a real cluster",
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
            Test(
                UNITS,
                "a_service_with_a_namespace_of_its_own_is_a_workload_and_another_one_after_its_restart",
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
        missing: "swap, where the limit of locked memory can't be made infinite: the agent says so",
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
            Test(
                KUBERNETES_CHURN,
                "pods_that_come_and_go_are_who_they_are_and_leave_nothing_behind",
            ),
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
            Test(
                ROTATION,
                "two_trust_domains_talk_after_they_exchanged_bundles_and_one_that_is_cut_off_is_alone",
            ),
            Test(
                UNITS,
                "a_service_in_the_hosts_namespace_is_refused_and_told_what_to_do_and_harms_nobody",
            ),
            Test(WORKLOAD_API, "a_workload_gets_its_identity_and_nobody_else_gets_it"),
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
            Test(KUBERNETES_POLICY, "what_is_not_known_is_refused_and_never_dropped"),
            Test(KUBERNETES_POLICY, "a_refused_policy_is_still_about_whom_it_selects"),
            Test(KUBERNETES_WORLD, "a_policy_that_cannot_be_enforced_refuses_what_it_selects"),
            Test(CLUSTER, "without_the_controller_all_goes_on_also_after_an_agent_was_killed"),
            Test(
                KUBERNETES_LIFE,
                "while_parts_of_the_cluster_come_and_go_nothing_is_plain_and_all_else_is_carried",
            ),
        ],
        missing: "",
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
            Test(
                CERTIFICATES,
                "a_clock_that_jumps_by_ten_years_uses_nothing_that_is_over_and_asks_with_pauses",
            ),
            Test(
                OUTAGE,
                "a_nodes_clock_that_is_far_from_its_controllers_is_reported_and_one_that_is_near_is_not",
            ),
            Test(
                WORKLOAD_API,
                "what_could_not_be_renewed_is_handed_out_to_nobody_when_it_has_expired",
            ),
            Test(ROTATION, "a_root_is_replaced_under_load_and_no_connection_and_no_stream_fails"),
            Test(ROTATION, "a_rotation_that_is_forced_on_says_what_it_breaks_and_breaks_just_that"),
            Test(ROTATION, "a_rotation_goes_on_after_its_controller_and_an_agent_were_killed"),
            Test(ROTATION, "a_rotation_that_is_taken_back_leaves_the_old_root"),
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
            Test(
                OUTAGE,
                "for_a_day_without_a_controller_all_are_served_then_refused_and_never_plain",
            ),
            Test(
                OUTAGE,
                "certificates_that_are_half_their_age_when_the_controller_goes_last_for_the_other_half",
            ),
            Test(
                CERTIFICATES,
                "through_an_outage_the_last_good_certificate_is_kept_until_it_expires_also_by_new_processes",
            ),
            Test(
                CERTIFICATES,
                "after_an_outage_all_is_renewed_within_the_longest_pause_and_what_has_expired_at_once",
            ),
        ],
        missing: "all 24 hours whenever the outage begins: certificates live a day and are renewed \
                  at half of it, so they last for 12 hours at least, and for 24 if they are fresh; \
                  and new pods get none meanwhile",
    },
];
