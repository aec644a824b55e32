//! Services that were defined on this machine (`service.define`): the same checks as for a unit of
//! the image, and less that may be asked for.

use aios_init_protocol::ServiceDefinition;

use crate::{
    unit::{Directories, Phase, Readiness, Resources, Restart, Security, Unit, contradiction},
    values::{AbsolutePath, Span},
};

/// Whether a name may be that of a unit: it becomes a file name and the name of a control group.
#[must_use]
pub fn valid_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// The unit that a definition stands for. It starts in the last phase, which does not wait for it,
/// and the machine is whole without it. A service of root has the capabilities that a server
/// program needs to bind its port and change to its own account, and no others.
///
/// # Errors
/// What is wrong with the definition.
pub fn from_definition(definition: &ServiceDefinition) -> Result<Unit, String> {
    let restart = match definition.restart.as_deref() {
        None | Some("on-failure") => Restart::OnFailure,
        Some("always") => Restart::Always,
        Some("never") => Restart::Never,
        Some(other) => {
            return Err(format!(
                "restart `{other}` is unknown; it is `always`, `on-failure` or `never`"
            ));
        }
    };
    let user = definition.user.clone().unwrap_or_else(|| "root".to_owned());
    let security = Security {
        capabilities: if user == "root" {
            server_capabilities()
        } else {
            Vec::new()
        },
        no_new_privileges: true,
        all_capabilities: false,
    };
    let unit = Unit {
        name: definition.name.clone(),
        description: format!("{}, defined on this machine", definition.name),
        phase: Phase::Autonomy,
        command: AbsolutePath::try_from(definition.command.clone())?,
        args: definition.args.clone(),
        user,
        requires: Vec::new(),
        wants: Vec::new(),
        after: definition.after.clone(),
        readiness: Readiness::Started,
        start_timeout: Span::seconds(60),
        stop_timeout: Span::seconds(10),
        restart,
        optional: true,
        awaited: false,
        condition_path: None,
        tty: None,
        listen: Vec::new(),
        environment: std::collections::BTreeMap::new(),
        resources: Resources::default(),
        security,
        directories: Directories::default(),
    };
    match contradiction(&unit) {
        Some((key, message)) => Err(format!("{key}: {message}")),
        None => Ok(unit),
    }
}

/// Binding low ports, becoming another account, and managing its own files and children.
fn server_capabilities() -> Vec<crate::Capability> {
    [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
        "CAP_SYS_RESOURCE",
    ]
    .into_iter()
    .filter_map(|name| crate::Capability::try_from(name.to_owned()).ok())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nginx() -> ServiceDefinition {
        ServiceDefinition {
            name: "nginx".into(),
            command: "/usr/sbin/nginx".into(),
            args: vec!["-g".into(), "daemon off;".into()],
            user: None,
            restart: None,
            after: vec!["network".into()],
        }
    }

    #[test]
    fn a_definition_becomes_an_optional_unit_of_the_last_phase() {
        let unit = from_definition(&nginx()).unwrap();
        assert!(unit.optional && !unit.awaited);
        assert_eq!(unit.phase, Phase::Autonomy);
        assert_eq!(unit.security.capabilities.len(), 9);
        assert!(unit.security.no_new_privileges);
    }

    #[test]
    fn wrong_definitions_are_refused_with_the_reason() {
        let refuse = |change: fn(&mut ServiceDefinition)| {
            let mut definition = nginx();
            change(&mut definition);
            from_definition(&definition).unwrap_err()
        };
        assert!(refuse(|d| d.command = "nginx".into()).contains("absolute"));
        assert!(refuse(|d| d.command = "/usr/../bin/sh".into()).contains("`..`"));
        assert!(refuse(|d| d.restart = Some("maybe".into())).contains("maybe"));
        assert!(refuse(|d| d.name = "../evil".into()).contains("no unit name"));
        assert!(refuse(|d| d.args = vec!["a\0b".into()]).contains("NUL"));
        assert!(refuse(|d| d.after = vec!["nginx".into()]).contains("itself"));
    }

    #[test]
    fn names_are_plain() {
        for good in ["nginx", "a", "agent-system", "x.y_z-1"] {
            assert!(valid_name(good), "{good}");
        }
        for bad in ["", ".hidden", "-x", "a/b", "ä", "a b", &"n".repeat(65)] {
            assert!(!valid_name(bad), "{bad}");
        }
    }
}
