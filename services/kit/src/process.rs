//! What a process knows of itself, for its health report.

use std::{fs::File, io, os::unix::fs::FileExt as _};

/// The resident memory of this process. The file is opened once, at the start, so that a process
/// which may open nothing later can still be asked.
#[derive(Debug)]
pub struct ResidentMemory {
    statm: File,
    page_bytes: u64,
}

impl ResidentMemory {
    /// Opens the kernel's account of this process.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn open() -> io::Result<Self> {
        let page_bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or(4096);
        Ok(Self {
            statm: File::open("/proc/self/statm")?,
            page_bytes,
        })
    }

    /// Bytes now; 0 when the kernel does not say.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let mut buffer = [0_u8; 128];
        let length = self.statm.read_at(&mut buffer, 0).unwrap_or(0);
        std::str::from_utf8(buffer.get(..length).unwrap_or_default())
            .ok()
            .and_then(|text| text.split_whitespace().nth(1))
            .and_then(|pages| pages.parse::<u64>().ok())
            .map_or(0, |pages| pages.saturating_mul(self.page_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_has_memory_and_more_after_it_took_some() {
        let resident = ResidentMemory::open().unwrap();
        let before = resident.bytes();
        assert!(before > 100_000, "{before}");
        let taken = vec![1_u8; 64 << 20];
        assert!(resident.bytes() > before + (32 << 20), "{}", taken.len());
    }
}
