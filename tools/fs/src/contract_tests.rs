//! What every tool of the family promises: the catalogue's names, arguments, risks and undo, schemas
//! that say no to what is unknown, and an intact disk when the disk is full.

use std::{fs, os::unix::fs::MetadataExt as _};

use aios_tool_api::{Risk, ToolErrorKind};
use rustix::{
    mount::{MountFlags, MountPropagationFlags},
    thread::UnshareFlags,
};
use serde_json::json;

use crate::testing::Machine;

/// Tool, required arguments, optional arguments, risk, whether it can be undone.
type Row = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    Risk,
    bool,
);

const CATALOGUE: &[Row] = &[
    ("fs.delete", &["path"], &["recursive"], Risk::High, true),
    ("fs.disk_usage", &["path"], &["depth"], Risk::Low, false),
    (
        "fs.list",
        &["path"],
        &["recursive", "hidden"],
        Risk::Low,
        false,
    ),
    ("fs.mkdir", &["path"], &["mode"], Risk::Medium, true),
    ("fs.read", &["path"], &["offset", "limit"], Risk::Low, false),
    (
        "fs.search",
        &["path"],
        &[
            "name",
            "contains",
            "min_size",
            "max_size",
            "newer_than",
            "older_than",
            "kind",
            "owner",
            "group",
            "mode",
            "empty",
            "ignore_case",
            "max_depth",
        ],
        Risk::Low,
        false,
    ),
    ("fs.stat", &["path"], &[], Risk::Low, false),
    (
        "fs.write",
        &["path", "content"],
        &["mode", "append"],
        Risk::Medium,
        true,
    ),
];

#[test]
fn the_family_is_what_the_catalogue_says() {
    let machine = Machine::new();
    let names: Vec<_> = machine
        .registry
        .iter()
        .map(|tool| tool.spec().name)
        .collect();
    assert_eq!(names, CATALOGUE.iter().map(|row| row.0).collect::<Vec<_>>());
    for (name, required, optional, risk, undo) in CATALOGUE {
        let tool = machine.registry.get(name).unwrap();
        assert_eq!(tool.spec().risk, *risk, "{name}");
        assert_eq!(tool.spec().undo.is_some(), *undo, "{name}");
        let schema = tool.args_schema();
        assert_eq!(schema["additionalProperties"], false, "{name}");
        let properties = schema["properties"].as_object().unwrap();
        let expected: Vec<_> = required.iter().chain(*optional).collect();
        assert_eq!(properties.keys().collect::<Vec<_>>(), expected, "{name}");
        assert_eq!(schema["required"], json!(required), "{name}");
        assert_eq!(properties["path"]["format"], "path", "{name}");
        for (argument, property) in properties {
            assert!(property["description"].is_string(), "{name}: {argument}");
        }
    }
}

#[test]
fn a_path_with_links_is_needed_by_its_real_name() {
    let machine = Machine::new();
    fs::create_dir_all(machine.path("/real/dir")).unwrap();
    fs::write(machine.path("/real/f"), "x").unwrap();
    std::os::unix::fs::symlink("real", machine.path("/alias")).unwrap();
    for (tool, action, path) in [
        ("fs.read", "read", "/alias/f"),
        ("fs.list", "read", "/alias/dir"),
        ("fs.stat", "read", "/alias/f"),
        ("fs.search", "read", "/alias/dir"),
        ("fs.disk_usage", "read", "/alias/dir"),
        ("fs.write", "write", "/alias/f"),
        ("fs.mkdir", "write", "/alias/dir/new"),
        ("fs.delete", "delete", "/alias/f"),
    ] {
        let mut args = json!({ "path": path });
        if tool == "fs.write" {
            args["content"] = json!("");
        }
        let args = machine.normalise(tool, args).unwrap();
        let needed = machine
            .registry
            .get(tool)
            .unwrap()
            .capabilities(&args)
            .unwrap();
        let real = path.replace("/alias", "/real");
        assert_eq!(
            needed[0].to_string(),
            format!("fs:{action}:{real}"),
            "{tool}"
        );
        assert_eq!(
            machine.normalise(tool, args.clone()).unwrap(),
            args,
            "{tool}: normal form is stable"
        );
    }
}

/// Runs on a thread with mounts of its own, whose root for the tools is a file system of 256 KiB.
fn on_a_small_disk(test: impl FnOnce(&Machine) + Send) {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: only this thread leaves the shared mounts; file descriptors stay shared,
                // so nothing that another thread holds changes under it.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
                    .unwrap();
                let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                rustix::mount::mount_change("/", private).unwrap();
                let machine = Machine::new();
                let root = machine.context.root.clone();
                rustix::mount::mount("tmpfs", &root, "tmpfs", MountFlags::empty(), c"size=256k")
                    .unwrap();
                test(&machine);
                rustix::mount::unmount(&root, rustix::mount::UnmountFlags::DETACH).unwrap();
            })
            .join()
            .unwrap();
    });
}

#[test]
fn a_full_disk_leaves_the_old_file_and_no_rubbish() {
    on_a_small_disk(|machine| {
        fs::write(machine.path("/f"), "old").unwrap();
        let before = machine.snapshot();
        let large = "x".repeat(1 << 20);
        for path in ["/f", "/new"] {
            let error = machine
                .run("fs.write", json!({"path": path, "content": large}))
                .err()
                .unwrap();
            assert_eq!(error.kind, ToolErrorKind::Filesystem, "{error}");
            assert!(error.hint.contains("monitor.disk"), "{}", error.hint);
            assert_eq!(machine.snapshot(), before);
        }
    });
}

