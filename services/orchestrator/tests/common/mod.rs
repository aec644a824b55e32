//! The machine around an orchestrator, in this process: a memory, a tools daemon and agents that
//! behave as the protocol says and count what is done. The orchestrator itself is the real binary,
//! and callers have real uids, since a thread may have one of its own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod agent;
pub mod machine;
pub mod memory;
pub mod tools;

use std::{
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic::transport::Channel;

/// Kills the orchestrator at a chosen point of what it asks of others.
#[derive(Debug, Default)]
pub struct Chaos {
    left: AtomicI64,
    pid: Mutex<Option<i32>>,
    pub points: AtomicU32,
}

impl Chaos {
    pub fn watch(&self, pid: u32) {
        *self.pid.lock().unwrap() = Some(i32::try_from(pid).unwrap());
    }

    /// Kills it at the given point from now, once.
    pub fn strike_in(&self, points: i64) {
        self.left.store(points, Ordering::SeqCst);
        self.points.store(0, Ordering::SeqCst);
    }

    /// One point. Says whether it struck.
    pub fn point(&self) -> bool {
        self.points.fetch_add(1, Ordering::SeqCst);
        if self.left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return false;
        }
        if let Some(pid) = self.pid.lock().unwrap().take() {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
        true
    }
}

/// A channel whose connections are made by a thread of that uid.
pub fn channel_as(uid: u32, socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let uid = rustix::process::Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            sender.send(aios_kit::client::channel(&socket)).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().unwrap()
}
