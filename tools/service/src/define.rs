//! `service.define` and `service.remove`: services that exist on this machine only. What the image
//! defines is neither changed nor removed.
//!
//! A program is looked up when the service is defined, not when the call is checked: a plan may
//! install the program in an earlier step, and an approval must stay bound to the same arguments.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path},
    time::Duration,
};

use aios_init_protocol::{Request, ServiceDefinition};
use aios_tool_api::{
    Capability, Context, PreImage, Risk, Spec, Tool, ToolError, ToolErrorKind, Undone,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    name, pid1,
    report::{Service, ServiceName, is_wanted},
};

/// Where a bare program name is looked up; only root can write there.
const SEARCH: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Most arguments of a program.
const MAX_ARGS: usize = 64;
/// Longest argument, in bytes.
const MAX_ARG: usize = 4096;
/// Most services that one waits for.
const MAX_AFTER: usize = 32;

/// When PID 1 starts a service again after its process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Always.
    Always,
    /// When it failed.
    OnFailure,
    /// Never.
    Never,
}

impl Restart {
    fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::OnFailure => "on-failure",
            Self::Never => "never",
        }
    }
}

/// Arguments of `service.define`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DefineArgs {
    /// Name of the service, e.g. `nginx`.
    pub name: String,
    /// The program alone: an absolute path, or the name of an installed program. It must stay in
    /// the foreground.
    pub command: String,
    /// Arguments of the program, one word each; no shell reads them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Account that it runs as; root when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// When it is started again after its process ended: `always`, `on-failure` (the default) or
    /// `never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Services that must be ready before it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Vec<String>>,
}

/// A service as it is now defined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Defined {
    /// Name.
    pub name: String,
    /// Absolute path of the program.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Account that it runs as.
    pub user: String,
    /// When it is started again.
    pub restart: String,
    /// What must be ready before it.
    pub after: Vec<String>,
    /// Whether a definition of this machine was replaced.
    pub replaced: bool,
    /// `stopped` until service.start, unless it was already running.
    pub state: String,
}

/// What a removal left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Removed {
    /// Name of the service that is gone.
    pub name: String,
    /// Whether it was running and has been stopped.
    pub was_running: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Before {
    definition: Option<ServiceDefinition>,
    was_wanted: bool,
}

/// Looks at the definition and state of a service that the image does not own.
fn remember(name: &str, verb: &str, context: &Context) -> Result<Before, ToolError> {
    let unit = pid1::find(context, name)?;
    if let Some(unit) = unit.as_ref().filter(|unit| !unit.machine_defined) {
        return Err(ToolError::new(
            ToolErrorKind::Conflict,
            format!(
                "`{}` is a service of the image and is not {verb}",
                unit.name
            ),
        )
        .hint("choose another name"));
    }
    Ok(Before {
        definition: pid1::definition(context, name)?,
        was_wanted: unit.is_some_and(|unit| is_wanted(unit.state)),
    })
}

fn recall(pre_image: &PreImage) -> Result<Before, ToolError> {
    serde_json::from_value(pre_image.data.clone()).map_err(|error| {
        ToolError::new(
            ToolErrorKind::Internal,
            format!("recorded definition: {error}"),
        )
    })
}

