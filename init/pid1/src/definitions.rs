//! The services that were defined on this machine: one file each, and a mark beside it when the
//! service is to be started at boot.
//!
//! Invariant: a definition is complete on disk, or not there at all, whatever happens meanwhile.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use aios_init_core::{Unit, from_definition};
use aios_init_protocol::ServiceDefinition;

/// The directory of the definitions.
#[derive(Debug)]
pub struct Definitions {
    dir: PathBuf,
}

impl Definitions {
    /// Makes the directory if need be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.toml"))
    }

    fn mark(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.enabled"))
    }

    /// Every service that can be read, whether it is enabled, and what is wrong with the others.
    pub fn load(&self) -> (Vec<(Unit, bool)>, Vec<String>) {
        let mut units = Vec::new();
        let mut problems = Vec::new();
        let files = aios_config::toml_files(&self.dir).unwrap_or_else(|error| {
            problems.push(error.to_string());
            Vec::new()
        });
        for path in files {
            let definition = aios_config::load::<ServiceDefinition>(&path);
            let unit = definition
                .map_err(|error| error.to_string())
                .and_then(|definition| {
                    if path
                        .file_stem()
                        .is_none_or(|stem| *stem != *definition.name)
                    {
                        return Err(format!(
                            "{}: its name is `{}`",
                            path.display(),
                            definition.name
                        ));
                    }
                    from_definition(&definition)
                        .map_err(|error| format!("{}: {error}", path.display()))
                });
            match unit {
                Ok(unit) => {
                    let enabled = self.mark(&unit.name).exists();
                    units.push((unit, enabled));
                }
                Err(problem) => problems.push(problem),
            }
        }
        (units, problems)
    }

    /// The definition of a service, if there is one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn get(&self, name: &str) -> Result<Option<ServiceDefinition>, String> {
        let path = self.file(name);
        if !path.exists() {
            return Ok(None);
        }
        aios_config::load(&path)
            .map(Some)
            .map_err(|error| error.to_string())
    }

    /// Stores a definition.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn put(&self, definition: &ServiceDefinition) -> io::Result<()> {
        let text = toml::to_string(definition).map_err(io::Error::other)?;
        write_atomically(&self.file(&definition.name), text.as_bytes(), 0o644)
    }

    /// Keeps whether a service is started at boot.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn enable(&self, name: &str, enabled: bool) -> io::Result<()> {
        if enabled {
            return write_atomically(&self.mark(name), b"", 0o644);
        }
        remove(&self.mark(name))?;
        sync_dir(&self.dir)
    }

    /// Removes a definition.
    ///
    /// # Errors
    /// When the disk does not let go of it.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        remove(&self.mark(name))?;
        remove(&self.file(name))?;
        sync_dir(&self.dir)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Writes a file whole: under another name first, on disk, then renamed.
///
/// # Errors
/// When the disk does not take it; the old content then stays.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = dir.join(format!(".{name}.new"));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nginx() -> ServiceDefinition {
        ServiceDefinition {
            name: "nginx".into(),
            command: "/usr/sbin/nginx".into(),
            args: vec!["-g".into(), "daemon off;".into()],
            user: None,
            restart: Some("always".into()),
            after: vec![],
        }
    }

    #[test]
    fn a_definition_survives_and_can_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let definitions = Definitions::open(dir.path().join("services")).unwrap();
        definitions.put(&nginx()).unwrap();
        assert_eq!(definitions.get("nginx").unwrap(), Some(nginx()));
        definitions.enable("nginx", true).unwrap();
        let (units, problems) = definitions.load();
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!((units[0].0.name.as_str(), units[0].1), ("nginx", true));
        definitions.enable("nginx", false).unwrap();
        assert!(!definitions.load().0[0].1);
        definitions.remove("nginx").unwrap();
        assert_eq!(definitions.get("nginx").unwrap(), None);
        definitions.remove("nginx").unwrap();
    }

    #[test]
    fn a_file_that_is_wrong_costs_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let definitions = Definitions::open(dir.path().to_owned()).unwrap();
        definitions.put(&nginx()).unwrap();
        fs::write(dir.path().join("broken.toml"), "name = 3").unwrap();
        fs::write(
            dir.path().join("liar.toml"),
            "name = \"memory\"\ncommand = \"/bin/x\"",
        )
        .unwrap();
        let (units, problems) = definitions.load();
        assert_eq!(units.len(), 1);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("broken.toml:1:"), "{problems:?}");
    }
}
