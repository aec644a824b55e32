//! Tests of `fs.mkdir`, its undo and its refusals.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use aios_tool_api::{ToolErrorKind, Undone};
use serde_json::json;

use crate::testing::Machine;

fn mode(machine: &Machine, path: &str) -> u32 {
    fs::metadata(machine.path(path))
        .unwrap()
        .permissions()
        .mode()
        & 0o7777
}

#[test]
fn missing_directories_are_made_and_removed_again() {
    let machine = Machine::new();
    fs::create_dir(machine.path("/srv")).unwrap();
    let before = machine.snapshot();
    let call = machine
        .run("fs.mkdir", json!({"path": "/srv/a b/ü/c/", "mode": "2770"}))
        .unwrap();
    assert_eq!(call.output["path"], "/srv/a b/ü/c");
    assert_eq!(
        call.output["created"],
        json!(["/srv/a b", "/srv/a b/ü", "/srv/a b/ü/c"])
    );
    assert_eq!(call.output["mode"], "2770");
    assert_eq!(mode(&machine, "/srv/a b/ü/c"), 0o2770);
    assert_eq!(mode(&machine, "/srv/a b"), 0o755);
    assert!(matches!(machine.undo(&call), Undone::Undone(_)));
    assert_eq!(machine.snapshot(), before);
    assert!(matches!(machine.undo(&call), Undone::Nothing(_)));
}

#[test]
fn what_is_there_already_is_left_as_it_is() {
    let machine = Machine::new();
    fs::create_dir(machine.path("/srv")).unwrap();
    fs::set_permissions(machine.path("/srv"), fs::Permissions::from_mode(0o700)).unwrap();
    let call = machine.run("fs.mkdir", json!({"path": "/srv"})).unwrap();
    assert_eq!(call.output["created"], json!([]));
    assert_eq!(call.output["mode"], "0700");
    assert!(matches!(machine.undo(&call), Undone::Nothing(_)));
    assert!(machine.path("/srv").exists());
    assert!(
        machine
            .run("fs.mkdir", json!({"path": "/srv", "mode": "0700"}))
            .is_ok()
    );
    let error = machine
        .run("fs.mkdir", json!({"path": "/srv", "mode": "0755"}))
        .err()
        .unwrap();
    assert_eq!(error.kind, ToolErrorKind::Conflict);
    assert_eq!(mode(&machine, "/srv"), 0o700);
}

#[test]
fn undo_refuses_when_something_was_put_inside_and_then_removes_nothing() {
    let machine = Machine::new();
    let call = machine.run("fs.mkdir", json!({"path": "/a/b/c"})).unwrap();
    fs::write(machine.path("/a/b/theirs"), "t").unwrap();
    let now = machine.snapshot();
    assert!(matches!(machine.undo(&call), Undone::Refused(_)));
    assert_eq!(machine.snapshot(), now);
    fs::remove_file(machine.path("/a/b/theirs")).unwrap();
    fs::remove_dir(machine.path("/a/b/c")).unwrap();
    symlink("/etc", machine.path("/a/b/c")).unwrap();
    assert!(matches!(machine.undo(&call), Undone::Refused(_)));
    assert!(machine.path("/a/b/c").is_symlink());
}

#[test]
fn an_interrupted_call_is_undone_as_far_as_it_went() {
    let machine = Machine::new();
    let before = machine.snapshot();
    let tool = machine.registry.get("fs.mkdir").unwrap();
    let args = machine
        .normalise("fs.mkdir", json!({"path": "/a/b/c"}))
        .unwrap();
    let pre_image = tool.pre_image(&args, &machine.context).unwrap().unwrap();
    fs::create_dir_all(machine.path("/a/b")).unwrap();
    let undone = tool
        .undo(&args, &pre_image, None, &machine.context)
        .unwrap();
    assert!(matches!(undone, Undone::Undone(_)), "{undone:?}");
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn files_and_swapped_links_are_in_the_way() {
    let machine = Machine::new();
    fs::write(machine.path("/file"), "x").unwrap();
    fs::create_dir_all(machine.path("/srv/www")).unwrap();
    fs::create_dir(machine.path("/etc")).unwrap();
    let kind = |path: &str| {
        machine
            .run("fs.mkdir", json!({"path": path}))
            .err()
            .unwrap()
            .kind
    };
    assert_eq!(kind("/file"), ToolErrorKind::Conflict);
    assert_eq!(kind("/file/below"), ToolErrorKind::Conflict);
    assert_eq!(kind("/a/../b"), ToolErrorKind::Invalid);
    let tool = machine.registry.get("fs.mkdir").unwrap();
    let args = machine
        .normalise("fs.mkdir", json!({"path": "/srv/www/new"}))
        .unwrap();
    fs::remove_dir(machine.path("/srv/www")).unwrap();
    symlink("/etc", machine.path("/srv/www")).unwrap();
    assert!(tool.pre_image(&args, &machine.context).is_err());
    assert!(tool.execute(&args, &machine.context).is_err());
    assert!(!machine.path("/etc/new").exists());
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let machine = Machine::new();
    for args in [
        json!({}),
        json!({"path": ""}),
        json!({"path": "srv"}),
        json!({"path": "/srv", "mode": 493}),
        json!({"path": "/srv", "mode": "rwx"}),
        json!({"path": "/srv", "parents": true}),
    ] {
        let error = machine.normalise("fs.mkdir", args.clone()).unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Invalid, "{args}");
    }
}
