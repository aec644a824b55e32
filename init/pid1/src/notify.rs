//! The socket on which services say that they are ready. Who speaks is the kernel's word: the
//! process id comes with the datagram (`SCM_CREDENTIALS`), and the unit is looked up from it.

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aios_init_core::{MAX_NOTIFICATION_BYTES, Notification};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with,
    sockopt::set_socket_passcred,
};

/// Datagrams that are read in one turn of the loop.
const MAX_PER_TURN: usize = 64;

/// The socket.
#[derive(Debug)]
pub struct NotifySocket {
    socket: OwnedFd,
    path: PathBuf,
}

impl NotifySocket {
    /// Listens. Everybody may write: what counts is who they are.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let _ = std::fs::remove_file(path);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        set_socket_passcred(&socket, true)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }

    /// Where it is, for `NOTIFY_SOCKET`.
    pub fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// What becomes readable.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What was said, and by which process.
    pub fn take_in(&self) -> Vec<(u32, Notification)> {
        let mut said = Vec::new();
        for _ in 0..MAX_PER_TURN {
            let mut bytes = [0; MAX_NOTIFICATION_BYTES + 1];
            let mut parts = [IoSliceMut::new(&mut bytes)];
            // Room for the credentials, which come first, and for nothing else: descriptors that
            // somebody sends along are closed by the kernel.
            let mut space = nix::cmsg_space!(UnixCredentials);
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let received =
                recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags);
            let Ok(message) = received else { break };
            let pid = message.cmsgs().ok().and_then(|mut messages| {
                messages.find_map(|message| match message {
                    ControlMessageOwned::ScmCredentials(credentials) => {
                        u32::try_from(credentials.pid())
                            .ok()
                            .filter(|pid| *pid != 0)
                    }
                    _ => None,
                })
            });
            let length = message.bytes;
            let datagram = bytes.get(..length).unwrap_or_default();
            if let Some(pid) = pid {
                said.push((pid, Notification::parse(datagram)));
            }
        }
        said
    }
}
