//! `service.start` and `service.stop`, each the other's undo.
//!
//! PID 1 starts what a service requires and stops what requires it, so both tools compare all units
//! before and after, and undo brings back exactly the difference that the call made.

use std::time::Duration;

use aios_init_protocol::{Request, UnitReport, UnitState};
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

/// What a start or a stop left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// The service afterwards.
    pub service: Service,
    /// False when it was already so before the call.
    pub changed: bool,
    /// Other services that PID 1 started or stopped along with it.
    pub along: Vec<String>,
}

/// What was there before.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    was_wanted: bool,
}

fn remember(name: &str, context: &Context) -> Result<Option<PreImage>, ToolError> {
    let before = Before {
        was_wanted: is_wanted(pid1::unit(context, name)?.state),
    };
    Ok(Some(PreImage {
        data: json!(before),
    }))
}

fn recall(pre_image: &PreImage) -> Result<Before, ToolError> {
    serde_json::from_value(pre_image.data.clone()).map_err(|error| {
        ToolError::new(
            ToolErrorKind::Internal,
            format!("recorded state before the call: {error}"),
        )
    })
}

/// Names of units, other than `name`, that are wanted in `left` and are there but not in `right`.
fn wanted_only_in(left: &[UnitReport], right: &[UnitReport], name: &str) -> Vec<String> {
    left.iter()
        .filter(|unit| unit.name != name && is_wanted(unit.state))
        .filter(|unit| {
            right
                .iter()
                .any(|other| other.name == unit.name && !is_wanted(other.state))
        })
        .map(|unit| unit.name.clone())
        .collect()
}

fn start(context: &Context, name: &str) -> Result<(), ToolError> {
    pid1::ask(
        context,
        &Request::Start {
            unit: name.to_owned(),
        },
    )
    .map(drop)
}

fn stop(context: &Context, name: &str) -> Result<(), ToolError> {
    pid1::ask(
        context,
        &Request::Stop {
            unit: name.to_owned(),
        },
    )
    .map(drop)
}

/// Whether the kernel has a process of that id. PID 1 reports the state; this is a second opinion.
fn is_alive(pid: u32) -> bool {
    std::fs::metadata(format!("/proc/{pid}")).is_ok()
}

/// `service.start`
#[derive(Debug, Clone, Copy)]
pub struct Start;

impl Tool for Start {
    type Args = ServiceName;
    type Output = Changed;

    fn spec(&self) -> Spec {
        Spec {
            name: "service.start",
            summary: "Start a service and what it requires, and wait until it is ready. Does \
                      nothing when it is already running.",
            risk: Risk::Medium,
            undo: Some("stop it"),
            idempotent: true,
            deadline: Duration::from_secs(90),
            capability: ("service", "start"),
        }
    }

    fn normalise(&self, args: ServiceName, _: &Context) -> Result<ServiceName, ToolError> {
        Ok(ServiceName {
            name: name::well_formed(&args.name)?,
        })
    }

    fn capabilities(&self, args: &ServiceName) -> Vec<Capability> {
        vec![Capability::new("service", "start").on(&args.name)]
    }

    fn pre_image(
        &self,
        args: &ServiceName,
        context: &Context,
    ) -> Result<Option<PreImage>, ToolError> {
        remember(&args.name, context)
    }

    fn execute(&self, args: &ServiceName, context: &Context) -> Result<Changed, ToolError> {
        let before = pid1::units(context)?;
        let was_ready = before
            .iter()
            .any(|unit| unit.name == args.name && unit.state == UnitState::Ready);
        start(context, &args.name)?;
        let after = pid1::units(context)?;
        Ok(Changed {
            service: pid1::unit(context, &args.name)?.into(),
            changed: !was_ready,
            along: wanted_only_in(&after, &before, &args.name),
        })
    }

    fn check(&self, args: &ServiceName, _: &Changed, context: &Context) -> Result<(), ToolError> {
        let unit = pid1::unit(context, &args.name)?;
        if unit.state != UnitState::Ready || (unit.pid != 0 && !is_alive(unit.pid)) {
            return Err(ToolError::new(
                ToolErrorKind::Unverified,
                format!(
                    "{} is {} instead of ready{}{}",
                    unit.name,
                    unit.state.name(),
                    if unit.last_exit.is_empty() {
                        ""
                    } else {
                        ": its process ended with "
                    },
                    unit.last_exit
                ),
            )
            .hint("service.logs shows what it wrote"));
        }
        Ok(())
    }

