//! Processes that are killed and power that fails, in the middle of goals.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{thread, time::Duration};

use aios_tests_vm::{Machine, options, package_source};
use anyhow::ensure;
use serde_json::{Value, json};

const UNITS: [&str; 13] = [
    "runtime",
    "memory",
    "tools",
    "orchestrator",
    "console",
    "agent-system",
    "agent-network",
    "agent-security",
    "agent-task",
    "agent-package",
    "agent-storage",
    "agent-monitor",
    "agent-dev",
];

fn service<'a>(list: &'a Value, name: &str) -> &'a Value {
    list["services"]
        .as_array()
        .unwrap()
        .iter()
        .find(|service| service["name"] == name)
        .unwrap_or_else(|| panic!("no service {name} in {list:#}"))
}

#[test]
fn every_killed_process_is_back_within_a_second_and_its_goal_ends_rightly() {
    let mut machine = Machine::boot(&options().unwrap()).unwrap();
    for unit in UNITS {
        let before = service(&machine.json(&["service", "list"]).unwrap(), unit).clone();
        let path = format!("/srv/{unit}.txt");
        let goal = format!("create the file {path} with the text before and after {unit}");
        let child = machine
            .command(&["goal", "run", "--json", "--", &goal])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let stamp = format!("/srv/{unit}.killed-at");
        machine
            .inside(
                &format!("kill-{unit}"),
                &format!("date +%s.%N > {stamp}; kill -9 {}", before["pid"]),
            )
            .unwrap();

        let after = machine
            .eventually(Duration::from_secs(90), |machine| {
                let list = machine.json(&["service", "list"])?;
                let now = service(&list, unit).clone();
                ensure!(
                    now["state"] == "ready" && now["pid"] != before["pid"],
                    "{now:#}"
                );
                Ok(now)
            })
            .unwrap();
        let killed_at: f64 = machine
            .eventually(Duration::from_secs(30), |machine| {
                let read = machine.tool("fs.read", &json!({ "path": stamp }))?;
                Ok(read["content"]
                    .as_str()
                    .unwrap_or_default()
                    .trim()
                    .parse()?)
            })
            .unwrap();
        let ready_at = after["since_ms"].as_f64().unwrap() / 1000.0;
        let away = ready_at - killed_at;
        println!("{unit}: back after {away:.2} s of guest time");
        assert!(away < 1.0, "{unit} was away for {away:.2} s: {after:#}");

        // If the connection was lost with the console, the goal still runs on the machine.
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        machine
            .eventually(Duration::from_secs(90), |machine| {
                let goals = machine.json(&["goal", "list"])?;
                let found = goals["goals"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|record| record["text"] == goal.as_str())
                    .cloned()
                    .unwrap_or_default();
                ensure!(found["status"] == "completed", "{found:#}\n{text}");
                Ok(())
            })
            .unwrap();
        let ledger = machine
            .json(&["audit", "list", "--tool", "fs.write"])
            .unwrap();
        let done = ledger["records"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|record| record["kind"] == "outcome" && record.to_string().contains(&path))
            .count();
        assert_eq!(
            done, 1,
            "{unit}: the file was written {done} times: {ledger:#}"
        );
    }
    let verified = machine.json(&["audit", "verify"]).unwrap();
    assert_eq!(verified["ok"], true, "{verified:#}");
    machine.power_off().unwrap();
}

#[test]
fn a_goal_survives_a_power_failure() {
    let source = package_source().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut options = options().unwrap();
    options.data = Some(dir.path().join("data.img"));
    options
        .parameters
        .push(("package-source".to_owned(), source.guest_url()));

    let mut machine = Machine::boot(&options).unwrap();
    let goal = "install nginx and make sure it answers on port 80";
    let submitted = machine
        .json(&["goal", "run", "--no-wait", "--", goal])
        .unwrap();
    let id = submitted["id"].as_str().unwrap().to_owned();
    machine
        .eventually(Duration::from_secs(120), |machine| {
            let ledger = machine.json(&["audit", "list", "--tool", "pkg.install"])?;
            ensure!(
                ledger["records"]
                    .as_array()
                    .is_some_and(|records| records.iter().any(|record| record["kind"] == "intent")),
                "not yet"
            );
            Ok(())
        })
        .unwrap();
    // apt is at work now: the power fails.
    thread::sleep(Duration::from_secs(3));
    machine.vm.kill();
    drop(machine);

    let mut machine = Machine::boot(&options).unwrap();
    let ended = machine
        .eventually(Duration::from_secs(300), |machine| {
            let view = machine.json(&["goal", "show", &id])?;
            ensure!(view["status"] == "completed", "{view:#}");
            Ok(view)
        })
        .unwrap();
    println!("resumed: {}", ended["result"]);
    let port = machine
        .tool("net.check_port", &json!({"port": 80}))
        .unwrap();
    assert_eq!(port["open"], true, "{port:#}");
    let verified = machine.json(&["audit", "verify"]).unwrap();
    assert_eq!(verified["ok"], true, "{verified:#}");
    machine.power_off().unwrap();
}
