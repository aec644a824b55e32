//! aiOS in QEMU: starting it, reading its console, waiting for it, ending it.
//!
//! Invariants: a dropped [`Vm`] is killed; every wait has a limit; forwarded ports listen on
//! loopback only.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How the machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

/// How guest instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Accelerator {
    /// KVM where the processor offers it, otherwise emulation.
    Auto,
    /// Hardware virtualisation.
    Kvm,
    /// Emulation.
    Tcg,
}

impl Accelerator {
    fn resolve(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
            Self::Auto if kvm_works() => "kvm",
            Self::Auto => "tcg,thread=multi",
        }
    }
}

/// `/dev/kvm` alone says little: inside some virtual machines it is there and fails.
fn kvm_works() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let hardware = flags
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm");
    hardware
        && File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
}

/// Where the serial console goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// To this terminal, and to the log.
    Terminal,
    /// To the log only.
    Log,
}

/// A virtual machine to be started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The medium.
    pub iso: PathBuf,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// A disk image that keeps what the machine writes; made when it does not exist.
    pub data: Option<PathBuf>,
    /// KVM or emulation.
    pub accelerator: Accelerator,
    /// Console on this terminal or in the log only.
    pub console: Console,
    /// Port on loopback for management (9090); 0 chooses a free one.
    pub management_port: u16,
    /// Port on loopback for SSH (22); 0 chooses a free one.
    pub ssh_port: u16,
    /// Keys and values for the firmware configuration (`opt/aios/KEY`).
    pub parameters: Vec<(String, String)>,
    /// Count virtual time by instructions, for measurements that do not depend on the host.
    pub instruction_clock: bool,
    /// Give the machine a network card.
    pub network: bool,
}

impl Options {
    /// A machine with 1 GiB, two processors and free ports, whose console goes to the log.
    #[must_use]
    pub fn new(iso: &Path) -> Self {
        Self {
            iso: iso.to_owned(),
            firmware: Firmware::Bios,
            memory_mib: 1024,
            cpus: 2,
            data: None,
            accelerator: Accelerator::Auto,
            console: Console::Log,
            management_port: 0,
            ssh_port: 0,
            parameters: Vec::new(),
            instruction_clock: false,
            network: true,
        }
    }
}

/// A running virtual machine.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    dir: PathBuf,
    started: Instant,
    /// Port on loopback that leads to 9090.
    pub management_port: u16,
    /// Port on loopback that leads to 22.
    pub ssh_port: u16,
}

