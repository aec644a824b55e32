//! Tests of `fs.delete`, its undo and its refusals.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
    sync::Arc,
};

use aios_tool_api::{PathSet, ToolErrorKind, Undone};
use proptest::prelude::*;
use serde_json::json;

use crate::testing::Machine;

fn fifo(machine: &Machine, path: &str) {
    let mode = rustix::fs::Mode::from_raw_mode(0o620);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        machine.path(path),
        rustix::fs::FileType::Fifo,
        mode,
        0,
    )
    .unwrap();
}

fn site() -> Machine {
    let machine = Machine::new();
    fs::create_dir_all(machine.path("/srv/site/img/deep")).unwrap();
    fs::write(machine.path("/srv/site/index.html"), "<h1>hi</h1>").unwrap();
    fs::write(machine.path("/srv/site/img/a.png"), [0, 159, 146, 150]).unwrap();
    fs::write(machine.path("/srv/site/img/deep/empty"), "").unwrap();
    fs::write(machine.path("/keep"), "keep").unwrap();
    symlink("/keep", machine.path("/srv/site/link")).unwrap();
    symlink("nowhere", machine.path("/srv/site/dangling")).unwrap();
    let odd = machine
        .path("/srv/site")
        .join(std::ffi::OsStr::from_bytes(b"not \xff utf8"));
    fs::write(odd, "odd").unwrap();
    fifo(&machine, "/srv/site/pipe");
    UnixListener::bind(machine.path("/srv/site/sock")).unwrap();
    std::os::unix::fs::chown(machine.path("/srv/site/img"), Some(33), Some(44)).unwrap();
    std::os::unix::fs::lchown(machine.path("/srv/site/link"), Some(5), Some(6)).unwrap();
    fs::set_permissions(
        machine.path("/srv/site/img"),
        fs::Permissions::from_mode(0o2571),
    )
    .unwrap();
    machine
}

#[test]
fn a_tree_goes_and_comes_back_exactly() {
    let machine = site();
    let before = machine.snapshot();
    let time = fs::metadata(machine.path("/srv/site/img/a.png"))
        .unwrap()
        .mtime_nsec();
    let call = machine
        .run("fs.delete", json!({"path": "/srv/site", "recursive": true}))
        .unwrap();
    assert!(!machine.path("/srv/site").exists());
    assert_eq!(fs::read_dir(machine.path("/srv")).unwrap().count(), 0);
    assert_eq!(call.output["removed"], 11);
    assert_eq!(fs::read_to_string(machine.path("/keep")).unwrap(), "keep");
    assert!(matches!(machine.undo(&call), Undone::Undone(_)));
    assert_eq!(machine.snapshot(), before);
    assert_eq!(
        fs::metadata(machine.path("/srv/site/img/a.png"))
            .unwrap()
            .mtime_nsec(),
        time
    );
    assert!(matches!(machine.undo(&call), Undone::Nothing(_)));
}

#[test]
fn files_links_and_empty_directories_need_no_recursion() {
    let machine = site();
    let before = machine.snapshot();
    for path in [
        "/srv/site/index.html",
        "/srv/site/link",
        "/srv/site/dangling",
        "/srv/site/pipe",
    ] {
        let call = machine.run("fs.delete", json!({"path": path})).unwrap();
        assert!(!machine.path(path).exists() && !machine.path(path).is_symlink());
        assert!(matches!(machine.undo(&call), Undone::Undone(_)), "{path}");
        assert_eq!(machine.snapshot(), before);
    }
    assert!(machine.path("/keep").exists());
    fs::create_dir(machine.path("/empty")).unwrap();
    let call = machine
        .run("fs.delete", json!({"path": "/empty/"}))
        .unwrap();
    assert_eq!(call.output["kind"], "directory");
    let error = machine
        .run("fs.delete", json!({"path": "/srv/site"}))
        .err()
        .unwrap();
    assert_eq!(error.kind, ToolErrorKind::Conflict);
    assert!(error.hint.contains("recursive"));
}

