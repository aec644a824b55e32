//! A machine for tests: the real `aios-init` as process 1 of its own PID, mount, host-name and
//! network namespaces, with everything it touches in a temporary directory.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use aios_init_protocol::{Client, ClientError, PowerAction, Reply, Request, UnitReport, UnitState};

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Machine {
    pub dir: tempfile::TempDir,
    cgroup: Option<PathBuf>,
    child: Option<Child>,
}

impl Machine {
    pub fn new(units: &[(&str, String)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for part in ["etc/services", "run", "state", "log"] {
            fs::create_dir_all(dir.path().join(part)).unwrap();
        }
        for (name, text) in units {
            fs::write(dir.path().join(format!("etc/services/{name}.toml")), text).unwrap();
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cgroup = cgroup_root()
            .map(|root| root.join(format!("aios-test-{}-{number}", std::process::id())));
        Self {
            dir,
            cgroup,
            child: None,
        }
    }

    pub fn boot(mut self) -> Self {
        self.start();
        self
    }

    pub fn start(&mut self) {
        let path = |part: &str| self.dir.path().join(part);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path("console"))
            .unwrap();
        let cgroup = self.cgroup.clone().unwrap_or_else(|| path("no-cgroups"));
        let _ = fs::remove_file(path("run/boot.json"));
        let child = Command::new("unshare")
            .args([
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--uts",
                "--net",
            ])
            .arg(env!("CARGO_BIN_EXE_aios-init"))
            .arg("--container")
            .args(["--etc".as_ref(), path("etc").as_os_str()])
            .args(["--run".as_ref(), path("run").as_os_str()])
            .args(["--state".as_ref(), path("state").as_os_str()])
            .args(["--log".as_ref(), path("log").as_os_str()])
            .args(["--cgroup".as_ref(), cgroup.as_os_str()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        self.until("READY", |machine| machine.console().contains("aiOS READY"));
    }

    pub fn has_cgroups(&self) -> bool {
        self.cgroup.is_some()
    }

    pub fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console")).unwrap_or_default()
    }

    pub fn log(&self, unit: &str) -> String {
        fs::read_to_string(self.dir.path().join(format!("log/{unit}.log"))).unwrap_or_default()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/init.sock")
    }

    pub fn ask(&self, request: &Request) -> Result<Reply, ClientError> {
        Client::new(&self.socket(), PATIENCE).call(request)
    }

    pub fn status(&self, unit: &str) -> UnitReport {
        match self.ask(&Request::Status {
            unit: unit.to_owned(),
        }) {
            Ok(Reply::Unit { unit }) => unit,
            other => panic!("{other:?}\n{}", self.console()),
        }
    }

    pub fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) -> Duration {
        let began = Instant::now();
        while !condition(self) {
            assert!(
                began.elapsed() < PATIENCE,
                "never: {what}\n{}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        began.elapsed()
    }

    pub fn until_state(&self, unit: &str, state: UnitState) -> Duration {
        self.until(&format!("{unit} is {state:?}"), |machine| {
            machine.status(unit).state == state
        })
    }

    /// The host's process id of PID 1.
    pub fn init_pid(&self) -> u32 {
        let parent = self.child.as_ref().unwrap().id();
        children(parent)[0]
    }

    /// The host's process id of a unit's main process, looked up by the namespace's.
    pub fn host_pid(&self, unit: &str) -> u32 {
        let inner = self.status(unit).pid;
        children(self.init_pid())
            .into_iter()
            .find(|pid| namespace_pid(*pid) == Some(inner))
            .unwrap_or_else(|| panic!("{unit} has no process {inner}"))
    }

    pub fn kill(&self, unit: &str) {
        signal(self.host_pid(unit), libc::SIGKILL);
    }

    /// Ends the machine and returns its status.
    pub fn end(&mut self, action: PowerAction) -> i32 {
        let reason = "the test is over".to_owned();
        self.ask(&Request::Power { action, reason }).unwrap();
        self.wait()
    }

    pub fn wait(&mut self) -> i32 {
        let mut child = self.child.take().unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status
                    .code()
                    .unwrap_or_else(|| -status.signal().unwrap_or(0));
            }
            assert!(
                began.elapsed() < PATIENCE,
                "the machine does not end\n{}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let Some(cgroup) = &self.cgroup else { return };
        for _ in 0..100 {
            for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(entry.path());
            }
            if fs::remove_dir(cgroup).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub fn signal(pid: u32, signal: i32) {
    // SAFETY: a plain system call.
    unsafe { libc::kill(i32::try_from(pid).unwrap(), signal) };
}

pub fn children(pid: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// The id of a process in its innermost namespace.
fn namespace_pid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

/// Where a cgroup v2 is mounted, if it can be written to.
fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let root = mounts
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .and_then(|line| line.split(' ').nth(4))
        .map(PathBuf::from)?;
    let probe = root.join(format!("aios-probe-{}", std::process::id()));
    fs::create_dir(&probe).ok()?;
    fs::remove_dir(&probe).ok()?;
    Some(root)
}

/// The text of a unit that runs a shell script.
pub fn script(script: &str, more: &str) -> String {
    let phase = if more.contains("phase") {
        ""
    } else {
        "phase = \"services\"\n"
    };
    format!(
        "description = \"a test\"\ncommand = \"/bin/sh\"\nargs = [\"-c\", '''{script}''']\n{phase}{more}\n"
    )
}

/// The text of a unit that runs the helper of this test program.
pub fn helping(what: &str, more: &str) -> String {
    let program = std::env::current_exe().unwrap();
    format!(
        "description = \"a test\"\nphase = \"services\"\ncommand = \"{}\"\nargs = [\"--exact\", \"helper\", \"--nocapture\"]\n{more}\n[environment]\nAIOS_TEST_HELPER = \"{what}\"\n",
        program.display()
    )
}

/// Whether namespaces can be made here. Without root the tests say so and do nothing; root, as in
/// CI, must be able to make them, since a skip there would look like a pass.
pub fn possible() -> bool {
    let probe = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "--uts", "--net", "true"])
        .stderr(Stdio::null())
        .status();
    let possible = probe.is_ok_and(|status| status.success());
    if !possible {
        assert!(
            !rustix::process::geteuid().is_root(),
            "root cannot make namespaces here, so PID 1 cannot be tested (unshare of util-linux is needed)"
        );
        eprintln!("skipped: no namespaces here (root is needed)");
    }
    possible
}

pub fn send_datagram(path: &Path, text: &str) {
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    socket.send_to(text.as_bytes(), path).unwrap();
}
