//! Tests of `fs.write`, its undo and its refusals.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
};

use aios_tool_api::{ToolErrorKind, Undone};
use proptest::prelude::*;
use serde_json::json;

use crate::testing::Machine;

fn text(machine: &Machine, path: &str) -> String {
    fs::read_to_string(machine.path(path)).unwrap()
}

#[test]
fn a_new_file_is_written_and_removed_again() {
    let machine = Machine::new();
    fs::create_dir(machine.path("/srv")).unwrap();
    let before = machine.snapshot();
    let call = machine
        .run(
            "fs.write",
            json!({"path": "/srv/motd.txt", "content": "welcome aboard"}),
        )
        .unwrap();
    assert_eq!(text(&machine, "/srv/motd.txt"), "welcome aboard");
    assert_eq!(call.output["bytes"], 14);
    assert_eq!(call.output["created"], true);
    assert_eq!(call.output["mode"], "0644");
    assert!(matches!(machine.undo(&call), Undone::Undone(_)));
    assert_eq!(machine.snapshot(), before);
    assert!(matches!(machine.undo(&call), Undone::Nothing(_)));
}

#[test]
fn owner_and_mode_stay_and_come_back() {
    let machine = Machine::new();
    let file = machine.path("/f");
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::chown(&file, Some(1234), Some(2345)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4750)).unwrap();
    let before = machine.snapshot();
    let call = machine
        .run("fs.write", json!({"path": "/f", "content": "new"}))
        .unwrap();
    let meta = fs::metadata(&file).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (1234, 2345));
    assert_eq!(
        meta.mode() & 0o7777,
        0o750,
        "set-user-id must not survive a new content"
    );
    assert!(matches!(machine.undo(&call), Undone::Undone(_)));
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn appending_keeps_what_was_there() {
    let machine = Machine::new();
    fs::write(machine.path("/hosts"), "one\n").unwrap();
    let before = machine.snapshot();
    let call = machine
        .run(
            "fs.write",
            json!({"path": "/hosts", "content": "two\n", "append": true}),
        )
        .unwrap();
    assert_eq!(text(&machine, "/hosts"), "one\ntwo\n");
    assert!(matches!(machine.undo(&call), Undone::Undone(_)));
    assert_eq!(machine.snapshot(), before);
    let call = machine
        .run(
            "fs.write",
            json!({"path": "/fresh", "content": "x", "append": true}),
        )
        .unwrap();
    assert_eq!(call.output["created"], true);
}

#[test]
fn undo_refuses_when_somebody_changed_the_file_since() {
    let machine = Machine::new();
    for existed in [false, true] {
        if existed {
            fs::write(machine.path("/f"), "old").unwrap();
        }
        let call = machine
            .run("fs.write", json!({"path": "/f", "content": "ours"}))
            .unwrap();
        fs::write(machine.path("/f"), "theirs").unwrap();
        assert!(matches!(machine.undo(&call), Undone::Refused(_)));
        assert_eq!(text(&machine, "/f"), "theirs");
        fs::remove_file(machine.path("/f")).unwrap();
    }
    let call = machine
        .run("fs.write", json!({"path": "/f", "content": "ours"}))
        .unwrap();
    fs::remove_file(machine.path("/f")).unwrap();
    symlink("/etc/passwd", machine.path("/f")).unwrap();
    assert!(matches!(machine.undo(&call), Undone::Refused(_)));
    assert!(machine.path("/f").is_symlink());
}

#[test]
fn an_interrupted_call_is_undone_from_its_pre_image_alone() {
    let machine = Machine::new();
    fs::write(machine.path("/f"), "old").unwrap();
    let before = machine.snapshot();
    let call = machine
        .run("fs.write", json!({"path": "/f", "content": "new"}))
        .unwrap();
    // What a crash between the link and the rename leaves.
    let hash = aios_tool_api::canonical::sha256_hex(b"f");
    fs::write(
        machine.path(&format!("/.aios-write-{}-1-0", &hash[..16])),
        "new",
    )
    .unwrap();
    assert!(matches!(
        machine.undo_with(&call, None).unwrap(),
        Undone::Undone(_)
    ));
    assert_eq!(machine.snapshot(), before);
    assert!(matches!(
        machine.undo_with(&call, None).unwrap(),
        Undone::Nothing(_)
    ));
}

#[test]
fn a_damaged_pre_image_is_noticed() {
    let machine = Machine::new();
    fs::write(machine.path("/f"), "old").unwrap();
    let call = machine
        .run("fs.write", json!({"path": "/f", "content": "new"}))
        .unwrap();
    for blob in fs::read_dir(machine.blobs_dir()).unwrap() {
        fs::write(blob.unwrap().path(), "bad").unwrap();
    }
    assert!(machine.undo_with(&call, Some(&call.output)).is_err());
    assert_eq!(text(&machine, "/f"), "new");
}

