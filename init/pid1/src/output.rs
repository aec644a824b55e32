//! What units write: a pipe per unit whose reading end PID 1 keeps over every restart, the last
//! lines in memory, and a file that is rotated before it grows large.
//!
//! Invariants: reading never blocks; a line is cut at 4 KiB; a unit holds at most 64 KiB of memory
//! here; a full disk loses lines of the file and nothing else.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::PathBuf,
};

use rustix::{
    fs::{OFlags, fcntl_setfl},
    pipe::{PipeFlags, pipe_with},
};

/// A log file is rotated when it is larger than this.
const MAX_FILE: u64 = 4 << 20;
/// Longest line that is kept in memory.
const MAX_LINE: usize = 4 << 10;
/// Memory for the lines of one unit.
const MAX_KEPT: usize = 64 << 10;
/// Read from one unit in one turn of the loop, so that a flood of one does not starve the others.
const MAX_PER_TURN: usize = 64 << 10;

/// A file that is renamed to `NAME.1` when it is full.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    file: Option<File>,
    size: u64,
}

impl RotatingFile {
    /// Opens nothing yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            size: 0,
        }
    }

    /// Appends, or loses the bytes when the disk does not take them.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.size > MAX_FILE {
            self.file = None;
            let _ = fs::rename(&self.path, self.path.with_extension("log.1"));
        }
        if self.file.is_none() {
            self.file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o640)
                .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
                .open(&self.path)
                .ok();
            self.size = self
                .file
                .as_ref()
                .and_then(|file| file.metadata().ok())
                .map_or(0, |metadata| metadata.len());
        }
        let Some(file) = &mut self.file else {
            return;
        };
        match file.write_all(bytes) {
            Ok(()) => self.size += bytes.len() as u64,
            // Opened anew at the next line: the disk may have come back.
            Err(_) => self.file = None,
        }
    }
}

/// The output of one unit.
#[derive(Debug)]
pub struct Output {
    reader: OwnedFd,
    writer: OwnedFd,
    file: RotatingFile,
    lines: VecDeque<String>,
    kept: usize,
    partial: Vec<u8>,
}

impl Output {
    /// A pipe and a file that is opened when something is written.
    pub fn new(path: PathBuf) -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setfl(&reader, OFlags::NONBLOCK)?;
        Ok(Self {
            reader,
            writer,
            file: RotatingFile::new(path),
            lines: VecDeque::new(),
            kept: 0,
            partial: Vec::new(),
        })
    }

    /// The end that a process of the unit writes to.
    pub fn writer(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// The end that becomes readable.
    pub fn reader(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// Takes in what is there.
    pub fn take_in(&mut self) {
        let mut buffer = [0; 8 << 10];
        let mut left = MAX_PER_TURN;
        while left > 0 {
            let count = match rustix::io::read(&self.reader, &mut buffer) {
                Ok(count) if count > 0 => count,
                _ => return,
            };
            left = left.saturating_sub(count);
            let bytes = buffer.get(..count).unwrap_or_default();
            self.file.append(bytes);
            self.keep(bytes);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte != b'\n' && self.partial.len() < MAX_LINE {
                self.partial.push(byte);
                continue;
            }
            let line = String::from_utf8_lossy(&self.partial).into_owned();
            self.partial.clear();
            if byte != b'\n' {
                self.partial.push(byte);
            }
            self.kept += line.len() + 1;
            self.lines.push_back(line);
            while self.kept > MAX_KEPT {
                match self.lines.pop_front() {
                    Some(old) => self.kept -= old.len() + 1,
                    None => break,
                }
            }
        }
    }

    /// The last lines, oldest first.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let skip = self.lines.len().saturating_sub(count);
        let partial =
            (!self.partial.is_empty()).then(|| String::from_utf8_lossy(&self.partial).into_owned());
        self.lines
            .iter()
            .skip(skip)
            .cloned()
            .chain(partial)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_in_memory_and_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = Output::new(dir.path().join("u.log")).unwrap();
        rustix::io::write(output.writer(), b"one\ntwo\nthr").unwrap();
        output.take_in();
        assert_eq!(output.last_lines(10), ["one", "two", "thr"]);
        assert_eq!(output.last_lines(1), ["two", "thr"]);
        assert_eq!(
            fs::read(dir.path().join("u.log")).unwrap(),
            b"one\ntwo\nthr"
        );
    }

    #[test]
    fn a_flood_without_line_ends_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = Output::new(dir.path().join("u.log")).unwrap();
        for _ in 0..200 {
            rustix::io::write(output.writer(), &[b'x'; 8 << 10]).unwrap();
            output.take_in();
        }
        assert!(output.kept <= MAX_KEPT);
        assert!(
            output
                .last_lines(usize::MAX)
                .iter()
                .all(|line| line.len() <= MAX_LINE)
        );
    }

    #[test]
    fn a_full_file_is_rotated_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("u.log");
        let mut file = RotatingFile::new(path.clone());
        for _ in 0..5 {
            file.append(&vec![b'x'; 1 << 20]);
        }
        file.append(b"fresh\n");
        assert_eq!(fs::read(&path).unwrap(), b"fresh\n");
        assert!(fs::metadata(dir.path().join("u.log.1")).unwrap().len() > MAX_FILE);
    }

    #[test]
    fn a_directory_that_is_gone_loses_lines_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone").join("u.log");
        let mut file = RotatingFile::new(path.clone());
        file.append(b"lost\n");
        fs::create_dir(path.parent().unwrap()).unwrap();
        file.append(b"kept\n");
        assert_eq!(fs::read(path).unwrap(), b"kept\n");
    }
}
