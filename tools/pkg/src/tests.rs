//! The tools of the family as the registry calls them, with the real apt and dpkg.

use std::fs;

use aios_tool_api::{Context, PreImage, Registry, Risk, ToolError, ToolErrorKind, Undone};
use serde_json::{Value, json};

use crate::test_root::{Deb, TestRoot};

fn registry(root: &TestRoot) -> Registry {
    let mut registry = Registry::default();
    crate::register_with(&mut registry, &root.apt());
    registry
}

struct Call {
    name: &'static str,
    args: Value,
    pre_image: Option<PreImage>,
    output: Value,
}

fn call(root: &TestRoot, name: &'static str, args: Value) -> Result<Call, ToolError> {
    let context = root.context();
    let tool = registry(root).get(name).unwrap();
    let args = tool.normalise(&args, &context)?;
    let pre_image = tool.pre_image(&args, &context)?;
    let output = tool.execute(&args, &context)?;
    tool.check(&args, &output, &context)?;
    Ok(Call {
        name,
        args,
        pre_image,
        output,
    })
}

fn undo(root: &TestRoot, call: &Call, output: Option<&Value>) -> Undone {
    let tool = registry(root).get(call.name).unwrap();
    tool.undo(
        &call.args,
        call.pre_image.as_ref().unwrap(),
        output,
        &root.context(),
    )
    .unwrap()
}

fn kind(result: Result<Call, ToolError>) -> ToolErrorKind {
    match result {
        Ok(call) => panic!("was accepted: {}", call.output),
        Err(error) => error.kind,
    }
}

fn installed(root: &TestRoot) -> Vec<String> {
    let output = call(root, "pkg.list", json!({})).unwrap().output;
    output["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| package["name"].as_str().unwrap().to_owned())
        .collect()
}

/// A source with a web server of two packages, and something that depends on it.
fn root() -> TestRoot {
    let root = TestRoot::new();
    let offer = |name, version, control, files| {
        root.offer(&Deb {
            name,
            version,
            control,
            files,
        })
    };
    offer(
        "web",
        "1.0",
        "Depends: web-common\n",
        &[("/usr/sbin/web", "one")],
    );
    offer(
        "web",
        "2.0",
        "Depends: web-common\n",
        &[("/usr/sbin/web", "two")],
    );
    offer(
        "web-common",
        "1.0",
        "",
        &[("/etc/web/web.conf", "listen 80\n")],
    );
    offer(
        "web-plugin",
        "1.0",
        "Depends: web\n",
        &[("/usr/lib/web/plugin", "x")],
    );
    offer("base", "1.0", "Essential: yes\n", &[("/usr/bin/base", "x")]);
    offer("openssh-server", "1.0", "", &[("/usr/sbin/sshd", "x")]);
    offer("needs-ssh", "1.0", "", &[("/usr/bin/needs-ssh", "x")]);
    root
}

#[test]
fn the_family_is_as_catalogued() {
    let root = root();
    let registry = registry(&root);
    let found: Vec<_> = registry
        .iter()
        .map(|tool| tool.spec())
        .map(|spec| (spec.name, spec.risk, spec.undo.is_some()))
        .collect();
    assert_eq!(
        found,
        [
            ("pkg.install", Risk::Medium, true),
            ("pkg.list", Risk::Low, false),
            ("pkg.remove", Risk::High, true),
            ("pkg.search", Risk::Low, false),
        ]
    );
}

#[test]
fn hostile_arguments_never_reach_apt() {
    let root = root();
    for tool in ["pkg.install", "pkg.remove"] {
        for name in [
            "",
            "-y",
            "--yes",
            "web-",
            "web=1.0",
            "web;reboot",
            "$(reboot)",
            "../web.deb",
            "web*",
            "/etc/passwd",
        ] {
            assert_eq!(
                kind(call(&root, tool, json!({"name": name}))),
                ToolErrorKind::Invalid,
                "{tool} {name}"
            );
        }
    }
    let args = json!({"name": "web", "version": "1 --allow-unauthenticated"});
    assert_eq!(
        kind(call(&root, "pkg.install", args)),
        ToolErrorKind::Invalid
    );
    for tool in registry(&root).iter() {
        let args = json!({"name": "web", "query": "web", "surprise": 1});
        let error = tool.normalise(&args, &root.context()).unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Invalid, "{}", tool.spec().name);
    }
    assert!(
        !root.path().join("var/lib/apt/lists/lock").exists(),
        "apt was not even called"
    );
}

