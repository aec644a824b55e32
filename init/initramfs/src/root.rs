//! Mounting the root: the medium, the two EROFS layers from files on it, and the overlay, whose
//! writable part is the disk labelled `AIOS-DATA` or, without one, memory.

use std::{
    convert::Infallible,
    ffi::CString,
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, unmount};

use crate::{
    devices::{self, DATA_LABEL, MEDIUM_LABEL},
    parameters::{Parameters, is_package_source},
    verify::{self, VerifyError},
};

/// How long slow devices (USB, CD drives) may take to appear.
const MEDIUM_WAIT: Duration = Duration::from_secs(20);
/// How long a data disk may appear after the medium.
const DATA_WAIT: Duration = Duration::from_millis(300);

/// Why the root could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// No medium.
    #[error("no medium labelled {MEDIUM_LABEL} appeared within {} seconds", MEDIUM_WAIT.as_secs())]
    NoMedium,
    /// The medium is damaged.
    #[error("{0}")]
    Damaged(#[from] VerifyError),
    /// A mount failed.
    #[error("cannot mount {what}: {source}")]
    Mount {
        /// What was to be mounted.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The data disk could not be used.
    #[error("the disk labelled {DATA_LABEL} ({device}) cannot be used: {source}")]
    Data {
        /// The device.
        device: String,
        /// What the system said.
        source: io::Error,
    },
    /// A step of handing over failed.
    #[error("{what}: {source}")]
    HandOver {
        /// What was to be done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl BootError {
    /// What the operator can do.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoMedium => {
                "Check that the stick or disc is plugged in and whole; a virtual machine needs the ISO attached as a disc or disk."
            }
            Self::Damaged(_) => {
                "Write the ISO to the medium again, after checking its SHA-256 on the machine where you downloaded it."
            }
            Self::Mount { .. } => {
                "The medium may be damaged: choose \"after checking the medium\" in the boot menu to be sure."
            }
            Self::Data { .. } => {
                "Check that disk with e2fsck on another machine, or remove its label to start without it. Nothing was written to it."
            }
            Self::HandOver { .. } => {
                "This is a fault of the image; please report it with the line above."
            }
        }
    }
}

/// Brings the root up and becomes `aios-init`; comes back only with an error.
pub fn bring_up() -> Result<Infallible, BootError> {
    for (kind, target) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        mount_new(kind, kind, target, MountFlags::NOSUID, "")?;
    }
    let parameters = Parameters::read();
    let found = wait_for_devices()?;
    let medium = found.medium.ok_or(BootError::NoMedium)?;
    mount_new(
        &medium.display().to_string(),
        "iso9660",
        "/mnt/iso",
        MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID,
        "",
    )?;
    let check = parameters.has("check-medium");
    if check {
        eprintln!("Checking the medium …");
    }
    verify::medium(Path::new("/mnt/iso"), check)?;
    for layer in ["base", "aios"] {
        // The kernel mounts EROFS straight from a file: no loop device.
        mount_new(
            &format!("/mnt/iso/aios/{layer}.erofs"),
            "erofs",
            &format!("/mnt/{layer}"),
            MountFlags::RDONLY,
            "",
        )?;
    }
    let writable = match &found.data {
        Some(device) => data_disk(device)?,
        None => memory()?,
    };
    overlay(&writable)?;
    set_package_source(&parameters)?;
    hand_over(found.data.is_some(), &parameters)
}

