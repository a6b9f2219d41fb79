//! sd_notify(3): what the supervisor is told, and when.

use crate::directory::Directory;
use crate::programs::Program;
use crate::service::{Client, command, start};
use crate::supervisor::Supervisor;

/// A supervisor, and the service that it has started with these variables.
fn supervised(kind: &str, variables: &[(&str, &str)]) -> (Supervisor, Program, Directory) {
    let directory = Directory::new();
    let path = directory.path("notify");
    let supervisor = Supervisor::at(&path);
    let variables = [variables, &[("NOTIFY_SOCKET", &*path)]].concat();
    let service = start(kind, &variables);
    (supervisor, service, directory)
}

#[test]
fn the_service_is_ready_when_it_serves_and_stopping_when_it_is_told_to() {
    let (supervisor, mut service, _directory) = supervised("reactor", &[]);
    supervisor.expect(service.pid, "READY=1");
    let mut client = Client::of(&service);
    assert_eq!(client.ask("hold"), "done");
    service.signal("TERM");
    supervisor.expect(service.pid, "STOPPING=1");
    assert_eq!(client.ask("it is told at once"), "it is told at once");
    drop(client);
    assert!(service.exit().success());
}

#[test]
fn the_watchdog_is_told_while_the_service_serves_and_while_it_drains() {
    let (supervisor, mut service, _directory) = supervised("reactor", &[("WATCHDOG_USEC", "40000")]);
    supervisor.expect(service.pid, "READY=1");
    let mut client = Client::of(&service);
    client.ask("hold");
    for _ in 0..3 {
        supervisor.expect(service.pid, "WATCHDOG=1");
    }
    service.signal("TERM");
    supervisor.until("STOPPING=1");
    for _ in 0..5 {
        supervisor.expect(service.pid, "WATCHDOG=1");
    }
    assert_eq!(client.ask("it still drains"), "it still drains");
    drop(client);
    assert!(service.exit().success());
}

#[test]
fn a_watchdog_of_another_process_is_not_told() {
    for watchdog in [&[("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")][..], &[("WATCHDOG_USEC", "0")], &[]] {
        let (supervisor, mut service, _directory) = supervised("reactor", watchdog);
        supervisor.expect(service.pid, "READY=1");
        let mut client = Client::of(&service);
        client.ask("tick 10");
        for tick in 1..5 {
            supervisor.expect(service.pid, &format!("STATUS=tick {tick}"));
        }
        drop(client);
        service.stops_in_good_order();
    }
}

