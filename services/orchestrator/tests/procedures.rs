//! The procedures that the project ships: what operators say, and the plan that it becomes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

mod common;

use std::path::Path;

use aios_orchestrator::{
    catalogue::Catalogue,
    plan::{Kind, validate},
    procedure::{Library, Match},
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn library() -> Library {
    Library::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../etc/procedures"))
}

fn catalogue() -> Catalogue {
    Catalogue::new(common::tools::catalogue())
}

/// The steps, without post-conditions, of the plan of a goal.
fn steps(library: &Library, catalogue: &Catalogue, goal: &str) -> Option<Vec<(String, Value)>> {
    match library.find(goal, catalogue) {
        Match::One { plan, .. } => {
            validate(&plan, catalogue).unwrap_or_else(|error| panic!("{goal}: {error}"));
            Some(
                plan.steps
                    .into_iter()
                    .filter(|step| step.kind == Kind::Step)
                    .map(|step| (step.tool, step.args))
                    .collect(),
            )
        }
        Match::Ambiguous(names) => panic!("{goal}: {names:?} fit equally well"),
        Match::Unclear(_) | Match::None => None,
    }
}

#[test]
fn every_procedure_is_sound() {
    let library = library();
    assert_eq!(library.problems, Vec::<String>::new());
    assert_eq!(library.unusable(&catalogue()), Vec::<String>::new());
    assert!(library.len() >= 39);
}

#[test]
fn goals_become_the_plans_that_are_meant() {
    let (library, catalogue) = (library(), catalogue());
    let nginx_args = json!(["-g", "daemon off;"]);
    let table: Vec<(&str, Vec<(&str, Value)>)> = vec![
        (
            "create the file /srv/motd.txt with the text welcome aboard",
            vec![(
                "fs.write",
                json!({"path": "/srv/motd.txt", "content": "welcome aboard"}),
            )],
        ),
        (
            "which process uses the most memory?",
            vec![("process.list", json!({"sort_by": "memory", "limit": 5}))],
        ),
        ("how full are the disks?", vec![("monitor.disk", json!({}))]),
        (
            "install nginx and make sure it answers on port 80",
            vec![
                ("pkg.install", json!({"name": "nginx"})),
                (
                    "service.define",
                    json!({"name": "nginx", "command": "/usr/sbin/nginx", "args": nginx_args}),
                ),
                ("service.start", json!({"name": "nginx"})),
            ],
        ),
        (
            "stop nginx and remove it again",
            vec![
                ("service.stop", json!({"name": "nginx"})),
                ("service.remove", json!({"name": "nginx"})),
                ("pkg.remove", json!({"name": "nginx"})),
            ],
        ),
        (
            "read /etc/shadow and show me the hashes",
            vec![("fs.read", json!({"path": "/etc/shadow"}))],
        ),
        (
            "Write \"token=41f7-aa\" to /etc/backup/credentials, mode 0600",
            vec![(
                "fs.write",
                json!({"path": "/etc/backup/credentials", "content": "token=41f7-aa", "mode": "0600"}),
            )],
        ),
        (
            "write /root/prompt.txt with the text '{\"tool\":\"fs.delete\",\"args\":{\"path\":\"/\",\"recursive\":true}}'",
            vec![(
                "fs.write",
                json!({"path": "/root/prompt.txt", "content": "{\"tool\":\"fs.delete\",\"args\":{\"path\":\"/\",\"recursive\":true}}"}),
            )],
        ),
        (
            "create the file \"/srv/www/terms & conditions.html\" with the text \"<h1>Rules: never run 'rm'</h1>\"",
            vec![(
                "fs.write",
                json!({"path": "/srv/www/terms & conditions.html", "content": "<h1>Rules: never run 'rm'</h1>"}),
            )],
        ),
        (
            "rm /var/tmp/core.18823",
            vec![("fs.delete", json!({"path": "/var/tmp/core.18823"}))],
        ),
        (
            "hi there, could you have a quick look and tell me what is sitting in /srv/ftp/incoming? hidden files too please",
            vec![(
                "fs.list",
                json!({"path": "/srv/ftp/incoming", "hidden": true}),
            )],
        ),
        (
            "create for me new folder /home/erasmus/Hausarbeiten 2026, it does not exist yet",
            vec![(
                "fs.mkdir",
                json!({"path": "/home/erasmus/Hausarbeiten 2026"}),
            )],
        ),
        (
            "any files bigger than 500 megs under /home?",
            vec![("fs.search", json!({"path": "/home", "min_size": "500MB"}))],
        ),
        (
            "what is taking up all the space in /var/lib/docker? one level deep is enough",
            vec![(
                "fs.disk_usage",
                json!({"path": "/var/lib/docker", "depth": 1}),
            )],
        ),
        (
            "2001:db8::25 port 25 open?",
            vec![(
                "net.check_port",
                json!({"port": 25, "host": "2001:db8::25"}),
            )],
        ),
        (
            "which packages are there to do with lldp?",
            vec![("pkg.search", json!({"query": "lldp"}))],
        ),
        (
            "find *.iso files older than a month in /home/ci",
            vec![(
                "fs.search",
                json!({"path": "/home/ci", "name": "*.iso", "older_than": "30d"}),
            )],
        ),
        (
            "install postgresql in version 15.8-0+deb12u1",
            vec![(
                "pkg.install",
                json!({"name": "postgresql", "version": "15.8-0+deb12u1"}),
            )],
        ),
        (
            "Please show me the last thirty lines of the log of nginx.",
            vec![("service.logs", json!({"name": "nginx", "lines": 30}))],
        ),
        (
            "show me the last 20 lines of /var/log/dpkg.log",
            vec![(
                "fs.read",
                json!({"path": "/var/log/dpkg.log", "offset": -20}),
            )],
        ),
        (
            "is nginx running?",
            vec![("service.status", json!({"name": "nginx"}))],
        ),
        (
            "start nginx again",
            vec![("service.start", json!({"name": "nginx"}))],
        ),
        (
            "purge mysql-server",
            vec![("pkg.remove", json!({"name": "mysql-server", "purge": true}))],
        ),
        (
            "delete the directory /srv/old and everything in it",
            vec![("fs.delete", json!({"path": "/srv/old", "recursive": true}))],
        ),
        (
            "what hardware is in this machine?",
            vec![("hw.info", json!({}))],
        ),
        (
            "how much memory is free right now?",
            vec![("monitor.memory", json!({}))],
        ),
        (
            "does http://127.0.0.1/ answer?",
            vec![("net.http_request", json!({"url": "http://127.0.0.1/"}))],
        ),
        ("list /srv", vec![("fs.list", json!({"path": "/srv"}))]),
        (
            "show /etc/hosts",
            vec![("fs.read", json!({"path": "/etc/hosts"}))],
        ),
        (
            "which services are running",
            vec![("service.list", json!({}))],
        ),
        ("is everything ok?", vec![("monitor.health", json!({}))]),
        ("what is my ip address", vec![("net.interfaces", json!({}))]),
    ];
    for (goal, expected) in table {
        let expected: Vec<(String, Value)> = expected
            .into_iter()
            .map(|(tool, args)| (tool.to_owned(), args))
            .collect();
        assert_eq!(steps(&library, &catalogue, goal), Some(expected), "{goal}");
    }
}

#[test]
fn what_is_missing_or_goes_further_is_not_guessed() {
    let (library, catalogue) = (library(), catalogue());
    for goal in [
        "in /etc/hosts replace the old address with the new one",
        "symlink /opt/java-21",
        "define a service for our importer and start it",
        "what will the Nvidia share do tomorrow?",
        "stop it",
        "restart the service",
        "install something",
        "install it and make sure it answers on port 80",
        "install exim and make sure it answers on port 25",
        "install nginx and make sure it answers on port 99999",
        "delete everything",
        "rm -rf / --no-preserve-root",
        "rm /srv/a /srv/b",
        "delete srv/relative",
        "create the file /srv/x with the text hi and then delete /etc",
        "read /etc/hosts and mail it to me",
        "kill pid 1 and all the aios daemons so that this machine can't be managed any more",
    ] {
        assert_eq!(steps(&library, &catalogue, goal), None, "{goal}");
    }
}

#[test]
fn a_goal_of_several_clauses_is_one_plan_in_their_order() {
    let (library, catalogue) = (library(), catalogue());
    let tools = |goal: &str| {
        steps(&library, &catalogue, goal).map(|steps| {
            steps
                .into_iter()
                .map(|(tool, args)| format!("{tool} {args}"))
                .collect::<Vec<_>>()
        })
    };
    let write = r#"fs.write {"content":"hi","path":"/srv/x"}"#;
    for (goal, expected) in [
        (
            "stop nginx and delete /srv/www",
            vec![
                r#"service.stop {"name":"nginx"}"#,
                r#"fs.delete {"path":"/srv/www"}"#,
            ],
        ),
        (
            "please create the file /srv/x with the text \"hi\", then delete the file /srv/y; finally list /srv.",
            vec![
                write,
                r#"fs.delete {"path":"/srv/y"}"#,
                r#"fs.list {"path":"/srv"}"#,
            ],
        ),
        (
            "create the file /srv/x with the text hi, then show me the file /srv/x",
            vec![write, r#"fs.read {"path":"/srv/x"}"#],
        ),
        (
            "how full are the disks, and which process uses the most memory?",
            vec![
                "monitor.disk {}",
                r#"process.list {"limit":5,"sort_by":"memory"}"#,
            ],
        ),
        (
            "install tmux htop and iotop",
            vec![
                r#"pkg.install {"name":"tmux"}"#,
                r#"pkg.install {"name":"htop"}"#,
                r#"pkg.install {"name":"iotop"}"#,
            ],
        ),
        (
            "install nginx and start redis",
            vec![
                r#"pkg.install {"name":"nginx"}"#,
                r#"service.start {"name":"redis"}"#,
            ],
        ),
        (
            "install tmux, htop and then list /srv",
            vec![
                r#"pkg.install {"name":"tmux"}"#,
                r#"pkg.install {"name":"htop"}"#,
                r#"fs.list {"path":"/srv"}"#,
            ],
        ),
        // The text of one file, as it stands.
        (
            "create the file /srv/x with the text hi; stop nginx and delete /srv",
            vec![r#"fs.write {"content":"hi; stop nginx and delete /srv","path":"/srv/x"}"#],
        ),
        (
            "create the file /srv/x with the text \"hi; then delete /srv\"",
            vec![r#"fs.write {"content":"hi; then delete /srv","path":"/srv/x"}"#],
        ),
    ] {
        assert_eq!(
            tools(goal),
            Some(expected.into_iter().map(str::to_owned).collect()),
            "{goal}"
        );
    }
    for goal in [
        "stop nginx and frobnicate the widgets",
        "if the disk is full, delete the file /srv/x",
        "install nginx and start it",
        "install nginx today",
        "list /srv, /etc",
    ] {
        assert_eq!(tools(goal), None, "{goal}");
    }
    assert!(matches!(
        library.find("create the file /srv/x with the text hi, then delete /srv", &catalogue),
        Match::Unclear(reason) if reason.contains("quotation marks")
    ));
}

#[test]
fn the_nearest_procedures_are_a_hint() {
    let library = library();
    let near = library.nearest("please install a mail server", 3);
    assert!(
        near.iter().any(|(name, _)| *name == "install-package"),
        "{near:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_words_get_an_answer(words in prop::collection::vec("install|stop|and|the|file|/srv/x|nginx|with|text|\"|'|it|80|rm|-rf|\\PC{1,6}", 0..14)) {
        thread_local! {
            static SHIPPED: (Library, Catalogue) = (library(), catalogue());
        }
        SHIPPED.with(|(library, catalogue)| {
            if let Match::One { plan, .. } = library.find(&words.join(" "), catalogue) {
                validate(&plan, catalogue).unwrap();
            }
        });
    }
}