#[test]
fn what_is_no_regular_file_is_not_replaced() {
    let machine = Machine::new();
    fs::create_dir(machine.path("/dir")).unwrap();
    fs::write(machine.path("/file"), "x").unwrap();
    symlink("/nowhere", machine.path("/dangling")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        machine.path("/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let before = machine.snapshot();
    for path in [
        "/dir",
        "/fifo",
        "/dangling",
        "/file/below",
        "/",
        "/new/",
        "/no/such/dir/f",
    ] {
        let result = machine.run("fs.write", json!({"path": path, "content": "x"}));
        assert!(result.is_err(), "{path}");
    }
    assert_eq!(machine.snapshot(), before);
    let error = machine
        .run("fs.write", json!({"path": "/no/such/f", "content": ""}))
        .err()
        .unwrap();
    assert_eq!(error.kind, ToolErrorKind::NotFound);
    assert!(error.hint.contains("fs.mkdir"), "{}", error.hint);
}

#[test]
fn a_parent_swapped_for_a_link_does_not_redirect_the_write() {
    let machine = Machine::new();
    fs::create_dir_all(machine.path("/srv/www")).unwrap();
    fs::create_dir_all(machine.path("/etc/cron")).unwrap();
    let tool = machine.registry.get("fs.write").unwrap();
    let args = machine
        .normalise("fs.write", json!({"path": "/srv/www/x", "content": "evil"}))
        .unwrap();
    fs::remove_dir(machine.path("/srv/www")).unwrap();
    symlink("/etc/cron", machine.path("/srv/www")).unwrap();
    assert_eq!(
        tool.pre_image(&args, &machine.context).unwrap_err().kind,
        ToolErrorKind::Conflict
    );
    assert_eq!(
        tool.execute(&args, &machine.context).unwrap_err().kind,
        ToolErrorKind::Conflict
    );
    assert_eq!(fs::read_dir(machine.path("/etc/cron")).unwrap().count(), 0);
}

#[test]
fn a_file_swapped_for_a_link_is_not_written_through() {
    let machine = Machine::new();
    fs::write(machine.path("/target"), "precious").unwrap();
    let tool = machine.registry.get("fs.write").unwrap();
    let args = machine
        .normalise("fs.write", json!({"path": "/f", "content": "evil"}))
        .unwrap();
    symlink("/target", machine.path("/f")).unwrap();
    assert!(tool.pre_image(&args, &machine.context).is_err());
    assert!(tool.execute(&args, &machine.context).is_err());
    assert_eq!(text(&machine, "/target"), "precious");
}

#[test]
fn writing_through_a_link_is_authorised_for_its_target() {
    let machine = Machine::new();
    fs::create_dir(machine.path("/etc")).unwrap();
    fs::write(machine.path("/etc/shadow"), "x").unwrap();
    symlink("etc/shadow", machine.path("/notes")).unwrap();
    let args = machine
        .normalise("fs.write", json!({"path": "/notes", "content": ""}))
        .unwrap();
    let needed = machine
        .registry
        .get("fs.write")
        .unwrap()
        .capabilities(&args)
        .unwrap();
    assert_eq!(needed[0].to_string(), "fs:write:/etc/shadow");
}

#[test]
fn the_kernels_files_are_not_replaced() {
    let mut machine = Machine::new();
    machine.context = machine.context_at("/");
    for path in ["/proc/sys/kernel/hostname", "/sys/kernel/x"] {
        let error = machine
            .run("fs.write", json!({"path": path, "content": "x"}))
            .err()
            .unwrap();
        assert_eq!(error.kind, ToolErrorKind::Invalid, "{error}");
    }
}

#[test]
fn the_longest_name_works_and_a_longer_one_does_not() {
    let machine = Machine::new();
    let longest = format!("/{}", "n".repeat(255));
    fs::write(machine.path(&longest), "old").unwrap();
    machine
        .run("fs.write", json!({"path": longest, "content": "new"}))
        .unwrap();
    let error = machine
        .run(
            "fs.write",
            json!({"path": format!("{longest}n"), "content": "x"}),
        )
        .err()
        .unwrap();
    assert_eq!(error.kind, ToolErrorKind::Invalid);
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let machine = Machine::new();
    for args in [
        json!({}),
        json!({"path": "/f"}),
        json!({"path": "/f", "content": 1}),
        json!({"path": "/f", "content": "", "mode": "0999"}),
        json!({"path": "/f", "content": "", "mode": 420}),
        json!({"path": "/f", "content": "", "mode": "4755"}),
        json!({"path": "/f", "content": "", "owner": "root"}),
        json!({"path": "/../f", "content": ""}),
        json!({"path": "/f\0", "content": ""}),
    ] {
        let error = machine.normalise("fs.write", args.clone()).unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Invalid, "{args}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn undo_of_write_is_what_was_there(
        old in proptest::option::of((proptest::collection::vec(any::<u8>(), 0..200), 0_u32..0o1000)),
        new in "\\PC{0,60}",
        mode in proptest::option::of(0_u32..0o1000),
        append: bool,
        crashed: bool,
    ) {
        let machine = Machine::new();
        if let Some((content, mode)) = &old {
            fs::write(machine.path("/f"), content).unwrap();
            fs::set_permissions(machine.path("/f"), fs::Permissions::from_mode(*mode)).unwrap();
        }
        let before = machine.snapshot();
        let mut args = json!({"path": "/f", "content": new, "append": append});
        if let Some(mode) = mode {
            args["mode"] = json!(format!("{mode:04o}"));
        }
        let call = machine.run("fs.write", args).unwrap();
        let undone = machine.undo_with(&call, (!crashed).then_some(&call.output)).unwrap();
        prop_assert!(!matches!(undone, Undone::Refused(_)), "{undone:?}");
        prop_assert_eq!(machine.snapshot(), before);
        prop_assert!(matches!(machine.undo(&call), Undone::Nothing(_)));
    }
}