impl Vm {
    /// Starts the machine.
    ///
    /// # Errors
    /// When a file is missing, no port is free, or QEMU cannot be started.
    pub fn start(options: &Options) -> Result<Self> {
        if !options.iso.exists() {
            bail!(
                "there is no ISO at {}; `cargo image iso` makes one",
                options.iso.display()
            );
        }
        let dir = private_dir()?;
        let management_port = free_port(options.management_port)?;
        let ssh_port = free_port(options.ssh_port)?;
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-M",
            "q35",
        ])
        .args(["-m", &options.memory_mib.to_string()])
        .args(["-smp", &options.cpus.to_string()])
        .args(["-device", "virtio-rng-pci"]);
        if options.instruction_clock {
            qemu.args([
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
                "-cpu",
                "max",
            ]);
        } else {
            let accelerator = options.accelerator.resolve();
            qemu.args(["-accel", accelerator])
                .args(["-cpu", if accelerator == "kvm" { "host" } else { "max" }]);
        }
        if options.firmware == Firmware::Uefi {
            qemu.args([
                "-drive",
                "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
                "-drive",
                "if=pflash,format=raw,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.fd",
            ]);
        }
        qemu.arg("-drive")
            .arg(format!(
                "if=none,id=iso,media=cdrom,format=raw,readonly=on,file={}",
                comma_safe(&options.iso)?
            ))
            .args(["-device", "ide-cd,drive=iso,bootindex=1"]);
        if let Some(data) = &options.data {
            make_data_disk(data)?;
            qemu.arg("-drive")
                .arg(format!(
                    "if=none,id=data,format=raw,file={}",
                    comma_safe(data)?
                ))
                .args(["-device", "virtio-blk-pci,drive=data"]);
        }
        if options.network {
            qemu.arg("-netdev")
                .arg(format!(
                    "user,id=net,hostfwd=tcp:127.0.0.1:{management_port}-:9090,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"
                ))
                .args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        }
        qemu.args(["-device", "virtio-serial-pci"])
            .arg("-chardev")
            .arg(format!(
                "socket,id=enrolment,path={},server=on,wait=off",
                dir.join("enrolment").display()
            ))
            .args([
                "-device",
                "virtserialport,chardev=enrolment,name=aios.enrolment",
            ]);
        let log = dir.join("console.log");
        qemu.arg("-chardev").arg(match options.console {
            Console::Terminal => format!("stdio,id=console,signal=off,logfile={}", log.display()),
            Console::Log => format!("file,id=console,path={}", log.display()),
        });
        qemu.args(["-serial", "chardev:console"])
            .arg("-qmp")
            .arg(format!(
                "unix:{},server=on,wait=off",
                dir.join("qmp").display()
            ));
        for (key, value) in &options.parameters {
            let file = dir.join(format!("parameter-{key}"));
            fs::write(&file, value)?;
            qemu.arg("-fw_cfg")
                .arg(format!("name=opt/aios/{key},file={}", file.display()));
        }
        qemu.stdin(match options.console {
            Console::Terminal => Stdio::inherit(),
            Console::Log => Stdio::null(),
        });
        // Without a terminal, QEMU's own messages must not end up in the results.
        let messages = File::create(dir.join("qemu.log"))?;
        qemu.stderr(messages.try_clone()?);
        qemu.stdout(match options.console {
            Console::Terminal => Stdio::inherit(),
            Console::Log => Stdio::from(messages),
        });
        let child = qemu
            .spawn()
            .context("cannot start qemu-system-x86_64 (package qemu-system-x86)")?;
        Ok(Self {
            child,
            dir,
            started: Instant::now(),
            management_port,
            ssh_port,
        })
    }

    /// The socket of the port by which the machine is first enrolled.
    #[must_use]
    pub fn enrolment_socket(&self) -> PathBuf {
        self.dir.join("enrolment")
    }

    /// A folder of this machine's own, removed with it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How long ago it was started.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Everything that the console showed so far.
    #[must_use]
    pub fn console(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(self.dir.join("console.log")) {
            let _ = file.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until one of the texts stands on the console and returns which; `each_line` sees every
    /// whole line once.
    ///
    /// # Errors
    /// When the machine ends or the limit passes first; the error holds the console's last lines.
    pub fn wait_for(
        &mut self,
        texts: &[&str],
        limit: Duration,
        mut each_line: impl FnMut(&str),
    ) -> Result<usize> {
        let begun = Instant::now();
        let mut position = 0;
        let mut line = String::new();
        loop {
            let mut new = Vec::new();
            if let Ok(mut file) = File::open(self.dir.join("console.log")) {
                file.seek(SeekFrom::Start(position))?;
                position += file.read_to_end(&mut new)? as u64;
            }
            for character in String::from_utf8_lossy(&new).chars() {
                if character == '\n' {
                    each_line(line.trim_end());
                    if let Some(index) = texts.iter().position(|text| line.contains(text)) {
                        return Ok(index);
                    }
                    line.clear();
                } else {
                    line.push(character);
                }
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "the machine ended ({status}) before that; {}",
                    self.last_words()
                );
            }
            if begun.elapsed() > limit {
                bail!(
                    "the machine did not come that far in {} seconds; {}",
                    limit.as_secs(),
                    self.last_words()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The end of the console and of QEMU's messages, for errors.
    #[must_use]
    pub fn last_words(&self) -> String {
        let tail = |text: &str, count: usize| {
            let lines: Vec<&str> = text.lines().collect();
            lines
                .get(lines.len().saturating_sub(count)..)
                .unwrap_or_default()
                .join("\n")
        };
        let qemu = fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default();
        format!(
            "its console ends with:\n{}\n{}",
            tail(&self.console(), 30),
            tail(&qemu, 10)
        )
    }

    /// Waits until the machine has switched itself off.
    ///
    /// # Errors
    /// When the limit passes first; the machine is then killed.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > limit {
                let words = self.last_words();
                self.kill();
                bail!(
                    "the machine did not switch off in {} seconds; {words}",
                    limit.as_secs()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether the machine is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends the machine at once, as a power failure would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Processor time that the machine has used on this host, in seconds.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name, in brackets, may hold spaces; utime and stime are the 14th and 15th fields.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().collect())
            .unwrap_or_default();
        let ticks: u64 = fields
            .iter()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Ok(ticks as f64 / 100.0)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.kill();
        if std::env::var_os("AIOS_KEEP_VM").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// A folder with a short name, since the paths of sockets are limited to 108 bytes.
fn private_dir() -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let base = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.is_dir())
        .unwrap_or_else(std::env::temp_dir);
    for attempt in 0..1000 {
        let dir = base.join(format!("aios-vm-{}-{attempt}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {}", dir.display()));
            }
        }
    }
    bail!("{} is full of old aios-vm folders", base.display())
}

/// The wanted port if it is free, or any free one when none in particular is wanted.
fn free_port(wanted: u16) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", wanted))
        .with_context(|| format!("port {wanted} of this machine is in use; choose another one"))?;
    Ok(listener.local_addr()?.port())
}

/// QEMU separates options with commas and takes a doubled one for itself.
fn comma_safe(path: &Path) -> Result<String> {
    let path = path
        .to_str()
        .with_context(|| format!("{} is not UTF-8, which QEMU needs", path.display()))?;
    Ok(path.replace(',', ",,"))
}

/// Makes an ext4 disk image with the label that aiOS looks for, unless there is a file already.
fn make_data_disk(path: &Path) -> Result<()> {
    const SIZE: u64 = 4 << 30;
    if path.exists() {
        return Ok(());
    }
    let unfinished = path.with_extension("unfinished");
    File::create(&unfinished)
        .and_then(|file| file.set_len(SIZE))
        .with_context(|| format!("cannot make {}", unfinished.display()))?;
    let status = Command::new("/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", "AIOS-DATA"])
        .arg(&unfinished)
        .stdin(Stdio::null())
        .status()
        .context("cannot start mke2fs (package e2fsprogs)")?;
    if !status.success() {
        bail!("mke2fs could not make {}: {status}", unfinished.display());
    }
    fs::rename(&unfinished, path)?;
    Ok(())
}
