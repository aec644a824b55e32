//! A Debian package source on loopback, holding real packages: what `pkg.install` is tested against
//! where Debian's mirrors are out of reach of the machine.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Component, Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    cache::{self, Key},
    command, host_packages,
};

/// Downloads packages with everything that they need on top of a root, and indexes them.
///
/// # Errors
/// When apt cannot resolve or download them.
pub fn build(packages: &[&str], dpkg_status: &Path) -> Result<PathBuf> {
    host_packages::ensure(&[host_packages::TEST])?;
    let mut key = Key::new("package source 1");
    key.text("packages", &packages.join(" "));
    key.file(dpkg_status)?;
    let (dir, _) = cache::product("packages", &key.finish(), |dir| {
        // What apt would download for a machine that has only what the root has.
        let uris = command::output(
            Command::new("apt-get")
                .args([
                    "install",
                    "--print-uris",
                    "--quiet=2",
                    "--no-install-recommends",
                ])
                .args([
                    "-o",
                    &format!("Dir::State::status={}", dpkg_status.display()),
                ])
                .arg("--")
                .args(packages),
        )
        .context("apt cannot resolve the packages of the test source; try `apt-get update`")?;
        let names: Vec<String> = uris
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1))
            .filter_map(|file| {
                let mut parts = file.splitn(3, '_');
                let name = parts.next()?;
                let version = parts.next()?.replace("%3a", ":");
                Some(format!("{name}={version}"))
            })
            .collect();
        anyhow::ensure!(
            !names.is_empty(),
            "nothing to download for {packages:?}: {uris}"
        );
        command::output(
            Command::new("apt-get")
                .current_dir(dir)
                .args(["download", "--quiet=2", "-o", "APT::Sandbox::User=root"])
                .args(&names),
        )
        .context("apt cannot download the packages of the test source")?;
        for entry in fs::read_dir(dir)?.flatten() {
            // An escaped colon in a file name is escaped again by clients; the index needs none.
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains('%') {
                fs::rename(
                    entry.path(),
                    dir.join(name.replace("%3a", "-").replace("%2b", "+")),
                )?;
            }
        }
        let index = command::output(
            Command::new("apt-ftparchive")
                .current_dir(dir)
                .args(["packages", "."]),
        )?;
        fs::write(dir.join("Packages"), index)?;
        let release = command::output(
            Command::new("apt-ftparchive")
                .current_dir(dir)
                .args(["release", "."]),
        )?;
        fs::write(dir.join("Release"), release)?;
        Ok(())
    })?;
    Ok(dir)
}

/// A source that is being served; it stops when this is dropped.
#[derive(Debug)]
pub struct PackageSource {
    port: u16,
    stop: Arc<AtomicBool>,
}

impl PackageSource {
    /// Serves a folder over HTTP on a free port of loopback.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn serve(dir: &Path) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("no free port on loopback")?;
        let port = listener.local_addr()?.port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let dir = dir.to_owned();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let dir = dir.clone();
                thread::spawn(move || {
                    // A client that goes away in the middle is the client's business.
                    let _ = answer(stream, &dir);
                });
            }
        });
        Ok(Self { port, stop })
    }

    /// The address as a machine in QEMU sees it.
    #[must_use]
    pub fn guest_url(&self) -> String {
        format!("http://10.0.2.2:{}/", self.port)
    }
}

impl Drop for PackageSource {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for the next connection.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Answers GET and HEAD for the files of one folder, as many as the client asks for.
fn answer(mut stream: TcpStream, dir: &Path) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.by_ref().take(8192).read_line(&mut request)? == 0 {
            return Ok(());
        }
        loop {
            let mut header = String::new();
            if reader.by_ref().take(8192).read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
        }
        let mut words = request.split_whitespace();
        let (method, path) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let file = served_file(dir, path).and_then(|path| File::open(path).ok());
        match file {
            Some(mut file) if method == "GET" || method == "HEAD" => {
                let length = file.metadata()?.len();
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
                )?;
                if method == "GET" {
                    std::io::copy(&mut file, &mut stream)?;
                }
            }
            _ => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        }
    }
}

/// The file that a path names, if it is a plain name below the folder.
fn served_file(dir: &Path, path: &str) -> Option<PathBuf> {
    let decoded = path
        .replace("%2b", "+")
        .replace("%2B", "+")
        .replace("%7e", "~")
        .replace("%7E", "~");
    let relative = Path::new(decoded.trim_start_matches('/'));
    let mut plain = PathBuf::new();
    for component in relative.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    let path = dir.join(plain);
    path.is_file().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_served_and_nothing_outside_of_the_folder_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("Packages"), "Package: x\n").unwrap();
        let source = PackageSource::serve(dir.path()).unwrap();
        let get = |path: &str| {
            let mut stream = TcpStream::connect(("127.0.0.1", source.port)).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        assert!(get("/./Packages").ends_with("Package: x\n"));
        assert!(get("/../../../etc/passwd").starts_with("HTTP/1.1 404"));
        assert!(get("/absent").starts_with("HTTP/1.1 404"));
    }
}
