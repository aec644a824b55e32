//! Answering what is asked on the control socket: at once where PID 1 knows, later where the
//! supervisor has to act first.

use std::fs;

use aios_init_core::{Event, Level, Operation, from_definition};
use aios_init_protocol::{Reply, Request, ServiceDefinition, UnitReport};

use crate::{
    clock::now,
    control::{Asked, error},
    run::Init,
};

impl Init {
    pub(crate) fn answer(&mut self, asked: Asked) {
        let Asked {
            token,
            uid,
            request,
        } = asked;
        let reply = if self.access.allows(uid, &request) {
            self.carry_out(token, uid, request)
        } else {
            let text = format!(
                "uid {uid} asked for something that it may not: {}",
                name_of(&request)
            );
            self.linux.console.log(Level::Info, &text, now());
            Some(error(
                "denied",
                format!("uid {uid} may not ask PID 1 for {}", name_of(&request)),
            ))
        };
        if let Some(reply) = reply {
            self.control.reply(token, &reply, now());
        }
    }

    /// Answers at once, or later by the supervisor.
    fn carry_out(&mut self, token: u64, uid: u32, request: Request) -> Option<Reply> {
        let operation = match request {
            Request::List => {
                let units = self
                    .supervisor
                    .reports()
                    .into_iter()
                    .map(|report| self.with_memory(report));
                return Some(Reply::Units {
                    units: units.collect(),
                });
            }
            Request::Status { unit } => {
                return Some(match self.supervisor.report(&unit) {
                    Some(report) => Reply::Unit {
                        unit: self.with_memory(report),
                    },
                    None => no_unit(&unit),
                });
            }
            Request::Boot => {
                return Some(Reply::Boot {
                    boot: self.supervisor.boot_report(),
                });
            }
            Request::Logs { unit, lines } => return Some(self.logs(&unit, lines)),
            Request::Definition { unit } => return Some(self.definition(&unit)),
            Request::Define { service } => match self.define(&service) {
                Ok(operation) => operation,
                Err(reply) => return Some(*reply),
            },
            Request::Start { unit } => Operation::Start(unit),
            Request::Stop { unit } => Operation::Stop(unit),
            Request::Restart { unit } => Operation::Restart(unit),
            Request::Remove { unit } => Operation::Remove(unit),
            Request::Power { action, reason } => {
                // Answered before it begins: afterwards there may be nobody left to hear it.
                let detail = "the machine is ending".to_owned();
                self.control.reply(token, &Reply::Done { detail }, now());
                let reason: String = reason
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(200)
                    .collect();
                self.drive(Event::Power {
                    action,
                    reason: format!("{reason} (uid {uid})"),
                });
                return None;
            }
        };
        self.drive(Event::Request { token, operation });
        None
    }

    fn with_memory(&self, mut report: UnitReport) -> UnitReport {
        report.memory_bytes = self.linux.cgroups.memory(&report.name);
        report
    }

    fn logs(&mut self, unit: &str, lines: u32) -> Reply {
        if self.supervisor.unit(unit).is_none() {
            return no_unit(unit);
        }
        let lines = usize::try_from(lines).unwrap_or(usize::MAX);
        let kept = self.linux.outputs.get_mut(unit).map(|output| {
            output.take_in();
            output.last_lines(lines)
        });
        Reply::Lines {
            lines: kept.unwrap_or_default(),
        }
    }

    fn definition(&self, unit: &str) -> Reply {
        if !self.supervisor.is_machine_defined(unit) {
            return Reply::Definition { service: None };
        }
        match self
            .linux
            .definitions
            .as_ref()
            .map(|definitions| definitions.get(unit))
        {
            Some(Ok(service)) => Reply::Definition { service },
            Some(Err(message)) => error("failed", message),
            None => Reply::Definition { service: None },
        }
    }

    /// Checks a definition and puts it on disk before the supervisor hears of it.
    fn define(&self, service: &ServiceDefinition) -> Result<Operation, Box<Reply>> {
        let unit =
            from_definition(service).map_err(|message| Box::new(error("invalid", message)))?;
        self.supervisor
            .check_definition(&unit)
            .map_err(|refusal| Box::new(error(refusal.kind, refusal.message)))?;
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        aios_init_core::resolve(&passwd, "", &unit.user)
            .map_err(|wrong| Box::new(error("invalid", wrong.to_string())))?;
        let Some(definitions) = &self.linux.definitions else {
            let message = "the state directory cannot be written".to_owned();
            return Err(Box::new(error("failed", message)));
        };
        definitions.put(service).map_err(|wrong| {
            Box::new(error(
                "failed",
                format!("cannot store the definition: {wrong}"),
            ))
        })?;
        Ok(Operation::Define(Box::new(unit)))
    }
}

fn no_unit(unit: &str) -> Reply {
    error(
        "not_found",
        format!("there is no unit `{unit}`; `aios service list` shows all"),
    )
}

fn name_of(request: &Request) -> &'static str {
    match request {
        Request::List => "list",
        Request::Status { .. } => "status",
        Request::Start { .. } => "start",
        Request::Stop { .. } => "stop",
        Request::Restart { .. } => "restart",
        Request::Define { .. } => "define",
        Request::Remove { .. } => "remove",
        Request::Definition { .. } => "definition",
        Request::Logs { .. } => "logs",
        Request::Boot => "boot",
        Request::Power { .. } => "power",
    }
}
