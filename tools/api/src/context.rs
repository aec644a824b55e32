//! What a call is given to work with: its deadline, its cancellation, the pre-image store, and where
//! PID 1 listens.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    blob::BlobStore,
    error::{ToolError, ToolErrorKind},
    sensitive::PathSet,
};

/// The surroundings of one call.
#[derive(Debug, Clone)]
pub struct Context {
    /// When the call must have ended.
    pub deadline: Instant,
    /// Set when the caller no longer wants the call.
    pub cancelled: Arc<AtomicBool>,
    /// Where pre-images are kept.
    pub blobs: BlobStore,
    /// The control socket of PID 1.
    pub init_socket: PathBuf,
    /// Where definitions of services made on this machine are kept by PID 1.
    pub run_dir: PathBuf,
    /// The file-system root that file tools work in: `/` on a machine, a directory in tests.
    pub root: PathBuf,
    /// Largest result, in bytes; a tool cuts its output and says so.
    pub output_limit: usize,
    /// What no call may read without naming it; empty unless the registry fills it in.
    pub sensitive: Arc<PathSet>,
    /// What no call may change without naming it; empty unless the registry fills it in.
    pub protected: Arc<PathSet>,
}

impl Context {
    /// A context with a fresh deadline and the paths of a machine.
    #[must_use]
    pub fn new(blobs: BlobStore, limit: Duration) -> Self {
        Self {
            deadline: Instant::now() + limit,
            cancelled: Arc::new(AtomicBool::new(false)),
            blobs,
            init_socket: "/run/aios/init.sock".into(),
            run_dir: "/run/aios".into(),
            root: "/".into(),
            output_limit: 256 << 10,
            sensitive: Arc::default(),
            protected: Arc::default(),
        }
    }

    /// Whether a tool that walks a tree may open this file for its content. `path` is canonical; a
    /// path that the call itself names has been authorised already and need not be asked about.
    #[must_use]
    pub fn may_read(&self, path: &Path) -> bool {
        !self.sensitive.contains(path)
    }

    /// Whether a tool that walks a tree may change or remove this file.
    #[must_use]
    pub fn may_change(&self, path: &Path) -> bool {
        self.may_read(path) && !self.protected.contains(path)
    }

    /// Time left; zero when it is over.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Ends a long call that was cancelled or ran past its deadline. Loops call it.
    ///
    /// # Errors
    /// [`ToolErrorKind::Cancelled`] or [`ToolErrorKind::Timeout`].
    pub fn check_alive(&self) -> Result<(), ToolError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(ToolError::new(
                ToolErrorKind::Cancelled,
                "the call was cancelled",
            ));
        }
        if self.remaining().is_zero() {
            return Err(ToolError::new(
                ToolErrorKind::Timeout,
                "the call ran past its deadline",
            ));
        }
        Ok(())
    }
}
