//! The machine as a whole: status, boot, logs, configuration, power. Where PID 1 alone can answer, it
//! is asked when the console of this machine is down.

use std::time::Duration;

use aios_init_protocol as init;
use aios_proto::v1::{
    BootPhase, BootReportReply, BootUnit, Empty, PowerRequest, ReadLogsRequest, ServiceInfo,
    StatusReply,
};

use super::connect;
use crate::{
    cli::{Global, PowerAction},
    connect::repeatable,
    failure::{Exit, Failure},
    output,
    pid1::{self, Pid1},
    texts,
};

/// Longest wait for the console, whose socket PID 1 keeps open even while nobody serves it.
const LIMIT: Duration = Duration::from_secs(7);

/// A call to the console that is given up in time for PID 1 to be asked instead.
async fn answered<T>(call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(LIMIT, call).await.unwrap_or_else(|_| {
        Err(Failure::unreachable(format!(
            "aios-console did not answer within {} s",
            LIMIT.as_secs()
        ))
        .hint("try again in a moment"))
    })
}

fn unexpected() -> Failure {
    Failure::failed("PID 1 answered with something else than was asked")
}

pub(crate) async fn fetch_status(global: &Global) -> Result<StatusReply, Failure> {
    let result = answered(async {
        let machine = connect(global).await?;
        repeatable(|| {
            let mut client = machine.management();
            async move { client.status(Empty {}).await }
        })
        .await
    })
    .await;
    match result {
        Err(failure) => match pid1::instead(global, &failure) {
            Some(pid1) => status_of_pid1(&pid1, &failure),
            None => Err(failure),
        },
        done => done,
    }
}

fn status_of_pid1(pid1: &Pid1, failure: &Failure) -> Result<StatusReply, Failure> {
    let init::Reply::Boot { boot } = pid1.call(&init::Request::Boot)? else {
        return Err(unexpected());
    };
    let mut problems = vec![failure.to_string()];
    problems.extend(boot.problems);
    Ok(StatusReply {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: if boot.state == "ready" {
            "degraded".to_owned()
        } else {
            boot.state
        },
        problems,
        services: services_of_pid1(pid1)?,
        ..StatusReply::default()
    })
}

fn services_of_pid1(pid1: &Pid1) -> Result<Vec<ServiceInfo>, Failure> {
    let init::Reply::Units { units } = pid1.call(&init::Request::List)? else {
        return Err(unexpected());
    };
    Ok(units
        .into_iter()
        .map(|unit| ServiceInfo {
            name: unit.name,
            state: unit.state.name().to_owned(),
            phase: unit.phase,
            pid: unit.pid,
            restarts: unit.restarts,
            since_ms: 0,
            status_text: unit.status_text,
            last_exit: unit.last_exit,
            memory_bytes: unit.memory_bytes,
        })
        .collect())
}

pub(crate) async fn status(global: &Global) -> Result<Exit, Failure> {
    let status = fetch_status(global).await?;
    if global.json {
        output::json(&status);
    } else {
        output::line(status_text(&status));
    }
    Ok(Exit::Ok)
}

/// The status as a person reads it.
pub(crate) fn status_text(status: &StatusReply) -> String {
    let or = |text: &str, none: &str| {
        if text.is_empty() {
            none.to_owned()
        } else {
            text.to_owned()
        }
    };
    let ready = status
        .services
        .iter()
        .filter(|unit| unit.state == "ready")
        .count();
    let mut lines = vec![
        format!(
            "{} is {}, up {} (aiOS {})",
            or(&status.hostname, "this machine"),
            or(&status.state, "unknown"),
            texts::duration(status.uptime_ms),
            status.version
        ),
        format!(
            "  model      {}{}",
            or(&status.model, "none"),
            if status.model.is_empty() || status.model_trained {
                ""
            } else {
                " (untrained)"
            }
        ),
        format!(
            "  agents     {} of {} running",
            status.agents_running, status.agents_expected
        ),
        format!("  services   {ready} of {} ready", status.services.len()),
        format!(
            "  goals      {} active, autonomy {}",
            status.active_goals,
            or(&status.autonomy_level, "unknown")
        ),
        format!("  addresses  {}", or(&status.addresses.join(", "), "none")),
    ];
    if !status.ca_fingerprint.is_empty() {
        lines.push(format!("  authority  sha256:{}", status.ca_fingerprint));
    }
    for problem in &status.problems {
        lines.push(format!("  ! {problem}"));
    }
    lines.join("\n")
}

