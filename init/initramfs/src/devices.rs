//! Finding block devices by what is on them: the medium by its ISO 9660 volume label, the data disk
//! by its ext4 label. Only the few bytes that hold a label are read.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

/// Volume label of the medium.
pub const MEDIUM_LABEL: &str = "AIOS";
/// Label of the disk or partition that keeps what the machine writes.
pub const DATA_LABEL: &str = "AIOS-DATA";

/// The primary volume descriptor is in sector 16 of 2048 bytes: `\x01CD001`, and the label at 40.
const ISO_DESCRIPTOR: u64 = 16 * 2048;
/// The ext4 superblock begins at 1024; its magic is at 56 and its label at 120.
const EXT4_SUPERBLOCK: u64 = 1024;

/// What the search found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The medium.
    pub medium: Option<PathBuf>,
    /// The data disk.
    pub data: Option<PathBuf>,
}

/// Looks at every block device and partition that there is now.
pub fn find() -> Found {
    let mut names: Vec<String> = fs::read_dir("/sys/class/block").map_or_else(
        |_| Vec::new(),
        |entries| {
            entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .filter(|name| {
                    !["loop", "ram", "zram", "fd"]
                        .iter()
                        .any(|kind| name.starts_with(kind))
                })
                .collect()
        },
    );
    // A whole disk sorts before its partitions: the hybrid ISO on a stick is read as a whole.
    names.sort();
    let mut found = Found::default();
    for name in names {
        let device = Path::new("/dev").join(&name);
        if found.medium.is_none() && iso_label(&device).as_deref() == Some(MEDIUM_LABEL) {
            found.medium = Some(device);
        } else if found.data.is_none() && ext4_label(&device).as_deref() == Some(DATA_LABEL) {
            found.data = Some(device);
        }
    }
    found
}

fn iso_label(device: &Path) -> Option<String> {
    let mut sector = [0u8; 72];
    read_at(device, ISO_DESCRIPTOR, &mut sector)?;
    if !sector.starts_with(b"\x01CD001") {
        return None;
    }
    text(sector.get(40..72)?)
}

fn ext4_label(device: &Path) -> Option<String> {
    let mut superblock = [0u8; 136];
    read_at(device, EXT4_SUPERBLOCK, &mut superblock)?;
    if superblock.get(56..58)? != [0x53, 0xef] {
        return None;
    }
    text(superblock.get(120..136)?)
}

fn read_at(device: &Path, offset: u64, buffer: &mut [u8]) -> Option<()> {
    let mut file = File::open(device).ok()?;
    file.seek(SeekFrom::Start(offset)).ok()?;
    file.read_exact(buffer).ok()
}

fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    Some(
        String::from_utf8_lossy(bytes.get(..end)?)
            .trim_end()
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(parts: &[(u64, &[u8])]) -> tempfile::NamedTempFile {
        use std::io::Write as _;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 10).unwrap();
        for (offset, bytes) in parts {
            file.seek(SeekFrom::Start(*offset)).unwrap();
            file.write_all(bytes).unwrap();
        }
        file
    }

    #[test]
    fn labels_are_read_where_the_formats_keep_them() {
        let iso = disk(&[
            (32768, b"\x01CD001"),
            (32808, b"AIOS                            "),
        ]);
        assert_eq!(iso_label(iso.path()).as_deref(), Some("AIOS"));
        assert_eq!(ext4_label(iso.path()), None);
        let ext4 = disk(&[(1080, &[0x53, 0xef]), (1144, b"AIOS-DATA\0\0\0\0\0\0\0")]);
        assert_eq!(ext4_label(ext4.path()).as_deref(), Some("AIOS-DATA"));
        assert_eq!(iso_label(ext4.path()), None);
    }

    #[test]
    fn a_short_or_missing_device_has_no_label() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(iso_label(empty.path()), None);
        assert_eq!(ext4_label(Path::new("/nonexistent")), None);
    }
}
