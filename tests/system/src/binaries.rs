//! The programs under test, in the folder into which cargo puts them.

use std::{fs::File, path::PathBuf};

use anyhow::{Context as _, bail};

/// Opens a program. It is started through the open file, so that it need not lie where the account
/// that it runs under can look it up.
///
/// # Errors
/// When it has not been built, with the command that builds it.
pub(crate) fn open(name: &str) -> anyhow::Result<File> {
    let test = std::env::current_exe().context("where this test lies")?;
    // target/PROFILE/deps/TEST
    let folder: PathBuf = test
        .ancestors()
        .nth(2)
        .map(PathBuf::from)
        .unwrap_or_default();
    let path = folder.join(name);
    match File::open(&path) {
        Ok(file) => Ok(file),
        Err(error) => bail!(
            "{} cannot be opened ({error}); build it first: cargo build -p {}",
            path.display(),
            if name == "aios-agent" {
                "aios-agent"
            } else {
                name
            }
        ),
    }
}