fn program(command: &str, context: &Context) -> Result<String, ToolError> {
    let on_disk = |path: &str| {
        let path = context.root.join(path.trim_start_matches('/'));
        std::fs::metadata(&path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    if command.starts_with('/') {
        return if on_disk(command) {
            Ok(command.to_owned())
        } else {
            Err(ToolError::new(
                ToolErrorKind::NotFound,
                format!("{command} is not an executable file"),
            )
            .hint("install the package that has it, or correct the path"))
        };
    }
    SEARCH
        .iter()
        .map(|dir| format!("{dir}/{command}"))
        .find(|path| on_disk(path))
        .ok_or_else(|| {
            ToolError::new(
                ToolErrorKind::NotFound,
                format!("no program `{command}` in {}", SEARCH.join(", ")),
            )
            .hint("install the package that has it, or give the absolute path")
        })
}

fn user_exists(user: &str, context: &Context) -> Result<(), ToolError> {
    let path = context.root.join("etc/passwd");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| ToolError::io(format!("cannot read {}", path.display()), &error))?;
    if text
        .lines()
        .any(|line| line.split(':').next() == Some(user))
    {
        return Ok(());
    }
    Err(ToolError::new(
        ToolErrorKind::NotFound,
        format!("there is no account `{user}`"),
    )
    .hint("user.list shows the accounts; left out, the service runs as root"))
}

fn definition(args: &DefineArgs, context: &Context) -> Result<ServiceDefinition, ToolError> {
    Ok(ServiceDefinition {
        name: args.name.clone(),
        command: program(&args.command, context)?,
        args: args.args.clone().unwrap_or_default(),
        user: args.user.clone(),
        restart: args.restart.map(|restart| restart.name().to_owned()),
        after: args.after.clone().unwrap_or_default(),
    })
}

/// Whether two definitions mean the same, whichever defaults were spelled out.
fn same(left: &ServiceDefinition, right: &ServiceDefinition) -> bool {
    let full = |one: &ServiceDefinition| ServiceDefinition {
        user: Some(one.user.clone().unwrap_or_else(|| "root".to_owned())),
        restart: Some(
            one.restart
                .clone()
                .unwrap_or_else(|| "on-failure".to_owned()),
        ),
        ..one.clone()
    };
    full(left) == full(right)
}

fn checked_command(command: &str) -> Result<(), ToolError> {
    let path = Path::new(command);
    let plain = !command.is_empty() && command.len() <= MAX_ARG && !command.contains('\0');
    let fits = if command.starts_with('/') {
        plain
            && !command.ends_with('/')
            && path
                .components()
                .all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
    } else {
        plain && !command.contains(['/', ' ', '\t', '\n']) && !command.starts_with(['-', '.'])
    };
    if fits {
        return Ok(());
    }
    Err(ToolError::invalid(format!(
        "`{}` is not a program",
        command.chars().take(120).collect::<String>().escape_debug()
    ))
    .hint(
        "`command` is the program alone, an absolute path without `..`; its words go into `args`",
    ))
}

fn checked_user(user: &str) -> Result<(), ToolError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if user.is_empty() || user.len() > 32 || user.starts_with('-') || !user.bytes().all(fits) {
        return Err(ToolError::invalid(format!(
            "`{}` is not an account",
            user.escape_debug()
        )));
    }
    Ok(())
}

/// `service.define`
#[derive(Debug, Clone, Copy)]
pub struct Define;

impl Tool for Define {
    type Args = DefineArgs;
    type Output = Defined;

    fn spec(&self) -> Spec {
        Spec {
            name: "service.define",
            summary: "Define a service for an installed program, so that PID 1 supervises it; \
                      service.start then starts it. The program must stay in the foreground.",
            risk: Risk::Medium,
            undo: Some("remove the definition, or restore the previous one"),
            idempotent: true,
            deadline: Duration::from_secs(30),
            capability: ("service", "define"),
        }
    }

    fn normalise(&self, args: DefineArgs, _: &Context) -> Result<DefineArgs, ToolError> {
        checked_command(&args.command)?;
        if let Some(user) = &args.user {
            checked_user(user)?;
        }
        let words = args.args.as_deref().unwrap_or_default();
        if words.len() > MAX_ARGS
            || words
                .iter()
                .any(|word| word.len() > MAX_ARG || word.contains('\0'))
        {
            return Err(ToolError::invalid(format!(
                "a service has at most {MAX_ARGS} arguments of {MAX_ARG} bytes without NUL"
            )));
        }
        let after = args.after.unwrap_or_default();
        if after.len() > MAX_AFTER {
            return Err(ToolError::invalid(format!(
                "at most {MAX_AFTER} services in `after`"
            )));
        }
        let after = after
            .iter()
            .map(|other| name::well_formed(other))
            .collect::<Result<Vec<_>, _>>()?;
        let name = name::not_own(&args.name, "redefined")?;
        if after.contains(&name) {
            return Err(ToolError::invalid(format!(
                "`{name}` cannot come after itself"
            )));
        }
        Ok(DefineArgs {
            name,
            args: args.args.filter(|words| !words.is_empty()),
            after: (!after.is_empty()).then_some(after),
            ..args
        })
    }

