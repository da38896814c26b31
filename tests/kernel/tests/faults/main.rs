//! Seeded faults of the agents, their machine, their files and their wire, while canaries travel
//! between enrolled pods: none is ever seen on a wire, what is outside of the mesh flows on, and
//! service comes back.

mod calls;
mod claims;
mod clock;
mod deaths;
mod files;
mod limits;
mod memory;
mod pins;
mod series;
mod trial;
mod upgrade;
mod wire;

use anyhow::Result;

use self::{
    series::Series,
    trial::{UNCONCERNED, Watching},
};

#[test]
fn killed_agents_leak_nothing_reset_what_was_open_and_serve_when_started_again() -> Result<()> {
    let name = "killed_agents_leak_nothing_reset_what_was_open_and_serve_when_started_again";
    let series = Series::new(name, deaths::kill);
    Series { same_agents: false, serves_within: deaths::BACK, ..series }.run()
}

#[test]
fn an_agent_that_is_told_to_end_leaks_nothing_and_serves_when_started_again() -> Result<()> {
    let name = "an_agent_that_is_told_to_end_leaks_nothing_and_serves_when_started_again";
    Series { same_agents: false, ..Series::new(name, deaths::terminate) }.run()
}

#[test]
fn a_hanging_agent_lets_nothing_pass_and_serves_when_it_goes_on() -> Result<()> {
    let name = "a_hanging_agent_lets_nothing_pass_and_serves_when_it_goes_on";
    Series::new(name, deaths::stop).run()
}

#[test]
fn an_agent_that_is_killed_for_its_memory_leaks_nothing() -> Result<()> {
    let name = "an_agent_that_is_killed_for_its_memory_leaks_nothing";
    Series { same_agents: false, ..Series::new(name, deaths::out_of_memory) }.run()
}

#[test]
fn an_agent_without_file_descriptors_leaks_nothing_and_serves_when_it_has_some() -> Result<()> {
    let name = "an_agent_without_file_descriptors_leaks_nothing_and_serves_when_it_has_some";
    Series::new(name, limits::out_of_files).run()
}

#[test]
fn an_agent_on_a_full_disk_serves_and_can_be_started_again() -> Result<()> {
    let name = "an_agent_on_a_full_disk_serves_and_can_be_started_again";
    let prepare = limits::on_small_disks;
    Series { prepare, same_agents: false, ..Series::new(name, limits::out_of_room) }.run()
}

#[test]
fn an_agent_whose_system_calls_fail_leaks_nothing_and_serves_when_they_work() -> Result<()> {
    let name = "an_agent_whose_system_calls_fail_leaks_nothing_and_serves_when_they_work";
    Series::new(name, calls::failing).run()
}

#[test]
fn lost_packets_leak_nothing() -> Result<()> {
    Series::new("lost_packets_leak_nothing", wire::loss).run()
}

#[test]
fn a_cut_between_nodes_leaks_nothing_and_service_is_back_after_it() -> Result<()> {
    let name = "a_cut_between_nodes_leaks_nothing_and_service_is_back_after_it";
    Series::new(name, wire::partition).run()
}

#[test]
fn bad_files_of_the_authority_are_noticed_and_change_nothing() -> Result<()> {
    let name = "bad_files_of_the_authority_are_noticed_and_change_nothing";
    let prepare = files::with_own_authorities;
    Series { prepare, same_agents: false, ..Series::new(name, files::bad_authority) }.run()
}

#[test]
fn agents_with_different_roots_refuse_each_other_until_they_agree() -> Result<()> {
    let name = "agents_with_different_roots_refuse_each_other_until_they_agree";
    let prepare = files::with_own_authorities;
    Series { prepare, ..Series::new(name, files::another_root) }.run()
}

#[test]
fn a_bad_node_file_is_refused_and_interrupts_nothing() -> Result<()> {
    let name = "a_bad_node_file_is_refused_and_interrupts_nothing";
    Series { patience: UNCONCERNED, ..Series::new(name, files::bad_node_file) }.run()
}

#[test]
fn a_clock_that_jumps_leaks_nothing_and_service_is_back_when_it_is_right() -> Result<()> {
    let name = "a_clock_that_jumps_leaks_nothing_and_service_is_back_when_it_is_right";
    Series { prepare: clock::with_own_clocks, ..Series::new(name, clock::jump) }.run()
}

#[test]
fn pins_that_are_removed_are_put_back_and_nothing_is_plain_meanwhile() -> Result<()> {
    let name = "pins_that_are_removed_are_put_back_and_nothing_is_plain_meanwhile";
    let series = Series::new(name, pins::removed);
    let watching = Watching::BehindGuards;
    Series { same_agents: false, patience: UNCONCERNED, watching, ..series }.run()
}

#[test]
fn an_agent_that_takes_over_from_another_leaks_nothing_and_interrupts_nothing() -> Result<()> {
    let name = "an_agent_that_takes_over_from_another_leaks_nothing_and_interrupts_nothing";
    let series =
        Series { prepare: upgrade::with_successors, ..Series::new(name, upgrade::take_over) };
    Series { same_agents: false, patience: UNCONCERNED, ..series }.run()
}

#[test]
fn agents_that_are_killed_while_one_takes_over_leak_nothing_and_one_of_them_serves() -> Result<()> {
    let name = "agents_that_are_killed_while_one_takes_over_leak_nothing_and_one_of_them_serves";
    let series = Series { prepare: upgrade::with_successors, ..Series::new(name, upgrade::kill) };
    Series { same_agents: false, ..series }.run()
}

#[test]
fn an_agent_with_another_layout_of_the_maps_than_the_last_leaks_nothing_and_serves() -> Result<()> {
    let name = "an_agent_with_another_layout_of_the_maps_than_the_last_leaks_nothing_and_serves";
    Series { same_agents: false, ..Series::new(name, upgrade::change_layout) }.run()
}