#[test]
fn undo_refuses_when_something_else_is_there() {
    let machine = site();
    let call = machine
        .run("fs.delete", json!({"path": "/srv/site", "recursive": true}))
        .unwrap();
    fs::create_dir(machine.path("/srv/site")).unwrap();
    fs::write(machine.path("/srv/site/theirs"), "t").unwrap();
    let now = machine.snapshot();
    assert!(matches!(machine.undo(&call), Undone::Refused(_)));
    assert_eq!(machine.snapshot(), now);
    fs::remove_dir_all(machine.path("/srv")).unwrap();
    assert!(matches!(machine.undo(&call), Undone::Refused(_)));
}

#[test]
fn a_crash_in_the_middle_is_undone() {
    let machine = site();
    let before = machine.snapshot();
    let call = machine
        .run("fs.delete", json!({"path": "/srv/site", "recursive": true}))
        .unwrap();
    // As if the machine had lost power while the renamed tree was taken apart, and again while an
    // undo rebuilt it.
    let hash = aios_tool_api::canonical::sha256_hex(b"site");
    fs::create_dir_all(machine.path(&format!("/srv/.aios-delete-{}/img", &hash[..16]))).unwrap();
    fs::create_dir_all(machine.path(&format!("/srv/.aios-restore-{}/img", &hash[..16]))).unwrap();
    assert!(matches!(
        machine.undo_with(&call, None).unwrap(),
        Undone::Undone(_)
    ));
    assert_eq!(machine.snapshot(), before);
    // And before anything was done at all.
    assert!(matches!(
        machine.undo_with(&call, None).unwrap(),
        Undone::Nothing(_)
    ));
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn the_system_is_not_deleted() {
    let machine = Machine::new();
    for path in [
        "/",
        "/etc",
        "/usr/",
        "/usr/bin",
        "/var/lib",
        "/home",
        "/proc",
        "/proc/1",
        "/sys/kernel",
        "//etc/.",
    ] {
        let error = machine
            .normalise("fs.delete", json!({"path": path, "recursive": true}))
            .unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Invalid, "{path}: {error}");
    }
    // Nor by another name for it.
    fs::create_dir_all(machine.path("/usr/bin")).unwrap();
    symlink("usr", machine.path("/alias")).unwrap();
    assert!(
        machine
            .normalise(
                "fs.delete",
                json!({"path": "/alias/bin", "recursive": true})
            )
            .is_err()
    );
    assert!(
        machine
            .normalise("fs.delete", json!({"path": "/alias"}))
            .is_ok(),
        "the link itself may go"
    );
}

