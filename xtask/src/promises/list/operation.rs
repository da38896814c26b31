//! What becomes of it when something happens: promises 15 to 23.

use super::{
    ADOPTION, BOUNDS, FAULTS, GUARD, KUBERNETES_INSTALL, LIFE, QUOTAS, REFUSALS, STANDALONE,
    STRICT, TAKEOVER, TAKEOVER_CONTROLLER, TAKEOVER_DEATHS, TAKEOVER_PLUGIN, TAMPERING, UNINSTALL,
};
use crate::promises::{Promise, Test};

pub const PROMISES: &[Promise] = &[
    Promise {
        number: 15,
        promise: "A planned upgrade of the agent fails no new connection and resets no \
                  established one within the time to drain.",
        bar: "0 of 1,000,000 requests and 0 of 10,000 streams, over 20 upgrades",
        tests: &[
            Test(
                TAKEOVER,
                "agents_are_replaced_again_and_again_and_no_connection_is_refused_or_reset",
            ),
            Test(TAKEOVER_DEATHS, "a_successor_that_is_killed_before_it_serves_interrupts_nothing"),
            Test(TAKEOVER_DEATHS, "a_predecessor_that_is_killed_meanwhile_is_followed"),
            Test(TAKEOVER, "an_agent_that_was_told_to_stop_is_taken_over_from_before_it_does"),
            Test(
                TAKEOVER_CONTROLLER,
                "without_a_controller_an_agent_is_replaced_and_serves_with_what_is_kept",
            ),
            Test(
                TAKEOVER_PLUGIN,
                "a_pod_that_arrives_during_a_takeover_is_answered_and_never_refused_or_lost",
            ),
        ],
        missing: "the number of requests and streams of the bar; a cluster whose DaemonSets make \
                  the next pod first; two released versions",
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
            Test(BOUNDS, "half_open_connections_leave_other_callers_of_the_same_server_alone"),
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
        missing: "that p99 is at most doubled beside who keeps the agent busy; beside callers that \
                  say nothing it is, and beside 55,000 half-open connections that of round trips",
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
        missing: "the wire shows the applications' own addresses and ports; no engine for \
                  NetworkPolicies has been asked yet",
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
            Test(KUBERNETES_INSTALL, "two_commands_install_and_one_leaves_the_nodes_as_they_were"),
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