#[test]
fn the_watchdog_is_told_by_the_process_that_it_names() {
    let directory = Directory::new();
    let path = directory.path("notify");
    let supervisor = Supervisor::at(&path);
    // The shell becomes the service, so it has the same number.
    let service = command("reactor", &[("NOTIFY_SOCKET", &*path), ("WATCHDOG_USEC", "10000")]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", r#"WATCHDOG_PID=$$ exec "$0" "$@""#]).arg(service.get_program()).args(service.get_args());
    shell.envs(service.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut service = Program::spawn(&mut shell);
    supervisor.expect(service.pid, "READY=1");
    supervisor.expect(service.pid, "WATCHDOG=1");
    service.stops_in_good_order();
}

#[test]
fn a_status_says_nothing_but_a_status() {
    let (supervisor, mut service, _directory) = supervised("reactor", &[]);
    supervisor.expect(service.pid, "READY=1");
    let mut client = Client::of(&service);
    client.ask("status from a client|MAINPID=1|STOPPING=1");
    supervisor.expect(service.pid, r"STATUS=from a client\nMAINPID=1\nSTOPPING=1");
    client.ask(&format!("status {}", "x".repeat(5_000)));
    supervisor.expect(service.pid, &format!("STATUS={}…", "x".repeat(1_024)));
    drop(client);
    service.stops_in_good_order();
}

#[test]
fn a_reload_has_a_time_stamp_and_an_end() {
    let (supervisor, mut service, _directory) = supervised("reactor", &[]);
    supervisor.expect(service.pid, "READY=1");
    let mut client = Client::of(&service);
    let mut last = 0;
    for how in ["reload", "reload", "hangup", "hangup"] {
        client.ask(how);
        let told = supervisor.hear().text;
        let time = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{told:?}"));
        let time: u64 = time.trim_end().parse().unwrap();
        assert!(time > last);
        last = time;
        supervisor.expect(service.pid, "READY=1");
    }
    drop(client);
    service.stops_in_good_order();
}

#[test]
fn a_reload_of_workers_ends_when_all_have_reloaded() {
    let reloaded = Directory::new();
    let (supervisor, mut service, _directory) = supervised("reloading", &[("RELOADED", &reloaded.path("done"))]);
    supervisor.expect(service.pid, "READY=1");
    service.signal("HUP");
    supervisor.until("RELOADING=1");
    (0..2).for_each(|_| supervisor.expect(service.pid, "STATUS=reloads"));
    reloaded.file("done", "");
    (0..2).for_each(|_| supervisor.expect(service.pid, "STATUS=has reloaded"));
    supervisor.expect(service.pid, "READY=1");
    service.signal("TERM");
    supervisor.expect(service.pid, "STOPPING=1");
    assert!(service.exit().success());
}

#[test]
fn a_reload_that_ends_during_a_stop_does_not_make_the_service_ready() {
    let reloaded = Directory::new();
    let (supervisor, mut service, _directory) = supervised("reloading", &[("RELOADED", &reloaded.path("done"))]);
    supervisor.expect(service.pid, "READY=1");
    service.signal("HUP");
    supervisor.until("RELOADING=1");
    (0..2).for_each(|_| supervisor.expect(service.pid, "STATUS=reloads"));
    service.signal("TERM");
    supervisor.expect(service.pid, "STOPPING=1");
    reloaded.file("done", "");
    (0..2).for_each(|_| supervisor.expect(service.pid, "STATUS=has reloaded"));
    assert!(service.exit().success());
    supervisor.expect_no_more();
}

#[test]
fn a_supervisor_that_does_not_read_does_not_block_the_service() {
    let (supervisor, mut service, _directory) = supervised("reactor", &[]);
    let mut client = Client::of(&service);
    assert_eq!(client.ask("flood"), "done");
    service.log.until("the supervisor is not told STATUS=flood: ");
    supervisor.expect(service.pid, "READY=1");
    supervisor.expect(service.pid, "STATUS=flood");
    assert_eq!(client.ask("hello"), "hello");
    drop(client);
    service.stops_in_good_order();
}

#[test]
fn a_supervisor_that_was_started_again_is_told() {
    let (supervisor, mut service, directory) = supervised("reactor", &[]);
    supervisor.expect(service.pid, "READY=1");
    supervisor.close();
    std::fs::remove_file(directory.at("notify")).unwrap();
    let mut client = Client::of(&service);
    client.ask("status nobody");
    let path = directory.path("notify");
    service
        .log
        .until(&format!("the supervisor is not told STATUS=nobody: NOTIFY_SOCKET={path}: no such file or directory"));
    let supervisor = Supervisor::at(directory.at("notify"));
    client.ask("status again");
    supervisor.expect(service.pid, "STATUS=again");
    drop(client);
    service.stops_in_good_order();
}

#[test]
fn a_supervisor_may_have_an_abstract_name() {
    let name = format!("socketserver-test-{}", std::process::id());
    let supervisor = Supervisor::named(&name);
    let mut service = start("reactor", &[("NOTIFY_SOCKET", &*format!("@{name}"))]);
    supervisor.expect(service.pid, "READY=1");
    service.stops_in_good_order();
}

#[test]
fn nothing_happens_without_a_supervisor() {
    for variables in [&[("WATCHDOG_USEC", "1000")][..], &[("NOTIFY_SOCKET", "")]] {
        let mut service = start("reactor", variables);
        let mut client = Client::of(&service);
        for line in ["status quiet", "reload", "flood"] {
            assert_eq!(client.ask(line), "done");
        }
        drop(client);
        service.stops_in_good_order();
        let log: Vec<_> = service.log.lines().filter(|line| line.contains("WARN")).collect();
        assert!(log.is_empty(), "{log:?}");
    }
}

#[test]
fn a_supervisor_that_cannot_be_reached_is_an_error() {
    for (socket, why) in [
        (
            "/nonexistent/notify",
            "cannot notify the supervisor: NOTIFY_SOCKET=/nonexistent/notify: no such file or directory",
        ),
        (
            "vsock:2:1234",
            "cannot notify the supervisor: NOTIFY_SOCKET=vsock:2:1234: neither a path nor an abstract name",
        ),
    ] {
        let mut service = Program::spawn(&mut command("reactor", &[("NOTIFY_SOCKET", socket)]));
        service.log.until(why);
        assert!(!service.exit().success());
    }
}

#[test]
fn a_server_that_serves_again_is_ready_again() {
    let (supervisor, mut service, _directory) = supervised("server", &[]);
    for _ in 0..2 {
        supervisor.expect(service.pid, "READY=1");
        service.connect_when_up();
        supervisor.expect(service.pid, "STOPPING=1");
    }
    assert!(service.exit().success());
}

#[test]
fn a_server_takes_its_supervisor_to_another_reactor() {
    // From the beginning, after it has served, and when the other reactor serves.
    for how in ["", "SERVES_BEFORE", "MOVES_LATE"] {
        let variables = [("WATCHDOG_USEC", "10000"), (how, "1")];
        let variables = if how.is_empty() { &variables[..1] } else { &variables };
        let (supervisor, mut service, _directory) = supervised("moved", variables);
        supervisor.expect(service.pid, "READY=1");
        for _ in 0..3 {
            supervisor.expect(service.pid, "WATCHDOG=1");
        }
        service.connect_when_up();
        supervisor.until("STOPPING=1");
        assert!(service.exit().success());
    }
}