#[test]
fn an_installation_brings_its_dependencies_and_is_undone() {
    let root = root();
    let install = call(&root, "pkg.install", json!({"name": "web"})).unwrap();
    assert_eq!(install.output["version"], "2.0");
    assert_eq!(install.output["already_installed"], false);
    assert_eq!(
        install.output["installed"],
        json!([{"name": "web", "version": "2.0"}, {"name": "web-common", "version": "1.0"}])
    );
    assert_eq!(
        fs::read_to_string(root.path().join("usr/sbin/web")).unwrap(),
        "two"
    );

    let again = call(&root, "pkg.install", json!({"name": "web"})).unwrap();
    assert_eq!(again.output["already_installed"], true);
    assert!(matches!(
        undo(&root, &again, Some(&again.output)),
        Undone::Nothing(_)
    ));
    assert_eq!(
        installed(&root),
        ["web", "web-common"],
        "undoing nothing removes nothing"
    );

    let undone = undo(&root, &install, Some(&install.output));
    assert!(matches!(undone, Undone::Undone(_)), "{undone:?}");
    assert_eq!(installed(&root), Vec::<String>::new());
    assert!(!root.path().join("usr/sbin/web").exists());
    assert!(matches!(
        undo(&root, &install, Some(&install.output)),
        Undone::Nothing(_)
    ));
}

#[test]
fn an_interrupted_call_is_undone_from_its_pre_image_alone() {
    let root = root();
    call(&root, "pkg.install", json!({"name": "needs-ssh"})).unwrap();
    let install = call(&root, "pkg.install", json!({"name": "web"})).unwrap();
    call(&root, "pkg.install", json!({"name": "openssh-server"})).unwrap();
    let undone = undo(&root, &install, None);
    assert!(matches!(undone, Undone::Undone(_)), "{undone:?}");
    assert_eq!(installed(&root), ["needs-ssh", "openssh-server"]);
}

