//! What the boot was told: kernel arguments that begin with `aios.`, and the same keys from the
//! hypervisor's firmware configuration (`opt/aios/KEY`), which whoever owns the machine controls as
//! much as its disk.

use std::{collections::BTreeMap, fs, path::Path};

/// Firmware configuration of QEMU, as the kernel shows it.
const FIRMWARE: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/aios";
/// Longest value that is taken.
const MAX_VALUE: usize = 4096;

/// Keys and values; a key without a value has the empty one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Reads both sources; the kernel's arguments win.
    pub fn read() -> Self {
        let mut parameters = Self::default();
        if let Ok(entries) = fs::read_dir(FIRMWARE) {
            for entry in entries.flatten() {
                let key = entry.file_name().to_string_lossy().into_owned();
                let value = read_bounded(&entry.path().join("raw"));
                parameters.0.insert(key, value);
            }
        }
        parameters
            .0
            .extend(from_command_line(&read_bounded(Path::new("/proc/cmdline"))));
        parameters
    }

    /// Whether a key was given.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The value of a key, if it has one.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0
            .get(key)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

fn read_bounded(path: &Path) -> String {
    fs::read(path).map_or_else(
        |_| String::new(),
        |bytes| {
            String::from_utf8_lossy(bytes.get(..MAX_VALUE).unwrap_or(&bytes))
                .trim()
                .to_owned()
        },
    )
}

fn from_command_line(text: &str) -> BTreeMap<String, String> {
    text.split_whitespace()
        .filter_map(|word| word.strip_prefix("aios."))
        .map(|word| match word.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (word.to_owned(), String::new()),
        })
        .collect()
}

/// Whether a package source may be written into apt's list: a plain http or https address and
/// nothing that could begin another option or line.
pub fn is_package_source(address: &str) -> bool {
    (address.starts_with("http://") || address.starts_with("https://"))
        && address.len() <= 256
        && address
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b":/.-_~%+[]".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_our_arguments_are_taken() {
        let read = from_command_line(
            "quiet aios.check-medium aios.package-source=http://h/ root=/dev/sda",
        );
        assert_eq!(read.len(), 2);
        assert_eq!(read.get("check-medium").map(String::as_str), Some(""));
        assert_eq!(
            read.get("package-source").map(String::as_str),
            Some("http://h/")
        );
    }

    #[test]
    fn a_package_source_cannot_smuggle_a_second_line() {
        assert!(is_package_source("http://10.0.2.2:8099/"));
        assert!(!is_package_source("http://h/\ndeb http://evil/"));
        assert!(!is_package_source("http://h/ ./ [trusted=yes]"));
        assert!(!is_package_source("file:///etc"));
        assert!(!is_package_source(""));
    }

    proptest! {
        #[test]
        fn any_command_line_can_be_read(text in ".{0,200}") {
            let _ = from_command_line(&text);
        }
    }
}
