//! The policy that is shipped means what it says, and a wrong one is refused with its place.

use super::*;

fn shipped() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../etc/security/policy.toml");
    std::fs::read_to_string(path).unwrap()
}

fn load(text: &str) -> Result<Policy, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("security")).unwrap();
    std::fs::write(dir.path().join("security/policy.toml"), text).unwrap();
    Policy::load(dir.path(), Path::new("/var/lib/aios"))
}

fn fs(action: &str, path: &str) -> Capability {
    Capability::new("fs", action).on(path)
}

#[test]
fn the_shipped_policy_gives_every_tool_to_the_administrator_and_reads_to_the_reader() {
    let policy = load(&shipped()).unwrap();
    let reader = policy.role("reader").unwrap();
    for tool in crate::families::registry().iter() {
        let spec = tool.spec();
        let (namespace, action) = spec.capability;
        for role in ["admin", "operator"] {
            assert!(
                policy.role(role).unwrap().may_give(namespace, action),
                "{role} {}",
                spec.name
            );
        }
        if spec.risk > aios_tool_api::Risk::Low {
            assert!(!reader.may_give(namespace, action), "{}", spec.name);
        }
    }
    assert!(!policy.role("operator").unwrap().may_give("sec", "grant"));
    assert!(policy.role("root").is_none());
}

#[test]
fn secrets_stand_apart_for_reads_and_the_system_for_changes() {
    let policy = load(&shipped()).unwrap();
    for path in [
        "/etc/shadow",
        "/etc/ssh/ssh_host_rsa_key",
        "/var/lib/aios/console/ca.key",
        "/proc/7/mem",
        "/media/aios/data/upper/etc/shadow",
    ] {
        assert!(
            policy.stands_apart(&fs("read", path), false).is_some(),
            "{path}"
        );
    }
    for path in [
        "/etc/passwd",
        "/etc/aios/config.toml",
        "/usr/libexec/aios/aios-tools",
        "/boot/vmlinuz",
    ] {
        assert!(
            policy.stands_apart(&fs("read", path), false).is_none(),
            "{path}"
        );
        assert!(
            policy.stands_apart(&fs("write", path), true).is_some(),
            "{path}"
        );
    }
    // A directory above them is read (its names are no secrets) but not changed as a whole.
    for path in ["/", "/etc", "/usr", "/var/lib"] {
        assert!(
            policy.stands_apart(&fs("read", path), false).is_none(),
            "{path}"
        );
        assert!(
            policy.stands_apart(&fs("delete", path), true).is_some(),
            "{path}"
        );
    }
    for path in [
        "/srv/motd.txt",
        "/etc/motd",
        "/home/ann/notes",
        "/home/not-there-yet",
    ] {
        assert!(
            policy.stands_apart(&fs("write", path), true).is_none(),
            "{path}"
        );
    }
    assert!(
        policy
            .stands_apart(&Capability::new("pkg", "install").on("nginx"), true)
            .is_none()
    );
}

#[test]
fn deny_wins_and_only_a_name_gives_what_stands_apart() {
    let text = shipped().replace(
        "capabilities = [\"*:*\"]",
        "capabilities = [\"*:*\", \"fs:read:/etc/shadow\"]\ndeny = [\"net:*\", \"fs:write:/srv/**\"]",
    );
    let policy = load(&text).unwrap();
    let admin = policy.role("admin").unwrap();
    assert!(admin.give(&fs("read", "/etc/shadow"), true));
    assert!(!admin.give(&fs("read", "/etc/gshadow"), true));
    assert!(!admin.give(&fs("write", "/srv/x"), false));
    assert!(admin.give(&fs("write", "/home/x"), false));
    assert!(!admin.give(&Capability::new("net", "http_request").on("a:80"), false));
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (from, to, said) in [
        ("[roles.reader]", "[roles.raeder]", "did you mean `reader`?"),
        ("\"fs:*\"", "\"fs\"", "namespace:action"),
        ("\"/etc/shadow\"", "\"etc/shadow\"", "absolute path"),
        ("[protected]", "[protectd]", "did you mean `protected`?"),
    ] {
        let error = load(&shipped().replacen(from, to, 1))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("policy.toml:") && error.contains(said),
            "{error}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let error = Policy::load(dir.path(), dir.path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("policy.toml: cannot read"), "{error}");
}
