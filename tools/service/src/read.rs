//! `service.list` and `service.status`.

use std::time::Duration;

use aios_tool_api::{Capability, Context, Risk, Spec, Tool, ToolError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    name, pid1,
    report::{Service, ServiceName},
};

/// Takes no arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoArgs {}

/// Every service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Listed {
    /// The services, in the order of their names.
    pub services: Vec<Service>,
    /// How many there are.
    pub total: usize,
    /// How many are ready.
    pub running: usize,
    /// Names of those that failed for good.
    pub failed: Vec<String>,
}

/// `service.list`
#[derive(Debug, Clone, Copy)]
pub struct List;

impl Tool for List {
    type Args = NoArgs;
    type Output = Listed;

    fn spec(&self) -> Spec {
        Spec {
            name: "service.list",
            summary: "List every service that PID 1 supervises, with its state.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(10),
            capability: ("service", "list"),
        }
    }

    fn capabilities(&self, _: &NoArgs) -> Vec<Capability> {
        vec![Capability::new("service", "list")]
    }

    fn execute(&self, _: &NoArgs, context: &Context) -> Result<Listed, ToolError> {
        let services: Vec<Service> = pid1::units(context)?
            .into_iter()
            .map(Service::from)
            .collect();
        Ok(Listed {
            total: services.len(),
            running: services.iter().filter(|service| service.running).count(),
            failed: services
                .iter()
                .filter(|service| service.state == "failed")
                .map(|service| service.name.clone())
                .collect(),
            services,
        })
    }
}

/// `service.status`
#[derive(Debug, Clone, Copy)]
pub struct Status;

impl Tool for Status {
    type Args = ServiceName;
    type Output = Service;

    fn spec(&self) -> Spec {
        Spec {
            name: "service.status",
            summary: "Show whether a service is running, since when, and how it last ended.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(10),
            capability: ("service", "status"),
        }
    }

    fn normalise(&self, args: ServiceName, _: &Context) -> Result<ServiceName, ToolError> {
        Ok(ServiceName {
            name: name::well_formed(&args.name)?,
        })
    }

    fn capabilities(&self, args: &ServiceName) -> Vec<Capability> {
        vec![Capability::new("service", "status").on(&args.name)]
    }

    fn execute(&self, args: &ServiceName, context: &Context) -> Result<Service, ToolError> {
        Ok(pid1::unit(context, &args.name)?.into())
    }
}