pub(crate) async fn services(global: &Global) -> Result<Exit, Failure> {
    let result = answered(async {
        let machine = connect(global).await?;
        repeatable(|| {
            let mut client = machine.management();
            async move { client.list_services(Empty {}).await }
        })
        .await
    })
    .await;
    let services = match result {
        Ok(reply) => reply.services,
        Err(failure) => match pid1::instead(global, &failure) {
            Some(pid1) => services_of_pid1(&pid1)?,
            None => return Err(failure),
        },
    };
    if global.json {
        output::json(&serde_json::json!({ "services": services }));
        return Ok(Exit::Ok);
    }
    let rows: Vec<Vec<String>> = services
        .iter()
        .map(|unit| {
            vec![
                unit.name.clone(),
                unit.state.clone(),
                unit.phase.clone(),
                unit.pid.to_string(),
                unit.restarts.to_string(),
                texts::bytes(unit.memory_bytes),
                if unit.status_text.is_empty() {
                    unit.last_exit.clone()
                } else {
                    unit.status_text.clone()
                },
            ]
        })
        .collect();
    let header = [
        "NAME", "STATE", "PHASE", "PID", "RESTARTS", "MEMORY", "STATUS",
    ];
    output::line(texts::table(&header, &rows));
    Ok(Exit::Ok)
}

pub(crate) async fn boot(global: &Global) -> Result<Exit, Failure> {
    let result = answered(async {
        let machine = connect(global).await?;
        repeatable(|| {
            let mut client = machine.management();
            async move { client.boot_report(Empty {}).await }
        })
        .await
    })
    .await;
    let report = match result {
        Ok(report) => report,
        Err(failure) => match pid1::instead(global, &failure) {
            Some(pid1) => boot_of_pid1(&pid1)?,
            None => return Err(failure),
        },
    };
    if global.json {
        // PID 1's own report has everything that the reply repeats.
        output::json(&output::value(&report.json));
    } else {
        output::line(boot_text(&report));
    }
    Ok(Exit::Ok)
}

fn boot_of_pid1(pid1: &Pid1) -> Result<BootReportReply, Failure> {
    let init::Reply::Boot { boot } = pid1.call(&init::Request::Boot)? else {
        return Err(unexpected());
    };
    Ok(BootReportReply {
        json: serde_json::to_string(&boot).unwrap_or_default(),
        phases: boot
            .phases
            .into_iter()
            .map(|phase| BootPhase {
                name: phase.name,
                start_us: phase.start_us,
                end_us: phase.end_us,
                deadline_us: phase.deadline_us,
                outcome: phase.outcome,
                detail: phase.detail,
            })
            .collect(),
        units: boot
            .units
            .into_iter()
            .map(|unit| BootUnit {
                name: unit.name,
                phase: unit.phase,
                start_us: unit.start_us,
                ready_us: unit.ready_us,
            })
            .collect(),
        ready_us: boot.ready_us,
    })
}