    fn capabilities(&self, args: &DefineArgs) -> Vec<Capability> {
        vec![Capability::new("service", "define").on(&args.name)]
    }

    fn pre_image(
        &self,
        args: &DefineArgs,
        context: &Context,
    ) -> Result<Option<PreImage>, ToolError> {
        let before = remember(&args.name, "redefined", context)?;
        Ok(Some(PreImage {
            data: json!(before),
        }))
    }

    fn execute(&self, args: &DefineArgs, context: &Context) -> Result<Defined, ToolError> {
        let replaced = remember(&args.name, "redefined", context)?
            .definition
            .is_some();
        if let Some(user) = &args.user {
            user_exists(user, context)?;
        }
        let service = definition(args, context)?;
        pid1::ask(context, &Request::Define { service })?;
        let now = pid1::definition(context, &args.name)?.ok_or_else(|| missing(&args.name))?;
        let unit = pid1::unit(context, &args.name)?;
        Ok(Defined {
            name: now.name,
            command: now.command,
            args: now.args,
            user: now.user.unwrap_or_else(|| "root".to_owned()),
            restart: now.restart.unwrap_or_else(|| "on-failure".to_owned()),
            after: now.after,
            replaced,
            state: unit.state.name().to_owned(),
        })
    }

    fn check(&self, args: &DefineArgs, _: &Defined, context: &Context) -> Result<(), ToolError> {
        let now = pid1::definition(context, &args.name)?.ok_or_else(|| missing(&args.name))?;
        if !same(&now, &definition(args, context)?) {
            return Err(ToolError::new(
                ToolErrorKind::Unverified,
                format!(
                    "PID 1 has another definition of {} than was asked for",
                    args.name
                ),
            ));
        }
        Ok(())
    }

    fn undo(
        &self,
        args: &DefineArgs,
        pre_image: &PreImage,
        output: Option<&Defined>,
        context: &Context,
    ) -> Result<Undone, ToolError> {
        let before = recall(pre_image)?;
        let now = pid1::definition(context, &args.name)?;
        let unchanged = match (&now, &before.definition) {
            (None, None) => true,
            (Some(now), Some(before)) => same(now, before),
            _ => false,
        };
        if unchanged {
            return Ok(Undone::Nothing(format!(
                "{} is defined as before the call",
                args.name
            )));
        }
        // The recorded path is compared: the program may have been removed in the meantime.
        let left = ServiceDefinition {
            name: args.name.clone(),
            command: match output {
                Some(output) => output.command.clone(),
                None => program(&args.command, context).unwrap_or_else(|_| args.command.clone()),
            },
            args: args.args.clone().unwrap_or_default(),
            user: args.user.clone(),
            restart: args.restart.map(|restart| restart.name().to_owned()),
            after: args.after.clone().unwrap_or_default(),
        };
        if !now.as_ref().is_some_and(|now| same(now, &left)) {
            return Ok(Undone::Refused(format!(
                "the definition of {} was changed or removed after the call; service.define or \
                 service.remove it by hand if it should go",
                args.name
            )));
        }
        match before.definition {
            None => {
                pid1::ask(
                    context,
                    &Request::Remove {
                        unit: args.name.clone(),
                    },
                )?;
                if pid1::definition(context, &args.name)?.is_some() {
                    return Err(ToolError::new(
                        ToolErrorKind::Unverified,
                        format!("PID 1 still has a definition of {}", args.name),
                    ));
                }
                Ok(Undone::Undone(format!(
                    "removed the definition of {}",
                    args.name
                )))
            }
            Some(previous) => {
                restore(previous, context)?;
                Ok(Undone::Undone(format!(
                    "restored the previous definition of {}",
                    args.name
                )))
            }
        }
    }
}

