//! A PID 1 for tests: the real protocol over a real socket, with units that only exist in memory.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_init_protocol::{Reply, Request, ServiceDefinition, UnitReport, UnitState};
use aios_tool_api::{BlobStore, Context};

#[derive(Default)]
pub(crate) struct World {
    pub(crate) units: BTreeMap<String, UnitReport>,
    pub(crate) definitions: BTreeMap<String, ServiceDefinition>,
    pub(crate) requires: BTreeMap<String, String>,
    pub(crate) log: Vec<String>,
    /// Units that do not get ready when they are started.
    pub(crate) broken: Vec<String>,
    /// Every request that would change something.
    pub(crate) changes: Vec<Request>,
}

pub(crate) struct FakePid1 {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) dir: tempfile::TempDir,
}

fn report(name: &str, state: UnitState, machine_defined: bool) -> UnitReport {
    UnitReport {
        name: name.to_owned(),
        description: format!("the {name} service"),
        state,
        phase: "services".into(),
        pid: if state == UnitState::Ready {
            std::process::id()
        } else {
            0
        },
        restarts: 0,
        since_us: 1,
        status_text: String::new(),
        last_exit: String::new(),
        memory_bytes: 0,
        machine_defined,
    }
}

impl World {
    pub(crate) fn unit(&mut self, name: &str, state: UnitState) {
        self.units
            .insert(name.to_owned(), report(name, state, false));
    }

    fn set(&mut self, name: &str, state: UnitState) {
        if let Some(unit) = self.units.get_mut(name) {
            *unit = report(name, state, unit.machine_defined);
        }
    }

    fn answer(&mut self, request: Request) -> Reply {
        if !matches!(
            request,
            Request::List
                | Request::Status { .. }
                | Request::Definition { .. }
                | Request::Logs { .. }
        ) {
            self.changes.push(request.clone());
        }
        let unknown = |name: &str| Reply::Error {
            kind: "not_found".into(),
            message: format!("there is no unit `{name}`"),
        };
        let done = || Reply::Done {
            detail: "done".into(),
        };
        match request {
            Request::List => Reply::Units {
                units: self.units.values().cloned().collect(),
            },
            Request::Status { unit } => match self.units.get(&unit) {
                Some(unit) => Reply::Unit { unit: unit.clone() },
                None => unknown(&unit),
            },
            Request::Definition { unit } => Reply::Definition {
                service: self.definitions.get(&unit).cloned(),
            },
            Request::Start { unit } => {
                if !self.units.contains_key(&unit) {
                    return unknown(&unit);
                }
                if self.broken.contains(&unit) {
                    self.set(&unit, UnitState::Failed);
                    return Reply::Error {
                        kind: "failed".into(),
                        message: format!("{unit} ended with exit code 1"),
                    };
                }
                if let Some(required) = self.requires.get(&unit).cloned() {
                    self.set(&required, UnitState::Ready);
                }
                self.set(&unit, UnitState::Ready);
                done()
            }
            Request::Stop { unit } => {
                if !self.units.contains_key(&unit) {
                    return unknown(&unit);
                }
                self.set(&unit, UnitState::Stopped);
                let requiring: Vec<String> = self
                    .requires
                    .iter()
                    .filter(|(_, required)| **required == unit)
                    .map(|(name, _)| name.clone())
                    .collect();
                for name in requiring {
                    self.set(&name, UnitState::Stopped);
                }
                done()
            }
            Request::Define { service } => {
                let name = service.name.clone();
                let state = self
                    .units
                    .get(&name)
                    .map_or(UnitState::Stopped, |unit| unit.state);
                self.units.insert(name.clone(), report(&name, state, true));
                self.definitions.insert(name, service);
                done()
            }
            Request::Remove { unit } => {
                if self.definitions.remove(&unit).is_none() {
                    return unknown(&unit);
                }
                self.units.remove(&unit);
                done()
            }
            Request::Logs { unit, lines } => {
                if !self.units.contains_key(&unit) {
                    return unknown(&unit);
                }
                let skip = self.log.len().saturating_sub(lines as usize);
                Reply::Lines {
                    lines: self.log[skip..].to_vec(),
                }
            }
            other => Reply::Error {
                kind: "invalid".into(),
                message: format!("{other:?}"),
            },
        }
    }
}

impl FakePid1 {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("init.sock")).unwrap();
        let world = Arc::new(Mutex::new(World::default()));
        let served = Arc::clone(&world);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut line = String::new();
                BufReader::new(stream.try_clone().unwrap())
                    .read_line(&mut line)
                    .unwrap();
                let reply = served
                    .lock()
                    .unwrap()
                    .answer(serde_json::from_str(&line).unwrap());
                let mut line = serde_json::to_vec(&reply).unwrap();
                line.push(b'\n');
                // The client may be gone, which is its business.
                let _ = stream.write_all(&line);
            }
        });
        Self { world, dir }
    }

    /// A context whose root is the test's directory.
    pub(crate) fn context(&self) -> Context {
        let mut context = Context::new(
            BlobStore::new(self.dir.path().join("blobs")),
            Duration::from_secs(5),
        );
        context.init_socket = self.dir.path().join("init.sock");
        context.root = self.dir.path().to_owned();
        context
    }

    /// Puts an executable file below the test's root.
    pub(crate) fn program(&self, path: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.dir.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "#!/bin/true\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}
