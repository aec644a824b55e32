//! Takes from the process what an agent never needs: files and TCP. What remains is the Unix sockets
//! of its own machine.
//!
//! Invariants: it is done before any other thread exists, since threads inherit it and none can
//! shed it; the only thing allowed is to make, and remove, a socket in the directory of the agents'
//! sockets.

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus,
};

use crate::error::AgentError;

/// The newest set of rights that is taken away; an older kernel takes those that it knows.
const RIGHTS: ABI = ABI::V5;

/// Gives up all access to files, and to TCP, of this thread and those that it will start.
/// `sockets` is where the agent's own socket is made. Returns whether the kernel does enforce it.
///
/// # Errors
/// When the kernel has the means and refuses them, or `sockets` is not there.
pub fn confine(sockets: &Path) -> Result<bool, AgentError> {
    let fail = |error: &dyn std::fmt::Display| AgentError::Confine(error.to_string());
    let directory = PathFd::new(sockets).map_err(|error| fail(&error))?;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(RIGHTS))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(RIGHTS)))
        .and_then(Ruleset::create)
        .and_then(|ruleset| {
            let own = AccessFs::MakeSock | AccessFs::RemoveFile;
            ruleset.add_rule(PathBeneath::new(directory, own))
        })
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|error| fail(&error))?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpListener, os::unix::net::UnixListener};

    use super::*;

    #[test]
    fn a_confined_thread_opens_nothing_but_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "text").unwrap();
        let (file, path) = (&file, dir.path());
        let enforced = std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    let enforced = confine(path).unwrap();
                    assert_eq!(fs::read(file).is_err(), enforced);
                    assert_eq!(fs::read_dir("/").is_err(), enforced);
                    assert_eq!(fs::write(path.join("new"), "").is_err(), enforced);
                    let socket = path.join("own.sock");
                    drop(UnixListener::bind(&socket).unwrap());
                    fs::remove_file(&socket).unwrap();
                    // TCP needs a newer kernel than files do.
                    if enforced && TcpListener::bind("127.0.0.1:0").is_ok() {
                        eprintln!("this kernel does not confine TCP");
                    }
                    enforced
                })
                .join()
                .unwrap()
        });
        let kernel_has_it = fs::read_to_string("/sys/kernel/security/lsm")
            .is_ok_and(|modules| modules.contains("landlock"));
        assert!(enforced || !kernel_has_it);
        assert_eq!(
            fs::read(file).unwrap(),
            b"text",
            "other threads are as they were"
        );
    }
}
