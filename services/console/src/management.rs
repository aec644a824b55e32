//! The methods that the console carries out itself. Each is called through the gate only, which
//! leaves the caller in the request's extensions; without one a method does nothing.

use std::{path::PathBuf, sync::Arc, time::Duration};

use aios_init_protocol::{PowerAction, Request as InitRequest};
use aios_kit::{Category, Error, Paths, config::SystemConfig};
use aios_proto::v1::{
    AuthorizeSshKeyRequest, BootPhase, BootReportReply, BootUnit, CertificateInfo, Empty,
    GetConfigReply, HealthReply, IssueCertificateReply, IssueCertificateRequest,
    ListCertificatesReply, ListServicesReply, MemoryHealthReply, OrchestratorHealthReply,
    PowerRequest, ReadLogsReply, ReadLogsRequest, RevokeCertificateRequest, RuntimeHealthReply,
    StatusReply, ToolsHealthReply, WhoAmIReply, management_server::Management,
    memory_client::MemoryClient, orchestrator_client::OrchestratorClient,
    runtime_client::RuntimeClient, tools_client::ToolsClient,
};
use time::OffsetDateTime;
use tokio::time::timeout;
use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    authority::{Authority, AuthorityError},
    certificates::{Certificates, Record, Revocation, TableError},
    host::{self, Init},
    now_ms,
    peer::Caller,
    proxy::Backends,
    roles::{Backend, Role},
    ssh_keys::{self, SshKeyError},
};

/// Longest wait for a daemon's health within a status.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// Log lines when none are asked for, and at most.
const LOG_LINES: u32 = 100;
const MAX_LOG_LINES: u32 = 5000;
/// Longest reason that is kept.
const MAX_REASON_CHARS: usize = 200;

/// The console's own methods.
pub(crate) struct ManagementService {
    pub(crate) paths: Paths,
    pub(crate) authority: Arc<Authority>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) backends: Backends,
    pub(crate) certificate_days: u32,
    pub(crate) init: Init,
    /// Why the settings are the safe ones, if they are.
    pub(crate) settings_problem: Option<String>,
}

impl From<AuthorityError> for Error {
    fn from(error: AuthorityError) -> Self {
        let category = match error {
            AuthorityError::Request(_) => Category::Validation,
            AuthorityError::Sign(_) => Category::Internal,
            _ => Category::Filesystem,
        };
        Error::new(category, error.to_string())
    }
}

impl From<TableError> for Error {
    fn from(error: TableError) -> Self {
        let category = match error {
            TableError::Unknown(_) => Category::Validation,
            TableError::Full => Category::Conflict,
            _ => Category::Filesystem,
        };
        Error::new(category, error.to_string())
    }
}

impl From<SshKeyError> for Error {
    fn from(error: SshKeyError) -> Self {
        let category = match error {
            SshKeyError::Invalid(_) => Category::Validation,
            SshKeyError::Full => Category::Conflict,
            SshKeyError::File { .. } => Category::Filesystem,
        };
        Error::new(category, error.to_string())
    }
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| Status::unauthenticated("this call did not come through the gate"))
}

fn shortened(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_REASON_CHARS)
        .collect()
}

