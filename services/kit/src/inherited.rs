//! Listening sockets that PID 1 opened for this process and keeps open while it restarts, so that
//! callers wait a moment instead of being refused.
//!
//! Invariants: a socket is taken by its own address, never by its position; what was not meant for
//! this very process (`LISTEN_PID`) is not touched; no child of this process inherits them.

use std::{
    io,
    os::{
        fd::{BorrowedFd, RawFd},
        unix::net::UnixListener,
    },
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::socket::{UnixAddr, getsockname},
};

/// The first descriptor that is handed over.
const FIRST: RawFd = 3;
/// Descriptors that are looked at, at most.
const MOST: RawFd = 64;

/// Takes over the listener on `path`, if PID 1 has handed one over.
///
/// # Errors
/// When it was handed over and cannot be used.
pub fn take(path: &Path) -> io::Result<Option<UnixListener>> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<i64>().ok())
    };
    if number("LISTEN_PID") != Some(i64::from(std::process::id())) {
        return Ok(None);
    }
    let count = number("LISTEN_FDS")
        .and_then(|count| RawFd::try_from(count).ok())
        .unwrap_or(0);
    for raw in FIRST..FIRST + count.clamp(0, MOST) {
        if let Some(listener) = listener_on(raw, path)? {
            return Ok(Some(listener));
        }
    }
    Ok(None)
}

/// A duplicate of descriptor `raw` if that is a socket bound to `path`.
fn listener_on(raw: RawFd, path: &Path) -> io::Result<Option<UnixListener>> {
    // A descriptor that is no Unix socket, or none at all, is somebody else's affair.
    let address = match getsockname::<UnixAddr>(raw) {
        Ok(address) => address,
        Err(Errno::EBADF | Errno::ENOTSOCK | Errno::EINVAL) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if address.path() != Some(path) {
        return Ok(None);
    }
    // SAFETY: the descriptor has just answered, PID 1 gave it to this process for its whole life,
    // and nothing in this process closes it.
    let given = unsafe { BorrowedFd::borrow_raw(raw) };
    fcntl(given, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let listener = UnixListener::from(given.try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn a_socket_is_known_by_its_address() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a.sock"), dir.path().join("b.sock"));
        let given = UnixListener::bind(&path).unwrap();
        assert!(listener_on(given.as_raw_fd(), &other).unwrap().is_none());
        let taken = listener_on(given.as_raw_fd(), &path).unwrap().unwrap();
        drop(given);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(taken.accept().is_ok());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("file")).unwrap();
        assert!(listener_on(file.as_raw_fd(), dir.path()).unwrap().is_none());
        assert!(listener_on(9999, dir.path()).unwrap().is_none());
    }
}