    fn undo(
        &self,
        args: &ServiceName,
        pre_image: &PreImage,
        output: Option<&Changed>,
        context: &Context,
    ) -> Result<Undone, ToolError> {
        if recall(pre_image)?.was_wanted {
            return Ok(Undone::Nothing(format!(
                "{} was running before the call",
                args.name
            )));
        }
        if name::is_own(&args.name) {
            return Ok(Undone::Refused(format!(
                "{} is part of aiOS and stays up",
                args.name
            )));
        }
        let now = pid1::units(context)?;
        let is_up = |name: &str| {
            now.iter()
                .any(|unit| unit.name == name && is_wanted(unit.state))
        };
        let along = output
            .map(|output| output.along.as_slice())
            .unwrap_or_default();
        let mut stopped = Vec::new();
        for name in std::iter::once(&args.name).chain(along) {
            if is_up(name) && !name::is_own(name) {
                stop(context, name)?;
                stopped.push(name.as_str());
            }
        }
        if stopped.is_empty() {
            return Ok(Undone::Nothing(format!(
                "{} is not running any more",
                args.name
            )));
        }
        Ok(Undone::Undone(format!("stopped {}", stopped.join(", "))))
    }
}

/// `service.stop`
#[derive(Debug, Clone, Copy)]
pub struct Stop;

impl Tool for Stop {
    type Args = ServiceName;
    type Output = Changed;

    fn spec(&self) -> Spec {
        Spec {
            name: "service.stop",
            summary: "Stop a service and what requires it, and wait until it has ended. Refuses \
                      the daemons and agents of aiOS.",
            risk: Risk::Medium,
            undo: Some("start it"),
            idempotent: true,
            deadline: Duration::from_secs(90),
            capability: ("service", "stop"),
        }
    }

    fn normalise(&self, args: ServiceName, _: &Context) -> Result<ServiceName, ToolError> {
        Ok(ServiceName {
            name: name::not_own(&args.name, "stopped")?,
        })
    }

    fn capabilities(&self, args: &ServiceName) -> Vec<Capability> {
        vec![Capability::new("service", "stop").on(&args.name)]
    }

    fn pre_image(
        &self,
        args: &ServiceName,
        context: &Context,
    ) -> Result<Option<PreImage>, ToolError> {
        remember(&args.name, context)
    }

    fn execute(&self, args: &ServiceName, context: &Context) -> Result<Changed, ToolError> {
        let before = pid1::units(context)?;
        let was_up = before
            .iter()
            .any(|unit| unit.name == args.name && is_wanted(unit.state));
        stop(context, &args.name)?;
        let after = pid1::units(context)?;
        Ok(Changed {
            service: pid1::unit(context, &args.name)?.into(),
            changed: was_up,
            along: wanted_only_in(&before, &after, &args.name),
        })
    }

    fn check(&self, args: &ServiceName, _: &Changed, context: &Context) -> Result<(), ToolError> {
        let unit = pid1::unit(context, &args.name)?;
        if is_wanted(unit.state) || unit.pid != 0 {
            return Err(ToolError::new(
                ToolErrorKind::Unverified,
                format!("{} is {} instead of stopped", unit.name, unit.state.name()),
            ));
        }
        Ok(())
    }

    fn undo(
        &self,
        args: &ServiceName,
        pre_image: &PreImage,
        output: Option<&Changed>,
        context: &Context,
    ) -> Result<Undone, ToolError> {
        if !recall(pre_image)?.was_wanted {
            return Ok(Undone::Nothing(format!(
                "{} was not running before the call",
                args.name
            )));
        }
        let now = pid1::units(context)?;
        if !now.iter().any(|unit| unit.name == args.name) {
            return Ok(Undone::Refused(format!(
                "{} is not defined any more; undo what removed it first",
                args.name
            )));
        }
        let is_up = |name: &str| {
            now.iter()
                .any(|unit| unit.name == name && is_wanted(unit.state))
        };
        let along = output
            .map(|output| output.along.as_slice())
            .unwrap_or_default();
        let mut started = Vec::new();
        for name in std::iter::once(&args.name).chain(along) {
            if !is_up(name) {
                start(context, name)?;
                started.push(name.as_str());
            }
        }
        if started.is_empty() {
            return Ok(Undone::Nothing(format!(
                "{} is running again already",
                args.name
            )));
        }
        Ok(Undone::Undone(format!("started {}", started.join(", "))))
    }
}