fn restore(previous: ServiceDefinition, context: &Context) -> Result<(), ToolError> {
    let name = previous.name.clone();
    pid1::ask(
        context,
        &Request::Define {
            service: previous.clone(),
        },
    )?;
    match pid1::definition(context, &name)? {
        Some(now) if same(&now, &previous) => Ok(()),
        _ => Err(ToolError::new(
            ToolErrorKind::Unverified,
            format!("PID 1 does not have the restored definition of {name}"),
        )),
    }
}

fn missing(name: &str) -> ToolError {
    ToolError::new(
        ToolErrorKind::Unverified,
        format!("PID 1 has no definition of {name} afterwards"),
    )
}

/// `service.remove`
#[derive(Debug, Clone, Copy)]
pub struct Remove;

impl Tool for Remove {
    type Args = ServiceName;
    type Output = Removed;

    fn spec(&self) -> Spec {
        Spec {
            name: "service.remove",
            summary: "Stop a service that was defined on this machine and remove its definition. \
                      Its program and data stay.",
            risk: Risk::High,
            undo: Some("restore the definition"),
            idempotent: false,
            deadline: Duration::from_secs(90),
            capability: ("service", "remove"),
        }
    }

    fn normalise(&self, args: ServiceName, _: &Context) -> Result<ServiceName, ToolError> {
        Ok(ServiceName {
            name: name::not_own(&args.name, "removed")?,
        })
    }

    fn capabilities(&self, args: &ServiceName) -> Vec<Capability> {
        vec![Capability::new("service", "remove").on(&args.name)]
    }

    fn pre_image(
        &self,
        args: &ServiceName,
        context: &Context,
    ) -> Result<Option<PreImage>, ToolError> {
        let before = remember(&args.name, "removed", context)?;
        if before.definition.is_none() {
            return Err(ToolError::new(
                ToolErrorKind::NotFound,
                format!("no service `{}` was defined on this machine", args.name),
            )
            .hint("service.list shows the services; `machine_defined` says which can be removed"));
        }
        Ok(Some(PreImage {
            data: json!(before),
        }))
    }

    fn execute(&self, args: &ServiceName, context: &Context) -> Result<Removed, ToolError> {
        let before: Service = pid1::unit(context, &args.name)?.into();
        pid1::ask(
            context,
            &Request::Remove {
                unit: args.name.clone(),
            },
        )?;
        Ok(Removed {
            name: before.name,
            was_running: before.running,
        })
    }

    fn check(&self, args: &ServiceName, _: &Removed, context: &Context) -> Result<(), ToolError> {
        if pid1::definition(context, &args.name)?.is_some() {
            return Err(ToolError::new(
                ToolErrorKind::Unverified,
                format!("PID 1 still has a definition of {}", args.name),
            ));
        }
        Ok(())
    }

    fn undo(
        &self,
        args: &ServiceName,
        pre_image: &PreImage,
        _: Option<&Removed>,
        context: &Context,
    ) -> Result<Undone, ToolError> {
        let before = recall(pre_image)?;
        let Some(previous) = before.definition else {
            return Ok(Undone::Nothing(format!(
                "{} was not defined before the call",
                args.name
            )));
        };
        match pid1::definition(context, &args.name)? {
            Some(now) if same(&now, &previous) => {
                return Ok(Undone::Nothing(format!(
                    "{} is defined as before the call",
                    args.name
                )));
            }
            Some(_) => {
                return Ok(Undone::Refused(format!(
                    "{} was defined anew after the call; service.remove it first",
                    args.name
                )));
            }
            None => restore(previous, context)?,
        }
        if before.was_wanted {
            pid1::ask(
                context,
                &Request::Start {
                    unit: args.name.clone(),
                },
            )?;
            return Ok(Undone::Undone(format!(
                "defined and started {} again",
                args.name
            )));
        }
        Ok(Undone::Undone(format!("defined {} again", args.name)))
    }
}