#[test]
fn a_restore_that_does_not_fit_leaves_no_rubbish_and_works_later() {
    on_a_small_disk(|machine| {
        fs::create_dir(machine.path("/d")).unwrap();
        fs::write(machine.path("/d/f"), vec![7; 128 << 10]).unwrap();
        let before = machine.snapshot();
        let call = machine
            .run("fs.delete", json!({"path": "/d", "recursive": true}))
            .unwrap();
        fs::write(machine.path("/filler"), vec![1; 200 << 10]).unwrap();
        assert!(machine.undo_with(&call, Some(&call.output)).is_err());
        let left: Vec<_> = fs::read_dir(machine.path("/"))
            .unwrap()
            .map(|one| one.unwrap().file_name())
            .collect();
        assert_eq!(left, ["filler"]);
        fs::remove_file(machine.path("/filler")).unwrap();
        machine.undo(&call);
        assert_eq!(machine.snapshot(), before);
    });
}

#[test]
fn a_chain_of_directories_is_made_whole_or_not_at_all() {
    on_a_small_disk(|machine| {
        // Room for the root and three more.
        rustix::mount::mount_remount(&machine.context.root, MountFlags::empty(), c"nr_inodes=4")
            .unwrap();
        let before = machine.snapshot();
        let error = machine
            .run("fs.mkdir", json!({"path": "/a/b/c/d/e"}))
            .err()
            .unwrap();
        assert_eq!(error.kind, ToolErrorKind::Filesystem, "{error}");
        assert_eq!(machine.snapshot(), before);
        assert!(machine.run("fs.mkdir", json!({"path": "/a/b/c"})).is_ok());
    });
}

#[test]
fn the_files_of_an_overlay_are_counted() {
    on_a_small_disk(|machine| {
        for dir in ["/low", "/up", "/merged"] {
            fs::create_dir(machine.path(dir)).unwrap();
        }
        // Layers on different file systems, so that files keep the device of theirs.
        let low = machine.path("/low");
        rustix::mount::mount("tmpfs", &low, "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
        fs::create_dir(low.join("dir")).unwrap();
        fs::write(low.join("dir/file"), vec![b'x'; 5000]).unwrap();
        for dir in ["/up/files", "/up/work"] {
            fs::create_dir(machine.path(dir)).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={},xino=off",
            low.display(),
            machine.path("/up/files").display(),
            machine.path("/up/work").display()
        );
        let options = std::ffi::CString::new(options).unwrap();
        let merged = machine.path("/merged");
        rustix::mount::mount(
            "overlay",
            &merged,
            "overlay",
            MountFlags::empty(),
            &*options,
        )
        .unwrap();
        let usage = machine.output("fs.disk_usage", json!({"path": "/merged"}));
        assert_eq!(usage["files"], 1, "{usage:#}");
        assert_eq!(usage["apparent_bytes"].as_u64().unwrap() % 10_000, 5000);
        assert!(usage["mounted_below"].is_null(), "{usage:#}");
        for mount in [&merged, &low] {
            rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    });
}

#[test]
fn mount_points_are_not_deleted() {
    on_a_small_disk(|machine| {
        fs::create_dir_all(machine.path("/data/disk")).unwrap();
        rustix::mount::mount(
            "tmpfs",
            machine.path("/data/disk"),
            "tmpfs",
            MountFlags::empty(),
            c"size=64k",
        )
        .unwrap();
        fs::write(machine.path("/data/disk/precious"), "p").unwrap();
        for path in ["/data/disk", "/data"] {
            let error = machine
                .run("fs.delete", json!({"path": path, "recursive": true}))
                .err()
                .unwrap();
            assert_eq!(error.kind, ToolErrorKind::Conflict, "{error}");
            assert!(error.hint.contains("storage.unmount"));
        }
        assert!(machine.path("/data/disk/precious").exists());
        let usage = machine.output("fs.disk_usage", json!({"path": "/data"}));
        assert_eq!(usage["mounted_below"], json!(["/data/disk"]));
        rustix::mount::unmount(
            machine.path("/data/disk"),
            rustix::mount::UnmountFlags::DETACH,
        )
        .unwrap();
    });
}

#[test]
fn what_the_system_refuses_is_said_and_changes_nothing() {
    // As root only a read-only file system refuses.
    on_a_small_disk(|machine| {
        fs::create_dir(machine.path("/d")).unwrap();
        fs::write(machine.path("/d/f"), "old").unwrap();
        rustix::mount::mount_remount(&machine.context.root, MountFlags::RDONLY, c"").unwrap();
        for (tool, args) in [
            ("fs.write", json!({"path": "/d/f", "content": "new"})),
            ("fs.mkdir", json!({"path": "/d/new"})),
            ("fs.delete", json!({"path": "/d", "recursive": true})),
        ] {
            let error = machine.run(tool, args).err().unwrap();
            assert_eq!(error.kind, ToolErrorKind::Filesystem, "{tool}: {error}");
        }
        assert_eq!(fs::read_to_string(machine.path("/d/f")).unwrap(), "old");
        assert_eq!(fs::metadata(machine.path("/d")).unwrap().nlink(), 2);
    });
}
