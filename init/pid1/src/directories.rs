//! The directories that a unit asks for, made before it starts.
//!
//! Every step is taken from the directory before it and follows no symbolic link, so nothing that a
//! unit's user left behind can lead PID 1 elsewhere.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use aios_init_core::{Account, Unit};
use rustix::{
    fs::{CWD, Mode, OFlags, fchmod, fchown, mkdirat, openat},
    io::Errno,
    process::{Gid, Uid},
};

const FLAGS: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::RDONLY);

/// Makes what `[directories]` of a unit lists.
///
/// # Errors
/// With the directory in the message.
pub fn make(unit: &Unit, account: &Account, state: &Path, run: &Path) -> io::Result<()> {
    let owner = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let root = (Uid::ROOT, Gid::ROOT);
    for path in &unit.directories.state {
        below(state, &path.0, owner, 0o700)?;
    }
    for path in &unit.directories.run {
        below(run, &path.0, owner, 0o755)?;
    }
    for path in &unit.directories.system {
        below(Path::new("/"), path.0.trim_matches('/'), root, 0o755)?;
    }
    Ok(())
}

fn below(base: &Path, path: &str, owner: (Uid, Gid), mode: u32) -> io::Result<()> {
    let named = |error: Errno| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("{}/{path}: {error}", base.display()))
    };
    let mut dir = openat(
        CWD,
        base,
        OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(named)?;
    let mut made = false;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        (dir, made) = step(&dir, part).map_err(named)?;
    }
    // A directory that exists keeps what it holds; only the last part is the unit's.
    fchown(&dir, Some(owner.0), Some(owner.1)).map_err(named)?;
    if made || mode == 0o700 {
        fchmod(&dir, Mode::from_raw_mode(mode)).map_err(named)?;
    }
    Ok(())
}

/// Makes a directory of root's below another one, for everybody to enter.
///
/// # Errors
/// With the directory in the message.
pub fn make_plain(base: &Path, path: &str) -> io::Result<()> {
    below(
        base,
        path,
        (rustix::process::geteuid(), rustix::process::getegid()),
        0o755,
    )
}

fn step(dir: &impl AsFd, part: &str) -> Result<(OwnedFd, bool), Errno> {
    let made = match mkdirat(dir, part, Mode::from_raw_mode(0o755)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error),
    };
    Ok((openat(dir, part, FLAGS, Mode::empty())?, made))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn a_directory_is_private_and_its_parents_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let me = (rustix::process::getuid(), rustix::process::getgid());
        below(dir.path(), "memory/db", me, 0o700).unwrap();
        let mode = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().mode() & 0o777;
        assert_eq!((mode("memory"), mode("memory/db")), (0o755, 0o700));
        below(dir.path(), "memory/db", me, 0o700).unwrap();
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), dir.path().join("memory")).unwrap();
        let me = (rustix::process::getuid(), rustix::process::getgid());
        assert!(below(dir.path(), "memory/db", me, 0o700).is_err());
        assert!(!elsewhere.path().join("db").exists());
    }
}