#[test]
fn what_must_be_named_keeps_its_tree() {
    let mut machine = site();
    machine.context.sensitive = Arc::new(PathSet::parse(["/srv/site/img/*.png"]).unwrap());
    let before = machine.snapshot();
    let error = machine
        .run("fs.delete", json!({"path": "/srv/site", "recursive": true}))
        .err()
        .unwrap();
    assert_eq!(error.kind, ToolErrorKind::Permission);
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn a_store_that_cannot_save_prevents_the_deletion() {
    let mut machine = site();
    let blocked = machine.path("/blocked");
    fs::write(&blocked, "a file where the store should be").unwrap();
    machine.context.blobs = aios_tool_api::BlobStore::new(&blocked);
    let before = machine.snapshot();
    assert!(machine.run("fs.delete", json!({"path": "/keep"})).is_err());
    assert!(
        machine
            .run("fs.write", json!({"path": "/keep", "content": "x"}))
            .is_err()
    );
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn a_directory_swapped_for_a_link_is_not_followed() {
    let machine = site();
    let tool = machine.registry.get("fs.delete").unwrap();
    let args = machine
        .normalise(
            "fs.delete",
            json!({"path": "/srv/site/img", "recursive": true}),
        )
        .unwrap();
    fs::rename(machine.path("/srv/site"), machine.path("/real")).unwrap();
    symlink("/real", machine.path("/srv/site")).unwrap();
    assert!(tool.pre_image(&args, &machine.context).is_err());
    assert!(tool.execute(&args, &machine.context).is_err());
    assert!(machine.path("/real/img/a.png").exists());
}

#[test]
fn too_deep_a_tree_is_refused_whole() {
    let machine = Machine::new();
    let deep: String = "/d".repeat(220);
    fs::create_dir_all(machine.path(&format!("/top{deep}"))).unwrap();
    assert!(
        machine
            .run("fs.delete", json!({"path": "/top", "recursive": true}))
            .is_err()
    );
    assert!(machine.path(&format!("/top{deep}")).exists());
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let machine = Machine::new();
    let kind = |args| machine.run("fs.delete", args).err().unwrap().kind;
    assert_eq!(kind(json!({"path": "/none"})), ToolErrorKind::NotFound);
    assert_eq!(
        kind(json!({"path": "/none/below"})),
        ToolErrorKind::NotFound
    );
    assert_eq!(kind(json!({})), ToolErrorKind::Invalid);
    assert_eq!(
        kind(json!({"path": "/x", "force": true})),
        ToolErrorKind::Invalid
    );
    assert_eq!(kind(json!({"path": "x/../y"})), ToolErrorKind::Invalid);
}

/// A random tree: paths of up to three names, each a file, a directory or a link, with a mode.
fn trees() -> impl Strategy<Value = Vec<(Vec<u8>, u8, u32, Vec<u8>)>> {
    proptest::collection::vec(
        (
            proptest::collection::vec(0_u8..4, 1..4),
            0_u8..4,
            0_u32..0o1000,
            proptest::collection::vec(any::<u8>(), 0..40),
        ),
        0..20,
    )
}

fn grow(machine: &Machine, top: &str, tree: &[(Vec<u8>, u8, u32, Vec<u8>)]) {
    fs::create_dir_all(machine.path(top)).unwrap();
    for (names, kind, mode, content) in tree {
        let mut path = machine.path(top);
        path.extend(names.iter().map(|name| format!("n{name}")));
        // A path through a file, or one that is taken, is left out.
        let _ = match kind {
            0 => fs::create_dir_all(&path),
            1 => symlink(
                String::from_utf8_lossy(content).replace('\0', "0") + "x",
                &path,
            ),
            _ => path
                .parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| fs::write(&path, content)),
        };
        if path.exists() && !path.is_symlink() {
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(*mode));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn undo_of_delete_is_what_was_there(tree in trees(), crashed: bool) {
        let machine = Machine::new();
        grow(&machine, "/srv/tree", &tree);
        let before = machine.snapshot();
        let call = machine.run("fs.delete", json!({"path": "/srv/tree", "recursive": true})).unwrap();
        prop_assert!(!machine.path("/srv/tree").exists());
        let output = (!crashed).then_some(&call.output);
        prop_assert!(matches!(machine.undo_with(&call, output).unwrap(), Undone::Undone(_)));
        prop_assert_eq!(machine.snapshot(), before);
    }

    #[test]
    fn undo_of_mkdir_is_what_was_there(tree in trees(), names in proptest::collection::vec(0_u8..4, 1..5)) {
        let machine = Machine::new();
        grow(&machine, "/srv", &tree);
        let before = machine.snapshot();
        let path = names.iter().fold("/srv".to_owned(), |path, name| format!("{path}/n{name}"));
        if let Ok(call) = machine.run("fs.mkdir", json!({"path": path})) {
            let made = call.output["created"].as_array().unwrap().len();
            let undone = machine.undo(&call);
            prop_assert_eq!(matches!(undone, Undone::Undone(_)), made > 0, "{:?}", undone);
            prop_assert!(!matches!(undone, Undone::Refused(_)));
        }
        prop_assert_eq!(machine.snapshot(), before);
    }
}
