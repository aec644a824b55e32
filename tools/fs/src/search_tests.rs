//! Tests of `fs.search` on a small machine.

use std::{
    fs::{self, File, FileTimes},
    os::unix::fs::{PermissionsExt as _, symlink},
    sync::Arc,
    time::{Duration, SystemTime},
};

use aios_tool_api::{PathSet, ToolErrorKind};
use serde_json::{Value, json};

use crate::testing::Machine;

fn machine() -> Machine {
    let machine = Machine::new();
    fs::create_dir_all(machine.path("/home/ana/logs/old")).unwrap();
    fs::create_dir_all(machine.path("/home/empty")).unwrap();
    fs::create_dir_all(machine.path("/etc")).unwrap();
    fs::write(
        machine.path("/etc/passwd"),
        "ana:x:1000:1000::/home/ana:/bin/sh\n",
    )
    .unwrap();
    fs::write(machine.path("/etc/group"), "staff:x:50:\n").unwrap();
    fs::write(machine.path("/etc/shadow"), "ana:$6$hash").unwrap();
    fs::write(machine.path("/home/ana/big.iso"), vec![0; 3000]).unwrap();
    fs::write(
        machine.path("/home/ana/logs/app.log"),
        "fine\nERROR: disk\n",
    )
    .unwrap();
    fs::write(machine.path("/home/ana/logs/old/app.log"), "").unwrap();
    fs::write(machine.path("/home/ana/.secret"), "token").unwrap();
    symlink("/etc", machine.path("/home/ana/link")).unwrap();
    std::os::unix::fs::chown(machine.path("/home/ana/big.iso"), Some(1000), Some(50)).unwrap();
    fs::set_permissions(
        machine.path("/home/ana/.secret"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    let old = SystemTime::now() - Duration::from_secs(40 * 86_400);
    File::open(machine.path("/home/ana/big.iso"))
        .unwrap()
        .set_times(FileTimes::new().set_modified(old))
        .unwrap();
    machine
}

fn found(machine: &Machine, args: Value) -> Vec<String> {
    let output = machine.output("fs.search", args);
    output["matches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["path"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_filter_filters() {
    let machine = machine();
    for (filter, expected) in [
        (
            json!({"name": "*.log"}),
            vec!["/home/ana/logs/app.log", "/home/ana/logs/old/app.log"],
        ),
        (
            json!({"name": "APP*", "ignore_case": true, "max_depth": 3}),
            vec!["/home/ana/logs/app.log"],
        ),
        (json!({"contains": "ERROR"}), vec!["/home/ana/logs/app.log"]),
        (
            json!({"contains": "error", "ignore_case": true}),
            vec!["/home/ana/logs/app.log"],
        ),
        (json!({"contains": "error"}), vec![]),
        (json!({"min_size": "3kB"}), vec!["/home/ana/big.iso"]),
        (
            json!({"min_size": "5", "max_size": "5"}),
            vec!["/home/ana/.secret"],
        ),
        (json!({"older_than": "30d"}), vec!["/home/ana/big.iso"]),
        (json!({"newer_than": "1h", "name": "big*"}), vec![]),
        (json!({"kind": "symlink"}), vec!["/home/ana/link"]),
        (
            json!({"kind": "directory", "empty": true}),
            vec!["/home/empty"],
        ),
        (
            json!({"kind": "file", "empty": true}),
            vec!["/home/ana/logs/old/app.log"],
        ),
        (json!({"owner": "ana"}), vec!["/home/ana/big.iso"]),
        (json!({"group": "staff"}), vec!["/home/ana/big.iso"]),
        (json!({"mode": "0600"}), vec!["/home/ana/.secret"]),
        (
            json!({"max_depth": 1, "kind": "directory"}),
            vec!["/home/ana", "/home/empty"],
        ),
        (
            json!({"name": "*.log", "min_size": "1", "contains": "fine"}),
            vec!["/home/ana/logs/app.log"],
        ),
    ] {
        let mut args = filter.clone();
        args["path"] = json!("/home");
        assert_eq!(found(&machine, args), expected, "{filter}");
    }
}

#[test]
fn links_are_not_followed_and_cuts_are_said() {
    let mut machine = machine();
    assert!(found(&machine, json!({"path": "/home", "name": "passwd"})).is_empty());
    for number in 0..200 {
        fs::write(machine.path(&format!("/home/empty/{number}")), "").unwrap();
    }
    machine.context.output_limit = 12 << 10;
    let output = machine.output("fs.search", json!({"path": "/home/empty"}));
    assert_eq!(output["truncated"], true);
    assert_eq!(output["total"], 200);
    assert!(output.to_string().len() <= 12 << 10);
}

#[test]
fn contents_that_must_be_named_are_not_searched() {
    let mut machine = machine();
    machine.context.sensitive = Arc::new(PathSet::parse(["/etc/shadow"]).unwrap());
    let output = machine.output("fs.search", json!({"path": "/etc", "contains": "ana:"}));
    assert_eq!(output["matches"].as_array().unwrap().len(), 1);
    assert_eq!(output["matches"][0]["path"], "/etc/passwd");
    assert_eq!(output["skipped_count"], 1);
    assert_eq!(output["skipped"][0]["path"], "/etc/shadow");
    assert_eq!(
        found(&machine, json!({"path": "/etc", "name": "shadow"})),
        ["/etc/shadow"]
    );
}

#[test]
fn kernel_file_systems_are_not_entered_from_outside() {
    let mut machine = machine();
    machine.context = machine.context_at("/");
    let from_outside = found(
        &machine,
        json!({"path": "/", "max_depth": 2, "name": "meminfo"}),
    );
    assert!(from_outside.is_empty(), "{from_outside:?}");
    assert_eq!(
        found(
            &machine,
            json!({"path": "/proc", "max_depth": 1, "name": "meminfo"})
        ),
        ["/proc/meminfo"]
    );
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let machine = machine();
    for args in [
        json!({}),
        json!({"path": "home"}),
        json!({"path": "/home", "name": "a/b"}),
        json!({"path": "/home", "name": "[a"}),
        json!({"path": "/home", "min_size": 500}),
        json!({"path": "/home", "min_size": "500 bananas"}),
        json!({"path": "/home", "min_size": "2MB", "max_size": "1MB"}),
        json!({"path": "/home", "older_than": "two weeks"}),
        json!({"path": "/home", "kind": "socket"}),
        json!({"path": "/home", "contains": ""}),
        json!({"path": "/home", "max_depth": 0}),
        json!({"path": "/home", "max_depth": -1}),
        json!({"path": "/home", "owner": "nobody-of-that-name"}),
        json!({"path": "/home", "regex": ".*"}),
        json!({"path": "/etc/passwd"}),
    ] {
        let error = machine.run("fs.search", args.clone()).err().unwrap();
        assert_eq!(error.kind, ToolErrorKind::Invalid, "{args}: {error}");
    }
}
