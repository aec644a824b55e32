//! The sockets that PID 1 holds for its units.
//!
//! A unit that `listen`s gets its listening sockets from PID 1, which keeps them open while the unit
//! restarts: whoever connects meanwhile waits a moment and is not refused. And since the run
//! directory is root's, nobody else can put a socket in their place.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{fs::PermissionsExt as _, net::UnixListener},
    },
    path::{Path, PathBuf},
};

use aios_init_core::Unit;

use crate::directories::make_plain;

/// The sockets of all units.
#[derive(Debug, Default)]
pub struct Sockets {
    by_unit: BTreeMap<String, Vec<(PathBuf, OwnedFd)>>,
}

impl Sockets {
    /// Makes the sockets of a unit unless they are there. Everybody may connect; the daemon asks
    /// the kernel who it is.
    ///
    /// # Errors
    /// With the socket in the message.
    pub fn open(&mut self, unit: &Unit, run: &Path) -> io::Result<()> {
        if unit.listen.is_empty() || self.by_unit.contains_key(&unit.name) {
            return Ok(());
        }
        let mut sockets = Vec::new();
        for relative in &unit.listen {
            let path = run.join(&relative.0);
            let socket = listen(run, &relative.0).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?;
            sockets.push((path, socket));
        }
        self.by_unit.insert(unit.name.clone(), sockets);
        Ok(())
    }

    /// The sockets of a unit, in the order in which it lists them.
    pub fn of(&self, unit: &str) -> Vec<BorrowedFd<'_>> {
        self.by_unit
            .get(unit)
            .into_iter()
            .flatten()
            .map(|(_, socket)| socket.as_fd())
            .collect()
    }

    /// Closes the sockets of every unit that does not run and will not: whoever connects is then
    /// refused at once rather than left waiting.
    pub fn close_unless(&mut self, runs: impl Fn(&str) -> bool) {
        self.by_unit.retain(|unit, sockets| {
            let keep = runs(unit);
            if !keep {
                for (path, _) in sockets {
                    let _ = fs::remove_file(path);
                }
            }
            keep
        });
    }
}

fn listen(run: &Path, relative: &str) -> io::Result<OwnedFd> {
    if let Some((parent, _)) = relative.rsplit_once('/') {
        make_plain(run, parent)?;
    }
    let path = run.join(relative);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    Ok(listener.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn sockets_outlive_restarts_and_end_with_the_unit() {
        let run = tempfile::tempdir().unwrap();
        let text = "description = \"d\"\nphase = \"agents\"\ncommand = \"/bin/x\"\nlisten = [\"agents/x.sock\"]\n";
        let unit = aios_init_core::parse_unit(Path::new("x.toml"), text).unwrap();
        let mut sockets = Sockets::default();
        sockets.open(&unit, run.path()).unwrap();
        sockets.open(&unit, run.path()).unwrap();
        assert_eq!(sockets.of("x").len(), 1);
        let path = run.path().join("agents/x.sock");
        UnixStream::connect(&path).unwrap();
        sockets.close_unless(|_| true);
        UnixStream::connect(&path).unwrap();
        sockets.close_unless(|_| false);
        assert!(UnixStream::connect(&path).is_err());
        sockets.open(&unit, run.path()).unwrap();
        UnixStream::connect(&path).unwrap();
    }
}