fn boot_text(report: &BootReportReply) -> String {
    let took = |start: u64, end: u64| {
        if end == 0 {
            "-".to_owned()
        } else {
            texts::micros(end.saturating_sub(start))
        }
    };
    let phases: Vec<Vec<String>> = report
        .phases
        .iter()
        .map(|phase| {
            vec![
                phase.name.clone(),
                texts::micros(phase.start_us),
                took(phase.start_us, phase.end_us),
                texts::micros(phase.deadline_us),
                phase.outcome.clone(),
                phase.detail.clone(),
            ]
        })
        .collect();
    let mut units: Vec<&BootUnit> = report.units.iter().collect();
    units.sort_by_key(|unit| std::cmp::Reverse(unit.ready_us.saturating_sub(unit.start_us)));
    let units: Vec<Vec<String>> = units
        .into_iter()
        .map(|unit| {
            vec![
                unit.name.clone(),
                unit.phase.clone(),
                texts::micros(unit.start_us),
                took(unit.start_us, unit.ready_us),
            ]
        })
        .collect();
    let ready = if report.ready_us == 0 {
        "not ready yet".to_owned()
    } else {
        format!(
            "ready {} after the kernel started",
            texts::micros(report.ready_us)
        )
    };
    format!(
        "{}\n\nslowest units first\n{}\n\n{ready}",
        texts::table(
            &["PHASE", "BEGAN", "TOOK", "DEADLINE", "OUTCOME", "DETAIL"],
            &phases
        ),
        texts::table(&["UNIT", "PHASE", "STARTED", "READY AFTER"], &units),
    )
}

pub(crate) async fn logs(global: &Global, unit: String, lines: u32) -> Result<Exit, Failure> {
    let result = answered(async {
        let machine = connect(global).await?;
        repeatable(|| {
            let mut client = machine.management();
            let unit = unit.clone();
            async move { client.read_logs(ReadLogsRequest { unit, lines }).await }
        })
        .await
    })
    .await;
    let lines = match result {
        Ok(reply) => reply.lines,
        Err(failure) => match pid1::instead(global, &failure) {
            Some(pid1) => match pid1.call(&init::Request::Logs { unit, lines })? {
                init::Reply::Lines { lines } => lines,
                _ => return Err(unexpected()),
            },
            None => return Err(failure),
        },
    };
    if global.json {
        output::json(&serde_json::json!({ "lines": lines }));
    } else {
        for line in lines {
            output::line(line);
        }
    }
    Ok(Exit::Ok)
}

pub(crate) async fn config(global: &Global) -> Result<Exit, Failure> {
    let machine = connect(global).await?;
    let reply = repeatable(|| {
        let mut client = machine.management();
        async move { client.get_config(Empty {}).await }
    })
    .await?;
    if global.json {
        let value: toml::Value = toml::from_str(&reply.toml).map_err(|error| {
            Failure::failed(format!("the machine's answer is no TOML: {error}"))
        })?;
        output::json(&value);
    } else {
        output::line(reply.toml.trim_end());
    }
    Ok(Exit::Ok)
}

pub(crate) async fn whoami(global: &Global) -> Result<Exit, Failure> {
    let machine = connect(global).await?;
    let reply = repeatable(|| {
        let mut client = machine.management();
        async move { client.who_am_i(Empty {}).await }
    })
    .await?;
    if global.json {
        output::json(&reply);
    } else {
        output::line(format!("{} ({})", reply.principal, reply.role));
        if !reply.fingerprint.is_empty() {
            output::line(format!("certificate sha256:{}", reply.fingerprint));
        }
    }
    Ok(Exit::Ok)
}

pub(crate) async fn power(
    global: &Global,
    action: PowerAction,
    reason: String,
) -> Result<Exit, Failure> {
    let result = answered(async {
        let mut client = connect(global).await?.management();
        let request = PowerRequest {
            reason: reason.clone(),
        };
        match action {
            PowerAction::Off => client.power_off(request).await?,
            PowerAction::Reboot => client.reboot(request).await?,
        };
        Ok(())
    })
    .await;
    if let Err(failure) = result {
        let Some(pid1) = pid1::instead(global, &failure) else {
            return Err(failure);
        };
        let action = match action {
            PowerAction::Off => init::PowerAction::PowerOff,
            PowerAction::Reboot => init::PowerAction::Reboot,
        };
        pid1.call(&init::Request::Power { action, reason })?;
    }
    let what = match action {
        PowerAction::Off => "switching off",
        PowerAction::Reboot => "restarting",
    };
    if global.json {
        output::json(&serde_json::json!({ "action": what }));
    } else {
        output::line(format!("the machine is {what}"));
    }
    Ok(Exit::Ok)
}
