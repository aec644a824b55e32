//! What a daemon does to serve: bind its socket, say that it is ready, and stop when asked.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
};

use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};
use tokio_stream::wrappers::UnixListenerStream;

use crate::{
    error::{Category, Error},
    inherited,
};

/// Largest message that a daemon takes, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// The Unix socket that PID 1 made for this daemon at `path`; or else one that is bound here, in
/// place of one that an earlier process left behind. The socket is open to every local user (mode
/// 0666): who may call what is decided per call, by the caller's uid.
///
/// # Errors
/// When the directory cannot be made, a file that is no socket is in the way, or binding fails.
pub fn bind(path: &Path) -> Result<UnixListenerStream, Error> {
    let fail = |error: io::Error| {
        Error::new(
            Category::Filesystem,
            format!("cannot listen on {}: {error}", path.display()),
        )
    };
    if let Some(listener) = inherited::take(path).map_err(fail)? {
        return Ok(UnixListenerStream::new(
            UnixListener::from_std(listener).map_err(fail)?,
        ));
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(fail)?;
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path).map_err(fail)?,
        Ok(_) => {
            return Err(Error::new(
                Category::Filesystem,
                format!("{} exists and is not a socket", path.display()),
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error)),
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(fail)?;
    Ok(UnixListenerStream::new(listener))
}

/// Tells PID 1 that this daemon is ready. Outside of aiOS, where nobody listens, it does nothing.
pub fn notify_ready(status: &str) {
    let states = [
        sd_notify::NotifyState::Status(status),
        sd_notify::NotifyState::Ready,
    ];
    if let Err(error) = sd_notify::notify(&states) {
        tracing::warn!(%error, "could not tell PID 1 that this daemon is ready");
    }
}

/// Tells PID 1 why this daemon cannot start, so that the boot report and `aios status` say it too,
/// even when it is this daemon that would be asked for its health.
pub fn notify_failure(error: &dyn std::fmt::Display) {
    notify_status(&format!("cannot start: {error}"));
}

/// Tells PID 1 what this daemon is doing, for `aios service status`.
pub fn notify_status(status: &str) {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Status(status)]) {
        tracing::debug!(%error, "could not send a status");
    }
}

/// Ends when the process is asked to stop (SIGTERM or SIGINT).
pub async fn shutdown_signal() {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("cannot listen for signals; only SIGKILL will stop this process");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => tracing::info!("SIGTERM: stopping"),
        _ = int.recv() => tracing::info!("SIGINT: stopping"),
    }
}