/// The health of one daemon: what it says, or why it says nothing.
async fn ask<T>(
    name: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, String> {
    match timeout(HEALTH_TIMEOUT, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(format!("aios-{name}: {}", Error::from(status).message())),
        Err(_) => Err(format!("aios-{name} did not answer within 2 seconds")),
    }
}

fn complaint(name: &str, health: Option<&HealthReply>) -> Option<String> {
    match health {
        Some(health) if health.state == "ok" => None,
        Some(health) => Some(format!(
            "aios-{name} is {}: {}",
            health.state, health.reason
        )),
        None => Some(format!("aios-{name} says nothing of its health")),
    }
}

/// Whether a problem is no more than what another daemon, or PID 1, says of the same settings.
fn same_settings(problem: &str, settings: &str) -> bool {
    let said = problem
        .split_once("degraded: ")
        .map_or(problem, |(_, said)| said);
    !said.is_empty() && settings.starts_with(said)
}

impl ManagementService {
    fn channel(&self, backend: Backend) -> Result<Channel, Status> {
        self.backends
            .channel(backend)
            .ok_or_else(|| Status::internal("no such daemon"))
    }

    async fn power(
        &self,
        request: Request<PowerRequest>,
        action: PowerAction,
    ) -> Result<Response<Empty>, Status> {
        let caller = caller(&request)?;
        let reason = format!(
            "{}: {}",
            caller.principal,
            shortened(&request.into_inner().reason)
        );
        tracing::info!(?action, reason, "power");
        self.init
            .call(InitRequest::Power { action, reason })
            .await?;
        Ok(Response::new(Empty {}))
    }

    fn ssh_file(&self) -> PathBuf {
        ssh_keys::file(&self.paths.state)
    }
}

#[tonic::async_trait]
impl Management for ManagementService {
    async fn status(&self, _: Request<Empty>) -> Result<Response<StatusReply>, Status> {
        let mut runtime = RuntimeClient::new(self.channel(Backend::Runtime)?);
        let mut memory = MemoryClient::new(self.channel(Backend::Memory)?);
        let mut tools = ToolsClient::new(self.channel(Backend::Tools)?);
        let mut orchestrator = OrchestratorClient::new(self.channel(Backend::Orchestrator)?);
        let (boot, services, runtime, memory, tools, orchestrator) = tokio::join!(
            self.init.boot(),
            self.init.services(),
            ask("runtime", runtime.runtime_health(Empty {})),
            ask("memory", memory.memory_health(Empty {})),
            ask("tools", tools.tools_health(Empty {})),
            ask("orchestrator", orchestrator.orchestrator_health(Empty {})),
        );
        let mut problems = Vec::new();
        let mut state = match boot {
            Ok(boot) => {
                problems.extend(boot.problems);
                boot.state
            }
            Err(error) => {
                problems.push(error.to_string());
                "degraded".to_owned()
            }
        };
        let services = services.unwrap_or_default();
        problems.extend(
            services
                .iter()
                .filter(|service| service.state == "failed" || service.state == "backoff")
                .map(|service| {
                    format!(
                        "service {} is {}: {}",
                        service.name, service.state, service.last_exit
                    )
                }),
        );
        let mut heard = Health::default();
        match runtime {
            Ok(reply) => heard.runtime = Some(reply),
            Err(problem) => problems.push(problem),
        }
        match memory {
            Ok(reply) => heard.memory = Some(reply),
            Err(problem) => problems.push(problem),
        }
        match tools {
            Ok(reply) => heard.tools = Some(reply),
            Err(problem) => problems.push(problem),
        }
        match orchestrator {
            Ok(reply) => heard.orchestrator = Some(reply),
            Err(problem) => problems.push(problem),
        }
        problems.extend(heard.complaints());
        // Every daemon that reads the settings reports the same; once is enough for a person.
        if let Some(settings) = &self.settings_problem {
            for problem in &mut problems {
                *problem = problem.replace(&format!("{settings}; "), "");
            }
            problems.retain(|problem| !same_settings(problem, settings));
            problems.insert(0, settings.clone());
        }
        let mut seen = std::collections::BTreeSet::new();
        problems.retain(|problem| seen.insert(problem.clone()));
        if state == "rescue" || (state == "ready" && !problems.is_empty()) {
            state = "degraded".to_owned();
        }
        let model = heard
            .runtime
            .and_then(|reply| reply.operational)
            .unwrap_or_default();
        let orchestrator = heard.orchestrator.unwrap_or_default();
        Ok(Response::new(StatusReply {
            hostname: host::hostname(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(host::uptime().as_millis()).unwrap_or(u64::MAX),
            state,
            problems,
            services,
            model: model.name,
            model_trained: model.trained,
            agents_running: orchestrator.agents_running,
            agents_expected: orchestrator.agents_expected,
            active_goals: orchestrator.active_goals,
            autonomy_level: orchestrator.autonomy_level,
            addresses: host::addresses(),
            ca_fingerprint: self.authority.fingerprint(),
        }))
    }

    async fn boot_report(&self, _: Request<Empty>) -> Result<Response<BootReportReply>, Status> {
        let boot = self.init.boot().await?;
        let json = serde_json::to_string(&boot)
            .map_err(|error| Error::new(Category::Internal, error.to_string()))?;
        Ok(Response::new(BootReportReply {
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
            json,
        }))
    }

    async fn list_services(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<ListServicesReply>, Status> {
        let services = self.init.services().await?;
        Ok(Response::new(ListServicesReply { services }))
    }

    async fn read_logs(
        &self,
        request: Request<ReadLogsRequest>,
    ) -> Result<Response<ReadLogsReply>, Status> {
        let ReadLogsRequest { unit, lines } = request.into_inner();
        let lines = match lines {
            0 => LOG_LINES,
            lines => lines.min(MAX_LOG_LINES),
        };
        let lines = self.init.logs(unit, lines).await?;
        Ok(Response::new(ReadLogsReply { lines }))
    }

    async fn get_config(&self, _: Request<Empty>) -> Result<Response<GetConfigReply>, Status> {
        let config = SystemConfig::load(&self.paths.config_file())?;
        let toml = toml::to_string_pretty(&config)
            .map_err(|error| Error::new(Category::Internal, error.to_string()))?;
        Ok(Response::new(GetConfigReply { toml }))
    }

    async fn who_am_i(&self, request: Request<Empty>) -> Result<Response<WhoAmIReply>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(WhoAmIReply {
            principal: caller.principal,
            role: caller.role.name().to_owned(),
            fingerprint: caller.fingerprint,
        }))
    }

    async fn issue_certificate(
        &self,
        request: Request<IssueCertificateRequest>,
    ) -> Result<Response<IssueCertificateReply>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let role: Role = request
            .role
            .parse()
            .map_err(|error: crate::roles::UnknownRole| {
                Error::new(Category::Validation, error.to_string())
            })?;
        let days = match request.days {
            0 => self.certificate_days,
            days => days.min(self.certificate_days),
        };
        let issued = self
            .authority
            .issue_client(
                &request.csr_pem,
                &request.name,
                role,
                days,
                OffsetDateTime::now_utc(),
            )
            .map_err(Error::from)?;
        let record = Record {
            serial: issued.serial.clone(),
            fingerprint: issued.fingerprint,
            name: request.name,
            role: role.name().to_owned(),
            issued_ms: now_ms(),
            not_after_ms: issued.not_after_ms,
            issued_by: caller.principal,
            revoked: None,
        };
        let certificates = self.certificates.clone();
        blocking(move || certificates.add(record, now_ms()).map_err(Error::from)).await?;
        Ok(Response::new(IssueCertificateReply {
            certificate_pem: issued.pem,
            authority_pem: self.authority.pem().to_owned(),
            serial: issued.serial,
            not_after_ms: issued.not_after_ms,
        }))
    }

    async fn list_certificates(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<ListCertificatesReply>, Status> {
        let certificates = self
            .certificates
            .list()
            .into_iter()
            .map(|record| CertificateInfo {
                serial: record.serial,
                name: record.name,
                role: record.role,
                issued_ms: record.issued_ms,
                not_after_ms: record.not_after_ms,
                revoked: record.revoked.is_some(),
                issued_by: record.issued_by,
            })
            .collect();
        Ok(Response::new(ListCertificatesReply { certificates }))
    }

    async fn revoke_certificate(
        &self,
        request: Request<RevokeCertificateRequest>,
    ) -> Result<Response<Empty>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let revocation = Revocation {
            time_ms: now_ms(),
            by: caller.principal,
            reason: shortened(&request.reason),
        };
        let certificates = self.certificates.clone();
        let revoked = blocking(
            move || match certificates.revoke(&request.serial, revocation) {
                Ok(()) => Ok(None),
                Err(error @ TableError::Unknown(_)) => Ok(Some(error.to_string())),
                Err(error) => Err(error.into()),
            },
        )
        .await?;
        match revoked {
            None => Ok(Response::new(Empty {})),
            Some(unknown) => Err(Status::not_found(unknown)),
        }
    }

    async fn authorize_ssh_key(
        &self,
        request: Request<AuthorizeSshKeyRequest>,
    ) -> Result<Response<Empty>, Status> {
        let key = request.into_inner().public_key;
        let file = self.ssh_file();
        blocking(move || ssh_keys::authorize(&file, &key).map_err(Error::from)).await?;
        Ok(Response::new(Empty {}))
    }

    async fn power_off(&self, request: Request<PowerRequest>) -> Result<Response<Empty>, Status> {
        self.power(request, PowerAction::PowerOff).await
    }

    async fn reboot(&self, request: Request<PowerRequest>) -> Result<Response<Empty>, Status> {
        self.power(request, PowerAction::Reboot).await
    }
}

/// Work with files, which may wait for a disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(Category::Internal, error.to_string()))?
}

#[derive(Default)]
struct Health {
    runtime: Option<RuntimeHealthReply>,
    memory: Option<MemoryHealthReply>,
    tools: Option<ToolsHealthReply>,
    orchestrator: Option<OrchestratorHealthReply>,
}

impl Health {
    fn complaints(&self) -> Vec<String> {
        let runtime = self.runtime.as_ref().map(|reply| reply.health.as_ref());
        let memory = self.memory.as_ref().map(|reply| reply.health.as_ref());
        let tools = self.tools.as_ref().map(|reply| reply.health.as_ref());
        let orchestrator = self
            .orchestrator
            .as_ref()
            .map(|reply| reply.health.as_ref());
        [
            ("runtime", runtime),
            ("memory", memory),
            ("tools", tools),
            ("orchestrator", orchestrator),
        ]
        .into_iter()
        .filter_map(|(name, health)| health.and_then(|health| complaint(name, health)))
        .collect()
    }
}