#[test]
fn undo_is_refused_when_something_was_built_on_it() {
    let root = root();
    let install = call(&root, "pkg.install", json!({"name": "web"})).unwrap();
    call(&root, "pkg.install", json!({"name": "web-plugin"})).unwrap();
    match undo(&root, &install, Some(&install.output)) {
        Undone::Refused(why) => assert!(why.contains("web-plugin"), "{why}"),
        other => panic!("{other:?}"),
    }
    call(&root, "pkg.remove", json!({"name": "web-plugin"})).unwrap();
    call(&root, "pkg.install", json!({"name": "web-common"})).unwrap();
    match undo(&root, &install, Some(&install.output)) {
        Undone::Refused(why) => assert!(why.contains("web-common"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(installed(&root), ["web", "web-common"]);
}

#[test]
fn a_version_is_taken_as_written_and_brought_back() {
    let root = root();
    let old = call(
        &root,
        "pkg.install",
        json!({"name": "web", "version": "1.0"}),
    )
    .unwrap();
    assert_eq!(old.output["version"], "1.0");
    let new = call(
        &root,
        "pkg.install",
        json!({"name": "web", "version": "2.0"}),
    )
    .unwrap();
    assert_eq!(
        new.output["changed"],
        json!([{"name": "web", "from": "1.0", "to": "2.0"}])
    );
    undo(&root, &new, Some(&new.output));
    assert_eq!(
        fs::read_to_string(root.path().join("usr/sbin/web")).unwrap(),
        "one"
    );
    let none = call(
        &root,
        "pkg.install",
        json!({"name": "web", "version": "3.0"}),
    );
    assert_eq!(kind(none), ToolErrorKind::NotFound);
}

#[test]
fn what_no_source_has_is_not_found() {
    let root = root();
    let error = call(&root, "pkg.install", json!({"name": "ngnix"}))
        .err()
        .unwrap();
    assert_eq!(error.kind, ToolErrorKind::NotFound);
    assert!(error.hint.contains("pkg.search"));
    assert_eq!(
        kind(call(&root, "pkg.remove", json!({"name": "ngnix"}))),
        ToolErrorKind::NotFound
    );
}

#[test]
fn a_package_that_appeared_since_the_lists_were_read_is_found() {
    let root = root();
    call(&root, "pkg.install", json!({"name": "web"})).unwrap();
    root.offer(&Deb {
        name: "late",
        version: "1.0",
        control: "",
        files: &[],
    });
    call(&root, "pkg.install", json!({"name": "late"})).unwrap();
    assert!(installed(&root).contains(&"late".to_owned()));
}

#[test]
fn a_source_that_is_gone_says_so() {
    let root = root();
    fs::remove_file(root.path().join("source/Packages")).unwrap();
    let error = call(&root, "pkg.install", json!({"name": "web"}))
        .err()
        .unwrap();
    assert!(
        error.message.contains("cannot refresh the package lists"),
        "{error}"
    );
    assert!(installed(&root).is_empty());
}

#[test]
fn what_needs_something_unavailable_is_a_conflict() {
    let root = root();
    root.offer(&Deb {
        name: "broken",
        version: "1.0",
        control: "Depends: nowhere\n",
        files: &[],
    });
    let error = call(&root, "pkg.install", json!({"name": "broken"}))
        .err()
        .unwrap();
    assert_eq!(error.kind, ToolErrorKind::Conflict, "{error}");
    assert!(installed(&root).is_empty());
}

#[test]
fn an_installation_does_not_remove_anything() {
    let root = root();
    root.offer(&Deb {
        name: "rival",
        version: "1.0",
        control: "Conflicts: web\n",
        files: &[],
    });
    call(&root, "pkg.install", json!({"name": "web"})).unwrap();
    assert_eq!(
        kind(call(&root, "pkg.install", json!({"name": "rival"}))),
        ToolErrorKind::Conflict
    );
    assert_eq!(installed(&root), ["web", "web-common"]);
}

#[test]
fn a_removal_keeps_configuration_and_is_undone() {
    let root = root();
    call(&root, "pkg.install", json!({"name": "web"})).unwrap();
    let remove = call(&root, "pkg.remove", json!({"name": "web"})).unwrap();
    assert_eq!(
        remove.output["removed"],
        json!([{"name": "web", "version": "2.0"}])
    );
    assert_eq!(
        installed(&root),
        ["web-common"],
        "dependencies stay, as with apt-get remove"
    );
    let undone = undo(&root, &remove, Some(&remove.output));
    assert!(matches!(undone, Undone::Undone(_)), "{undone:?}");
    assert_eq!(installed(&root), ["web", "web-common"]);
    assert!(matches!(
        undo(&root, &remove, Some(&remove.output)),
        Undone::Nothing(_)
    ));
}

#[test]
fn removing_what_is_not_installed_is_done_already() {
    let root = root();
    call(&root, "pkg.install", json!({"name": "needs-ssh"})).unwrap();
    let remove = call(&root, "pkg.remove", json!({"name": "web"})).unwrap();
    assert_eq!(remove.output["was_installed"], false);
    assert!(matches!(
        undo(&root, &remove, Some(&remove.output)),
        Undone::Nothing(_)
    ));
}

#[test]
fn a_purge_takes_what_only_it_needed_and_undo_restores_changed_configuration() {
    let root = root();
    call(&root, "pkg.install", json!({"name": "web"})).unwrap();
    call(&root, "pkg.install", json!({"name": "needs-ssh"})).unwrap();
    let conf = root.path().join("etc/web/web.conf");
    fs::write(&conf, "listen 8080 # by hand\n").unwrap();
    let purge = call(&root, "pkg.remove", json!({"name": "web", "purge": true})).unwrap();
    assert_eq!(installed(&root), ["needs-ssh"]);
    assert!(!conf.exists());
    let undone = undo(&root, &purge, Some(&purge.output));
    assert!(matches!(undone, Undone::Undone(_)), "{undone:?}");
    assert_eq!(
        fs::read_to_string(&conf).unwrap(),
        "listen 8080 # by hand\n"
    );
    let list = call(&root, "pkg.list", json!({"filter": "web"}))
        .unwrap()
        .output;
    let automatic: Vec<&Value> = list["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| &package["automatic"])
        .collect();
    assert_eq!(automatic, [false, true]);
}

#[test]
fn a_removal_cannot_be_undone_without_a_source_and_says_so() {
    let root = root();
    call(&root, "pkg.install", json!({"name": "web"})).unwrap();
    let remove = call(&root, "pkg.remove", json!({"name": "web"})).unwrap();
    root.withdraw_all();
    // The lists still name the package; its file is what is gone.
    fs::remove_file(root.path().join("source/web_2.0_all.deb")).unwrap();
    let tool = registry(&root).get("pkg.remove").unwrap();
    let error = tool
        .undo(
            &remove.args,
            remove.pre_image.as_ref().unwrap(),
            Some(&remove.output),
            &root.context(),
        )
        .unwrap_err();
    assert!(error.message.contains("web=2.0"), "{error}");
    assert_eq!(installed(&root), ["web-common"]);
}

#[test]
fn what_the_machine_needs_is_not_removed() {
    let root = root();
    root.offer(&Deb {
        name: "sshd-helper",
        version: "1.0",
        control: "",
        files: &[("/usr/bin/sshd-helper", "x")],
    });
    root.offer(&Deb {
        name: "openssh-server",
        version: "2.0",
        control: "Depends: sshd-helper\n",
        files: &[("/usr/sbin/sshd", "x")],
    });
    for name in ["base", "openssh-server"] {
        call(&root, "pkg.install", json!({"name": name})).unwrap();
    }
    for name in ["base", "openssh-server", "sshd-helper"] {
        for purge in [false, true] {
            let result = call(&root, "pkg.remove", json!({"name": name, "purge": purge}));
            assert_eq!(kind(result), ToolErrorKind::Conflict, "{name}");
        }
    }
    assert_eq!(installed(&root), ["base", "openssh-server", "sshd-helper"]);
}

#[test]
fn an_interrupted_run_is_finished_first() {
    let root = root();
    call(&root, "pkg.install", json!({"name": "needs-ssh"})).unwrap();
    let status = root.path().join("var/lib/dpkg/status");
    let text = fs::read_to_string(&status).unwrap();
    fs::write(
        &status,
        text.replace("install ok installed", "install ok unpacked"),
    )
    .unwrap();
    let list = call(&root, "pkg.list", json!({})).unwrap().output;
    assert_eq!(list["unfinished"], json!(["needs-ssh"]));
    let install = call(&root, "pkg.install", json!({"name": "web"})).unwrap();
    assert_eq!(
        install.output["installed"].as_array().unwrap().len(),
        2,
        "not what was repaired"
    );
    assert_eq!(installed(&root), ["needs-ssh", "web", "web-common"]);
}

#[test]
fn a_search_finds_names_first_and_reads_no_patterns() {
    let root = root();
    let found = call(&root, "pkg.search", json!({"query": "web"}))
        .unwrap()
        .output;
    assert_eq!(found["packages"][0]["name"], "web");
    assert_eq!(found["packages"][0]["summary"], "package web of a test");
    assert_eq!(found["packages"][0]["installed"], false);
    assert_eq!(found["total"], 3);
    for query in [".*", "$(reboot)", "w.b", "-o Dir=/"] {
        let found = call(&root, "pkg.search", json!({"query": query}))
            .unwrap()
            .output;
        assert_eq!(found["total"], 0, "{query}");
    }
    assert_eq!(
        kind(call(&root, "pkg.search", json!({"query": " "}))),
        ToolErrorKind::Invalid
    );
}

#[test]
fn a_call_ends_with_its_deadline() {
    let root = root();
    let mut context: Context = root.context();
    context.deadline = std::time::Instant::now();
    let tool = registry(&root).get("pkg.install").unwrap();
    let error = tool.execute(&json!({"name": "web"}), &context).unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::Timeout);
}