fn wait_for_devices() -> Result<devices::Found, BootError> {
    let begun = Instant::now();
    let mut medium_at = None;
    loop {
        let found = devices::find();
        if found.medium.is_some() {
            let since = *medium_at.get_or_insert_with(Instant::now);
            if found.data.is_some() || since.elapsed() >= DATA_WAIT || only_one_disk() {
                return Ok(found);
            }
        } else if begun.elapsed() >= MEDIUM_WAIT {
            return Err(BootError::NoMedium);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// With no disk beside the medium there is no data disk to wait for.
fn only_one_disk() -> bool {
    fs::read_dir("/sys/block").is_ok_and(|entries| {
        entries
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                !["loop", "ram", "zram", "fd", "sr"]
                    .iter()
                    .any(|kind| name.starts_with(kind))
            })
            .count()
            == 0
    })
}

fn mount_new(
    source: &str,
    kind: &str,
    target: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), BootError> {
    let fail = |source: io::Error| BootError::Mount {
        what: format!("{target} ({kind})"),
        source,
    };
    // A second try after an error finds the first try's mounts; they are taken off first.
    let _ = unmount(target, UnmountFlags::DETACH);
    fs::create_dir_all(target).map_err(fail)?;
    let options = CString::new(options).map_err(|error| fail(error.into()))?;
    mount(source, target, kind, flags, options.as_c_str()).map_err(|error| fail(error.into()))
}

/// The writable part in memory: gone with the power, as a live system is.
fn memory() -> Result<PathBuf, BootError> {
    mount_new(
        "tmpfs",
        "tmpfs",
        "/mnt/live",
        MountFlags::NODEV,
        "mode=0755,size=75%",
    )?;
    Ok(PathBuf::from("/mnt/live"))
}

fn data_disk(device: &Path) -> Result<PathBuf, BootError> {
    let name = device.display().to_string();
    mount_new(
        &name,
        "ext4",
        "/mnt/data",
        MountFlags::NODEV | MountFlags::NOATIME,
        "errors=remount-ro",
    )
    .map_err(|error| match error {
        BootError::Mount { source, .. } => BootError::Data {
            device: name.clone(),
            source,
        },
        other => other,
    })?;
    Ok(PathBuf::from("/mnt/data"))
}

fn overlay(writable: &Path) -> Result<(), BootError> {
    let upper = writable.join("upper");
    let work = writable.join("work");
    for dir in [&upper, &work] {
        fs::create_dir_all(dir).map_err(|source| BootError::HandOver {
            what: format!("cannot make {}", dir.display()),
            source,
        })?;
    }
    let options = format!(
        "lowerdir=/mnt/aios:/mnt/base,upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    mount_new("aios", "overlay", "/sysroot", MountFlags::empty(), &options)
}

/// Makes apt use the source that the boot was given, or its own again when it was given none.
fn set_package_source(parameters: &Parameters) -> Result<(), BootError> {
    const MARK: &str = "# given at boot (aios.package-source)\n";
    let list = Path::new("/sysroot/etc/apt/sources.list");
    let present = fs::read_to_string(list).unwrap_or_default();
    let wanted = match parameters.value("package-source") {
        Some(address) if is_package_source(address) => {
            // Whoever sets kernel arguments or the firmware's configuration owns the machine, so
            // the source needs no signature of its own.
            format!("{MARK}deb [trusted=yes] {address} ./\n")
        }
        Some(address) => {
            eprintln!(
                "aios.package-source is ignored: {address:?} is not an http or https address"
            );
            return Ok(());
        }
        None if present.starts_with(MARK) => {
            fs::read_to_string("/sysroot/usr/share/aios/sources.list").unwrap_or_default()
        }
        None => return Ok(()),
    };
    if present == wanted {
        return Ok(());
    }
    fs::write(list, wanted).map_err(|source| BootError::HandOver {
        what: format!("cannot write {}", list.display()),
        source,
    })
}

fn hand_over(persistent: bool, parameters: &Parameters) -> Result<Infallible, BootError> {
    let step = |what: &str| {
        let what = what.to_owned();
        move |source: io::Error| BootError::HandOver { what, source }
    };
    let medium = "/sysroot/media/aios/iso";
    let data = "/sysroot/media/aios/data";
    move_mount("/mnt/iso", medium)?;
    move_mount(if persistent { "/mnt/data" } else { "/mnt/live" }, data)?;
    for dir in ["/dev", "/proc", "/sys"] {
        move_mount(dir, &format!("/sysroot{dir}"))?;
    }
    std::env::set_current_dir("/sysroot").map_err(step("cannot enter the new root"))?;
    mount_move(".", "/")
        .map_err(|error| step("cannot move the new root into place")(error.into()))?;
    rustix::process::chroot(".")
        .map_err(|error| step("cannot change into the new root")(error.into()))?;
    std::env::set_current_dir("/").map_err(step("cannot enter /"))?;
    let mut init = Command::new("/usr/sbin/aios-init");
    if parameters.has("rescue") {
        init.env("AIOS_RESCUE", "1");
    }
    Err(step("cannot start /usr/sbin/aios-init")(init.exec()))
}

fn move_mount(from: &str, to: &str) -> Result<(), BootError> {
    let fail = |source: io::Error| BootError::Mount {
        what: format!("{from} on {to}"),
        source,
    };
    fs::create_dir_all(to).map_err(fail)?;
    mount_move(from, to).map_err(|error| fail(error.into()))
}
